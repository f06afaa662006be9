"""A service in a process of its own, and requests to it, for attacks."""

from __future__ import annotations

import base64
import http.client
import itertools
import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from crash import ENCODERS, picture

PARTS = "/v1/registries/parts"
_CLASSES = 5
_START_SECONDS, _STOP_SECONDS = 120.0, 60.0
_processes = multiprocessing.get_context("forkserver")  # its children start at once, of a process without threads
_processes.set_forkserver_preload(["fewshot.service.app", "fewshot.registry.registry", "faiss", "sklearn.linear_model"])


@dataclass(frozen=True)
class Answer:
    """An answer to a request; its status is 0 where the connection failed."""

    kind: str
    status: int
    seconds: float
    body: Any

    @property
    def faulty(self) -> bool:
        """Whether it is an error of the server other than a refusal that says why."""
        says = isinstance(self.body, dict) and bool(self.body.get("detail"))
        return self.status >= 500 and not (self.status == 503 and says)


def _serve(folder: str, told: Any, log: str, seconds: float, label_studio: Any, image_seconds: float) -> None:
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    from fewshot.integrations.label_studio import label_studio_client
    from fewshot.service import create_app, server_process
    from fewshot.service.limits import Limits

    label_studio_client._DEADLINE_SECONDS = image_seconds  # else a test of it would take half a minute
    bound = server_process.listen("127.0.0.1", 0)
    app = create_app(folder, encoder=ENCODERS[0], limits=Limits(timeout_seconds=seconds), label_studio=label_studio)
    server_process.run(app, bound, lambda: told.send(server_process.url_of(bound)))


class Served:
    """A service of a folder; its log lies beside that, with the ending ``.log``."""

    def __init__(
        self,
        folder: Path,
        *,
        seconds: float = 60.0,
        label_studio: Any = None,
        image_seconds: float = 30.0,
        patience: float = 120.0,
    ) -> None:
        self._patience = patience  # of a client, in seconds
        self.folder, self.log = folder, folder.with_suffix(".log")
        reading, writing = _processes.Pipe(False)
        given = (os.fspath(folder), writing, os.fspath(self.log), seconds, label_studio, image_seconds)
        self.process = _processes.Process(target=_serve, args=given)
        self.process.start()
        writing.close()
        self.url = reading.recv() if reading.poll(_START_SECONDS) else ""
        self.place = urlsplit(self.url).netloc
        end = time.monotonic() + _START_SECONDS
        while self.ask("GET", "/readyz").status != 200:
            if time.monotonic() > end or not self.process.is_alive():
                raise RuntimeError(f"the service did not start: {self.log.read_text()[-2000:]}")
            time.sleep(0.02)

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.join()

    @property
    def pid(self) -> int:
        """The number of the process."""
        assert self.process.pid
        return self.process.pid

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        os.kill(self.pid, number)

    def ended(self) -> int | None:
        """Wait for the end of the process; returns its exit status, negative for a signal, None if it goes on."""
        self.process.join(_STOP_SECONDS)
        return self.process.exitcode

    def resident(self) -> int:
        """Bytes of memory in use."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def reserved(self) -> int:
        """Bytes of address space."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")

    def descriptors(self) -> int:
        """How many descriptors are open."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def ask(
        self, method: str, path: str, body: Any = None, *, kind: str = "", by: http.client.HTTPConnection | None = None
    ) -> Answer:
        """Send a request, with a body in JSON, over a connection of its own unless one is given."""
        connection = by or http.client.HTTPConnection(self.place, timeout=self._patience)
        begun = time.perf_counter()
        status, data = 0, b""
        with suppress(OSError, http.client.HTTPException):
            headers = {"Content-Type": "application/json", "Host": "localhost"}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            data, status = answer.read(), answer.status
        if by is None or not status:
            connection.close()
        try:
            found = json.loads(data)
        except ValueError:
            found = data
        return Answer(kind or f"{method} {path}", status, time.perf_counter() - begun, found)

    def predict(self, *images: bytes, by: http.client.HTTPConnection | None = None) -> Answer:
        """Ask for the classes of images."""
        return self.ask("POST", f"{PARTS}/predict", {"images": _coded(images)}, kind="predict", by=by)

    def add(self, label: str, *images: bytes, by: http.client.HTTPConnection | None = None) -> Answer:
        """Add images to a class."""
        body = {"label": label, "images": _coded(images)}
        return self.ask("POST", f"{PARTS}/examples", body, kind="add", by=by)


def _coded(images: tuple[bytes, ...]) -> list[str]:
    return [base64.b64encode(image).decode() for image in images]


@dataclass
class Load:
    """Threads that add, predict and list until told to stop; of the adds, those sent and those acknowledged."""

    served: Served
    threads: int = 6
    answers: list[Answer] = field(default_factory=list)
    sent: set[int] = field(default_factory=set)
    acknowledged: set[int] = field(default_factory=set)
    pause: float = 0.0

    @contextmanager
    def running(self) -> Iterator[Load]:
        """Let the threads work while the block runs."""
        numbers, stopping = itertools.count(100), threading.Event()

        def work() -> None:
            while not stopping.is_set():
                number = next(numbers)
                if number % 3 == 0:
                    self.sent.add(number)
                    answer = self.served.add(f"class {number % _CLASSES}", picture(number))
                    if answer.status == 200 and answer.body["added"] == 1:
                        self.acknowledged.add(number)
                elif number % 3 == 1:
                    answer = self.served.predict(picture(number))
                else:
                    answer = self.served.ask("GET", ("/v1/registries", f"{PARTS}/classes", PARTS)[number % 9 // 3])
                self.answers.append(answer)
                time.sleep(0.05 if not answer.status else self.pause)

        workers = [threading.Thread(target=work) for _ in range(self.threads)]
        for worker in workers:
            worker.start()
        try:
            yield self
        finally:
            stopping.set()
            for worker in workers:
                worker.join()
