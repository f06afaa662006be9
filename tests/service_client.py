"""A service with an encoder whose numbers can be checked by eye, and what to ask it."""

from __future__ import annotations

import base64

from fakes import FakeEncoder
from starlette.testclient import TestClient

from fewshot.service import create_app

HERE = "http://127.0.0.1"


def client(path, *, base_url=HERE, **settings) -> TestClient:
    """Serve a path; to be entered."""
    settings.setdefault("encoder", FakeEncoder(name="colours"))
    return TestClient(create_app(path, **settings), base_url=base_url, raise_server_exceptions=False)


def scope(method, path, **headers):
    """A request as a server hands it to the application."""
    sent = {"host": "localhost", "content-type": "application/json", **headers}
    return {
        "type": "http", "method": method, "path": path, "query_string": b"", "raw_path": b"", "root_path": "",
        "headers": [(name.encode(), value.encode()) for name, value in sent.items()], "scheme": "http",
        "http_version": "1.1", "client": None, "server": None,
    }  # fmt: skip


def files(*pictures, names=None):
    """Pictures as a multipart form."""
    names = names or [f"{n}.png" for n in range(len(pictures))]
    return [("images", (name, picture)) for name, picture in zip(names, pictures, strict=True)]


def in_base64(*pictures):
    """Pictures as JSON holds them."""
    return [base64.b64encode(picture).decode() for picture in pictures]


def problem(answer, status):
    """Check that an answer is a problem of this status, and return its detail."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert (set(body), body["status"]) == ({"type", "title", "status", "detail"}, status)
    return body["detail"]
