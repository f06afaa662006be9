"""Errors of the REST interface: their status, what they say, and that nothing is changed."""

from __future__ import annotations

import asyncio
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from fakes import BLUE, RED, FakeEncoder, png, run_python
from service_client import PARTS, client, files, problem, ready, scope

from fewshot.service.app import create_app
from fewshot.service.registry_pool import RegistryPool

JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("method", "url", "sent", "status", "says"),
    [
        ("GET", "/v1/nothing", {}, 404, "there is nothing at /v1/nothing"),
        ("PUT", "/v1/registries", {}, 405, "PUT is not possible at /v1/registries, only GET, POST"),
        ("PUT", "/page/app.js", {}, 405, "PUT is not possible at /page/app.js, only GET, HEAD"),
        ("GET", "/v1/registries/other", {}, 404, "no registry 'other'; there is 'parts'"),
        ("GET", "/v1/registries/a%20b", {}, 422, "'a b' cannot name a registry"),
        ("POST", "/v1/registries", {"json": {"name": "new"}}, 409, "no folder to create others in"),
        ("DELETE", f"{PARTS}/classes?label=ret", {}, 404, "no class 'ret' in parts; did you mean 'red'?"),
        ("DELETE", f"{PARTS}/classes", {}, 422, "query.label: Field required"),
        ("PATCH", f"{PARTS}/classes?label=ret", {"json": {"label": "x"}}, 404, "no class 'ret'"),
        ("PATCH", f"{PARTS}/classes?label=red", {"json": {"label": " "}}, 422, "must hold something to read"),
        ("PATCH", f"{PARTS}/classes?label=red", {"json": {"lable": "x"}}, 422, "body.lable: Extra inputs"),
        ("PATCH", f"{PARTS}/classes?label=red", {"content": b"{", "headers": JSON}, 422, "JSON, from its character 1"),
        ("PATCH", f"{PARTS}/classes?label=red", {"content": b"\xe9", "headers": JSON}, 400, "not UTF-8 text"),
        ("GET", f"{PARTS}/examples?label=ret", {}, 404, "no class 'ret'"),
        ("GET", f"{PARTS}/examples?limit=0", {}, 422, "greater than or equal to 1"),
        ("PATCH", f"{PARTS}/examples/9", {"json": {"label": "x"}}, 404, "no example 9 in parts"),
        ("PATCH", f"{PARTS}/examples/1", {"json": {"label": "a\nb"}}, 422, "no control characters"),
        ("PATCH", f"{PARTS}/examples/1", {"json": {"label": "x" * 1001}}, 422, "at most 1000 characters"),
        ("DELETE", f"{PARTS}/examples/9", {}, 404, "no example 9 in parts"),
        ("GET", f"{PARTS}/examples/9/image", {}, 404, "no example 9 in parts"),
        ("GET", f"{PARTS}/examples/9/thumbnail", {}, 404, "no example 9 in parts"),
        ("GET", f"{PARTS}/examples/1/thumbnail?size=9999", {}, 422, "less than or equal to 512"),
        ("GET", f"{PARTS}/examples/{2**70}/image", {}, 422, "less than or equal to"),
        ("POST", f"{PARTS}/predict", {}, 415, "multipart/form-data"),
        ("POST", f"{PARTS}/predict", {"content": png(RED), "headers": {"Content-Type": "image/png"}}, 415, "image/png"),
        ("POST", f"{PARTS}/predict", {"json": {"images": []}}, 422, "at least 1 item"),
        ("POST", f"{PARTS}/predict", {"json": {"images": [1]}}, 422, "images.0: Input should be a valid string"),
        ("POST", f"{PARTS}/predict", {"json": []}, 422, "body: Input should be an object"),
        ("POST", f"{PARTS}/predict", {"content": b"{", "headers": JSON}, 422, "JSON"),
        ("POST", f"{PARTS}/predict", {"files": {"file": b"x"}}, 422, "a file came in the field 'file'"),
        ("POST", f"{PARTS}/predict", {"files": {"images": (None, b"x")}}, 422, "not a file with a file name"),
        ("POST", f"{PARTS}/predict?top=0", {"files": files(b"x")}, 422, "query.top"),
        ("POST", f"{PARTS}/predict?max_false_accept=2", {"files": files(b"x")}, 422, "query.max_false_accept"),
        ("POST", f"{PARTS}/predict", {"files": files(*[b"x"] * 9)}, 413, "9 examples in one request; at most 8"),
        ("POST", f"{PARTS}/predict", {"json": {"images": ["AA"] * 9}}, 413, "9 examples in one request; at most 8"),
        ("POST", f"{PARTS}/predict", {"data": {"label": "x"}, "files": files(b"x")}, 422, "label: Extra inputs"),
        ("POST", f"{PARTS}/examples", {"files": files(b"x")}, 422, "label: Field required"),
        ("POST", f"{PARTS}/examples", {"json": {"images": ["AA"]}}, 422, "label: Field required"),
        ("POST", f"{PARTS}/examples", {"data": {"label": ""}, "files": files(b"x")}, 422, "something to read"),
        ("PUT", f"{PARTS}/rejection", {"json": {"max_false_accept": 1}}, 422, "less than 1"),
        ("PUT", f"{PARTS}/rejection", {"json": {"max_false_accept": 5e-324}}, 422, "equal to 0.000001"),
        ("DELETE", f"{PARTS}/negatives/5", {}, 404, "no negative 5 in parts"),
    ],
)  # fmt: skip
def test_an_error_is_a_problem_that_says_what_is_wrong_and_changes_nothing(
    two_classes, method, url, sent, status, says
):
    before = two_classes.get(PARTS).json()
    assert says in problem(two_classes.request(method, url, **sent), status)
    assert two_classes.get(PARTS).json() == before


