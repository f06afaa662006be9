"""A service with an encoder whose numbers can be checked by eye, and requests to it."""

from __future__ import annotations

import base64
import threading
import time

from fakes import FakeEncoder
from starlette.testclient import TestClient

from fewshot.service.app import create_app

HERE = "http://127.0.0.1"
PARTS = "/v1/registries/parts"


def client(path, *, base_url=HERE, **settings) -> TestClient:
    """A client of a service of a path; to be entered."""
    settings.setdefault("encoder", FakeEncoder(name="colours"))
    return TestClient(create_app(path, **settings), base_url=base_url, raise_server_exceptions=False)


def ready(http):
    """Wait until the encoder is loaded."""
    while http.get("/readyz").json()["status"] == "starting":
        time.sleep(0.001)


def scope(method, path, **headers):
    """A request as a server hands it to the application."""
    sent = {"host": "localhost", "content-type": "application/json", **headers}
    return {
        "type": "http", "method": method, "path": path, "query_string": b"", "raw_path": b"", "root_path": "",
        "headers": [(name.encode(), value.encode()) for name, value in sent.items()], "scheme": "http",
        "http_version": "1.1", "client": None, "server": None,
    }  # fmt: skip


def files(*images, names=None):
    """Images as a multipart form."""
    names = names or [f"{n}.png" for n in range(len(images))]
    return [("images", (name, image)) for name, image in zip(names, images, strict=True)]


def in_base64(*images):
    """Images as JSON holds them."""
    return [base64.b64encode(image).decode() for image in images]


def problem(answer, status):
    """Check that an answer is a problem of this status, and return its detail."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert (set(body), body["status"]) == ({"type", "title", "status", "detail"}, status)
    return body["detail"]


class Gated(FakeEncoder):
    """Records the size of each batch; each waits until the gate is open."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.batches, self.started, self.gate = [], threading.Event(), threading.Event()

    def encode(self, images):
        images = list(images)
        self.batches.append(len(images))
        self.started.set()
        assert self.gate.wait(20)
        return super().encode(images)


def queued(pool, images):
    """Wait until so many images are queued."""
    end = time.monotonic() + 20
    while pool.queued < images:
        assert time.monotonic() < end
        time.sleep(0.001)
