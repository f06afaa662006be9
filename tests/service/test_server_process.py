"""The service as a process: its options, its messages, and its shutdown."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import closing, contextmanager

import pytest
from click.testing import CliRunner
from fakes import RED, ROOT, FakeEncoder, png

from fewshot.cli import main
from fewshot.service import server_process
from fewshot.service.app import create_app
from fewshot.service.limits import Limits

TOKEN = "0123456789abcdef" * 2


def call(*args, status=1):
    result = CliRunner().invoke(main, ["serve", *map(str, args)])
    assert result.exit_code == status, (result.stdout, result.stderr, result.exception)
    return result


@pytest.fixture
def token_file(tmp_path):
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    path.chmod(0o600)
    return path


@pytest.fixture
def served(monkeypatch):
    """What would have been served."""
    seen = []

    def run(app, bound, ready):
        ready()
        seen.append((app, bound.getsockname()[1]))
        bound.close()

    monkeypatch.setattr(server_process, "run", run)
    return seen


@pytest.fixture
def quick(monkeypatch):
    """No network is loaded."""
    monkeypatch.setattr("fewshot.encoders.load_encoder", lambda name: FakeEncoder(name=name))


def test_a_folder_is_served_at_any_free_port_and_the_url_printed(tmp_path, served, quick):
    result = call(tmp_path / "parts", "--port", 0, status=0)
    ((app, port),) = served
    assert json.loads(result.stdout) == {"url": f"http://127.0.0.1:{port}"}
    assert f"serving {tmp_path / 'parts'} at http://127.0.0.1:{port}; stop with Ctrl-C" in result.stderr
    assert app.state.registries.folder == tmp_path / "parts"
    assert (tmp_path / "parts").is_dir()
    app.state.registries.close()


def test_other_machines_are_served_only_with_a_token(tmp_path, token_file, served, quick):
    for host in ("0.0.0.0", "::", "192.0.2.1"):
        result = call(tmp_path / "parts", "--host", host)
        assert f"{host} can be reached by others, so a token is required: give --token-file" in result.stderr
    assert served == []
    assert not (tmp_path / "parts").exists()
    call(tmp_path / "parts", "--host", "0.0.0.0", "--port", 0, "--token-file", token_file, status=0)
    served[0][0].state.registries.close()


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
@pytest.mark.parametrize(
    ("text", "mode", "says"),
    [
        (TOKEN, 0o644, "can be read by others than its owner (mode 644); do: chmod 600"),
        (TOKEN, 0o640, "mode 640"),
        ("\n", 0o600, "holds no token; make one with: (umask 077; openssl rand -hex 32 >"),
        ("short", 0o600, "one word of 16 ASCII characters or more, not of 5"),
        ("two words of many letters", 0o600, "must be one word"),
        ("ü" * 20, 0o600, "must be one word"),
    ],
)
def test_a_token_that_protects_nothing_is_refused(tmp_path, token_file, text, mode, says, served):
    token_file.write_text(text, encoding="utf-8")
    token_file.chmod(mode)
    stderr = call(tmp_path / "parts", "--token-file", token_file).stderr
    assert says in stderr
    assert text.strip() not in stderr or not text.strip()
    assert served == []


def test_a_token_is_read_without_the_line_end(token_file):
    assert server_process.read_token(str(token_file)) == TOKEN


def test_a_missing_token_file_and_a_taken_port_are_errors_of_one_line(tmp_path, served):
    assert "No such file" in call(tmp_path / "parts", "--token-file", tmp_path / "none").stderr
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        stderr = call(tmp_path / "parts", "--port", port).stderr
    assert stderr == f"Error: port {port} of 127.0.0.1 is taken; give another with --port, or 0 for any\n"
    assert "cannot listen at 192.0.2.1" in refusal(lambda: server_process.listen("192.0.2.1", 0))
    assert "cannot listen at no.such.host.invalid" in refusal(lambda: server_process.listen("no.such.host.invalid", 0))
    assert served == []


def refusal(attempt):
    with pytest.raises(ValueError, match="cannot") as caught:
        attempt()
    return str(caught.value)


def test_what_cannot_be_served_is_an_error_before_anything_is_served(tmp_path, served):
    (tmp_path / "photo.jpg").write_bytes(png(RED))
    assert "photo.jpg is named as an image; give a registry" in call(tmp_path / "photo.jpg", "--port", 0).stderr
    unknown = call(tmp_path / "parts", "--port", 0, "--encoder", "resnte50").stderr
    assert "did you mean resnet50" in unknown
    assert len(unknown.splitlines()) == 1
    assert served == []


def test_an_ipv6_address_is_shown_in_brackets():
    try:
        bound = server_process.listen("::1", 0)
    except ValueError:
        pytest.skip("this machine has no IPv6")
    with bound:
        assert server_process.url_of(bound) == f"http://[::1]:{bound.getsockname()[1]}"


@pytest.mark.skipif(sys.platform != "linux", reason="a setting of Linux's")
def test_a_connection_whose_client_reads_nothing_times_out(tmp_path, monkeypatch):
    accepted = []

    def serve(self, sockets):
        with socket.create_connection(sockets[0].getsockname()), sockets[0].accept()[0] as connection:
            accepted.append(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT))

    monkeypatch.setattr(server_process._Server, "run", serve)
    for logger in map(logging.getLogger, ("fewshot.service", "uvicorn.error")):  # as they were for later tests
        for setting in ("handlers", "propagate", "level"):
            monkeypatch.setattr(logger, setting, getattr(logger, setting))
    app = create_app(tmp_path, encoder=FakeEncoder(), limits=Limits(timeout_seconds=1.5))
    server_process.run(app, server_process.listen("127.0.0.1", 0), lambda: None)
    assert accepted == [1500]


_SERVER = """
import sys, time
from pathlib import Path
from fakes import FakeEncoder
from fewshot.service import create_app, server_process