def test_an_incomplete_form_is_a_problem(two_classes):
    torn = two_classes.post(
        f"{PARTS}/predict", content=b"--x\r\nContent-", headers={"Content-Type": "multipart/form-data; boundary=x"}
    )
    assert 400 <= torn.status_code < 500
    problem(torn, torn.status_code)
    unbounded = two_classes.post(f"{PARTS}/predict", content=b"x", headers={"Content-Type": "multipart/form-data"})
    assert "boundary" in problem(unbounded, 400)


def test_a_client_that_disconnects_is_no_error_of_the_server(tmp_path, caplog):
    app = create_app(tmp_path / "parts.fewshot", encoder=FakeEncoder())
    came = iter([{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}])
    sent = []

    async def receive():
        return next(came)

    async def send(message):
        sent.append(message)

    asyncio.run(app(scope("POST", f"{PARTS}/predict"), receive, send))
    assert sent[0]["status"] == 400
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes")])
def test_too_little_memory_is_a_503_of_the_request_that_needs_more_and_of_no_other(tmp_path, error, caplog):
    class Hungry(FakeEncoder):
        def encode(self, images):
            vectors = super().encode(images)
            if vectors[:, 2].any():
                raise error
            return vectors

    with client(tmp_path / "parts.fewshot", encoder=Hungry()) as http:
        http.post(f"{PARTS}/examples", data={"label": "red"}, files=files(png(RED)))
        for _ in range(2):
            answer = http.post(f"{PARTS}/predict", files=files(png(BLUE)))
            assert "the server has too little memory for this request now" in problem(answer, 503)
            assert answer.headers["retry-after"] == "5"
            assert http.post(f"{PARTS}/predict", files=files(png(RED))).json()["predictions"][0]["label"] == "red"
    assert not [record for record in caplog.records if record.exc_info]


def test_too_little_memory_outside_of_a_registry_is_a_503_too(tmp_path, monkeypatch):
    def short(*_, **__):
        raise RuntimeError("can't start new thread")

    with client(tmp_path / "parts.fewshot") as http:
        monkeypatch.setattr("fewshot.service.worker_threads.WorkerThreads.run", short)
        assert "too little memory" in problem(http.get(f"{PARTS}/classes"), 503)
        monkeypatch.setattr("fewshot.service.routes.prediction_routes.read_upload", short)
        assert "too little memory" in problem(http.post(f"{PARTS}/predict", files=files(png(RED))), 503)
        monkeypatch.undo()
        assert http.get(f"{PARTS}/classes").status_code == 200


def test_requests_begin_no_threads_in_the_event_loop(tmp_path, monkeypatch):
    arrived = threading.Semaphore(0)  # Python waits for ever for a thread that has no memory to begin
    with client(tmp_path / "parts.fewshot") as http:
        ready(http)
        loop, begin = http.portal.call(threading.current_thread), threading.Thread.start
        begun = []

        def start(thread):
            begun.extend([thread.name] * (threading.current_thread() is loop))
            begin(thread)

        def names(registries):
            arrived.release()
            assert all_there.wait(10)
            return []

        all_there = threading.Event()
        monkeypatch.setattr(threading.Thread, "start", start)
        monkeypatch.setattr(RegistryPool, "names", names)
        with ThreadPoolExecutor(4) as pool:
            answers = [pool.submit(http.get, "/v1/registries") for _ in range(4)]
            for _ in answers:
                assert arrived.acquire(timeout=10)
            all_there.set()
        assert [answer.result().status_code for answer in answers] == [200] * 4
        assert begun == []


_LITTLE_MEMORY = """
import resource, sys
from fakes import BLUE, RED, png
from service_client import PARTS, client, files, ready

def add(label, colour):
    return http.post(f"{PARTS}/examples", data={"label": label}, files=files(png(colour), png(colour, 5)))

large = png(size=9000)
with client(sys.argv[1], encoder=None) as http:
    ready(http)
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    loaded = set(sys.modules)
    resource.setrlimit(resource.RLIMIT_AS, (used + 200 * 2**20, resource.RLIM_INFINITY))
    answers = [
        add("red", RED), add("blue", BLUE),
        http.post(f"{PARTS}/predict", files=files(png(BLUE))),
        http.post(f"{PARTS}/negatives", files=files(png((9, 200, 9)))),
        http.put(f"{PARTS}/rejection", json={"max_false_accept": 0.5}),
        http.get(f"{PARTS}/examples/1/thumbnail"), http.get(f"{PARTS}/examples?label=rde"),
        http.post(f"{PARTS}/predict", files=files(large)),
        http.post(f"{PARTS}/predict", files=files(png(RED))),
    ]
print([answer.status_code for answer in answers], sorted(set(sys.modules) - loaded))
print(answers[-2].json()["predictions"][0]["error"])
print(answers[-1].json()["predictions"][0]["label"])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS is Linux's")
def test_all_that_requests_need_is_loaded_before_the_server_is_ready(tmp_path):
    ended = run_python(_LITTLE_MEMORY, tmp_path / "parts.fewshot")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines() == [
        "[200, 200, 200, 200, 200, 200, 404, 200, 200] []",
        "there is not enough memory for its 9000 x 9000 pixels; scale it down",
        "red",
    ]


def test_an_internal_error_tells_clients_nothing_of_its_cause(tmp_path, caplog):
    class Broken(FakeEncoder):
        def encode(self, images):
            raise RuntimeError("secret of the house")

    with client(tmp_path / "parts.fewshot", encoder=Broken()) as http:
        answer = http.post(f"{PARTS}/examples", data={"label": "red"}, files=files(png(RED)))
        assert "secret" not in problem(answer, 500)
        assert http.get("/healthz").json()["status"] == "ok"
