"""Python commands that start at once: each is forked from a process that has imported what such commands need.

``python -S warm_python.py SOCKET -m fewshot ...`` does what ``python -m fewshot ...`` does, and ``-c`` likewise, while
``python warm_python.py SOCKET`` runs: in the same folder and environment, with the same streams, signals and status.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys

PRELOADED = ("fewshot.cli", "fewshot.service.app", "uvicorn", "torch", "timm", "sklearn.linear_model", "faiss")


def ask(path: str, words: list[str]) -> int:
    """Have a command run; returns its exit status, negative for a signal."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        asked = json.dumps([words, os.getcwd(), dict(os.environ)]).encode()
        socket.send_fds(connection, [f"{len(asked):<16}".encode()], [0, 1, 2])
        connection.sendall(asked)
        answers = connection.makefile()
        pid = int(answers.readline())
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, _: os.kill(pid, number))
        return int(answers.readline())


def serve(path: str) -> None:
    """Fork for each command that is asked for, once what commands need is there, the bundled network too."""
    import numpy as np
    from shared_pocket import shared_pocket

    from fewshot import TimmEncoder

    for name in PRELOADED:
        __import__(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # those who follow a command are not waited for
    with shared_pocket(), socket.socket(socket.AF_UNIX) as listening:
        TimmEncoder("pocket").encode([np.zeros((8, 8, 3), np.uint8)])
        listening.bind(path)
        listening.listen()
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while sys.stdin not in select.select([listening, sys.stdin], [], [])[0]:  # which ends with whoever started this
            connection, _ = listening.accept()
            if os.fork() == 0:
                follow(connection)
                os._exit(0)
            connection.close()


def follow(connection: socket.socket) -> None:
    """Start a command and report its exit status; it is killed once whoever asked for it has gone."""
    import multiprocessing.connection

    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    length, streams, _, _ = socket.recv_fds(connection, 16, 3)
    with connection.makefile("rb") as asked:
        given = json.loads(asked.read(int(length)))
    command = multiprocessing.get_context("fork").Process(target=run, args=(streams, *given))
    command.start()
    for stream in streams:
        os.close(stream)
    connection.sendall(f"{command.pid}\n".encode())
    if command.sentinel in multiprocessing.connection.wait([command.sentinel, connection]):
        command.join()
        connection.sendall(f"{command.exitcode}\n".encode())
    else:
        command.kill()


def run(streams: list[int], words: list[str], folder: str, environment: dict[str, str]) -> None:
    """Be the command, in a process of its own."""
    import runpy

    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdin = os.fdopen(0)  # multiprocessing has closed it
    signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background have it ignored
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:1] = ["", *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    kind, code, *arguments = words
    sys.argv = [code if kind == "-m" else kind, *arguments]
    if kind == "-m":
        runpy.run_module(code, run_name="__main__", alter_sys=True)
    else:
        exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})


if __name__ == "__main__":
    _, where, *given = sys.argv
    if not given:
        serve(where)
        os._exit(0)  # at once
    status = ask(where, given)
    if status == -signal.SIGKILL:
        os.kill(os.getpid(), signal.SIGKILL)
    sys.exit(status if status >= 0 else 128 - status)  # as a shell says