class Slow(FakeEncoder):
    def encode(self, images):
        Path(sys.argv[2]).touch()
        while not Path(sys.argv[3]).exists():
            time.sleep(0.01)
        return super().encode(images)

bound = server_process.listen("127.0.0.1", 0)
server_process.run(create_app(sys.argv[1], encoder=Slow()), bound,
                   lambda: print(server_process.url_of(bound), flush=True))
"""


@contextmanager
def running(warm_python, script, *args):
    """A server process, its URL, and the lines that it logs, once it has ended."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    server = subprocess.Popen(
        [*warm_python, "-c", script, *map(str, args)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    log = []
    try:
        yield server, server.stdout.readline().strip(), log
    finally:
        server.kill()
        log += server.communicate()[1].splitlines()


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
def test_on_sigterm_it_finishes_requests_in_progress_accepts_no_more_and_exits_with_0(tmp_path, warm_python):
    started, go = tmp_path / "started", tmp_path / "go"
    with running(warm_python, _SERVER, tmp_path / "parts.fewshot", started, go) as (server, url, log):
        answers = []
        asking = threading.Thread(target=lambda: answers.append(add(url)))
        asking.start()
        wait_for(started.exists)
        server.send_signal(signal.SIGTERM)
        wait_for(lambda: not answers_at(url))
        assert server.poll() is None
        go.touch()
        asking.join(60)
        assert answers[0]["added"] == 1
        assert server.wait(60) == 0
    lines = [json.loads(line) for line in log]
    assert {line["event"] for line in lines} == {"request"}
    assert (lines[-1]["path"], lines[-1]["status"]) == ("/v1/registries/parts/examples", 200)


_SHORT_GRACE = """
import sys
from fakes import FakeEncoder
from fewshot.service import Limits, create_app, server_process

server_process._GRACE_SECONDS = 1 - 20
bound = server_process.listen("127.0.0.1", 0)
server_process.run(create_app(sys.argv[1], encoder=FakeEncoder(), limits=Limits(timeout_seconds=20)), bound,
                   lambda: print(server_process.url_of(bound), flush=True))
"""


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
def test_on_sigterm_requests_that_wait_for_a_locked_registry_are_answered_with_503_and_it_exits_with_0(
    tmp_path, warm_python
):
    answers = []
    with running(warm_python, _SHORT_GRACE, tmp_path / "parts.fewshot") as (server, url, log):
        wait_for(lambda: answers_at(url, "readyz"))
        with closing(sqlite3.connect(tmp_path / "parts.fewshot", isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            asking = [threading.Thread(target=lambda: answers.append(refused(url))) for _ in range(4)]
            for thread in asking:
                thread.start()
            wait_for(lambda: "fewshot_requests_in_flight 5.0" in metrics(url))
            server.send_signal(signal.SIGTERM)
            for thread in asking:
                thread.join(60)
            assert server.wait(60) == 0
    assert [(status, again) for status, _, again in answers] == [(503, True)] * 4
    assert "Traceback" not in "".join(log)


_STUCK = """
import time
from pathlib import Path
from fewshot import ClassRegistry

def stuck(registry):
    Path(sys.argv[2]).touch()
    while not Path(sys.argv[3]).exists():
        time.sleep(0.01)
    return {}

ClassRegistry.classes = stuck
"""


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
def test_a_request_still_in_progress_when_the_graceful_time_is_over_is_answered_with_503(tmp_path, warm_python):
    started, go, answers = tmp_path / "started", tmp_path / "go", []
    script = _SHORT_GRACE.replace("\nserver_process._GRACE", f"{_STUCK}\nserver_process._GRACE")
    with running(warm_python, script, tmp_path / "parts.fewshot", started, go) as (server, url, log):
        asking = threading.Thread(target=lambda: answers.append(refused(url)))
        asking.start()
        wait_for(started.exists)
        server.send_signal(signal.SIGTERM)
        asking.join(60)
        go.touch()
        assert server.wait(60) == 0
    assert answers == [(503, "the server is stopping; retry later", True)]
    assert "Traceback" not in "".join(log)


def refused(url):
    """The status and detail of the problem that the classes are answered with, and whether it says when to retry."""
    try:
        with urllib.request.urlopen(f"{url}/v1/registries/parts/classes", timeout=60) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)["detail"], "Retry-After" in error.headers


def metrics(url):
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:
        return answer.read().decode()


def add(url):
    body = b'--x\r\nContent-Disposition: form-data; name="label"\r\n\r\nred\r\n'
    body += (
        b'--x\r\nContent-Disposition: form-data; name="images"; filename="a.png"\r\n\r\n' + png(RED) + b"\r\n--x--\r\n"
    )
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    request = urllib.request.Request(f"{url}/v1/registries/parts/examples", body, headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def answers_at(url, path="healthz"):
    try:
        with urllib.request.urlopen(f"{url}/{path}", timeout=10):
            return True
    except (urllib.error.URLError, ConnectionError):
        return False


def wait_for(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
