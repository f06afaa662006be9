"""A Label Studio that serves pictures and an export, and what it sends, as recorded from 1.23.2."""

from __future__ import annotations

import copy
import json
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

TOKEN = "0123456789abcdef0123456789abcdef01234567"
CREATED = 1795241756
CHOICES = (
    '<View><Image name="image" value="$image"/><Choices name="choice" toName="image" choice="single" '
    'showInLine="true"><Choice value="Red"/><Choice value="Blue"/></Choices></View>'
)
SEVERAL = CHOICES.replace("single", "multiple")
BOXES = (
    '<View><Image name="image" value="$image"/><RectangleLabels name="box" toName="image"><Label value="Red"/>'
    '<Label value="Blue"/></RectangleLabels><BrushLabels name="brush" toName="image"><Label value="Red"/>'
    '<Label value="Blue"/></BrushLabels></View>'
)


class FakeLabelStudio(ThreadingHTTPServer):
    """Serves ``pictures`` by their addresses and ``tasks`` as its export; keeps the (path, token) of each request.

    With ``drips``, it answers that and then one byte after another until ``stops`` is set; ``headers`` come with each
    answer.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.pictures: dict[str, bytes] = {}
        self.redirects: dict[str, str] = {}
        self.tasks: list[dict] = []
        self.asked: list[tuple[str, str | None]] = []
        self.cookies: list[str | None] = []
        self.hosts: list[str | None] = []
        self.tokens = {f"Token {TOKEN}"}
        self.fails: int | None = None
        self.drips: bytes | None = None
        self.stops = threading.Event()
        self.headers: dict[str, str] = {}
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: FakeLabelStudio

    def do_GET(self) -> None:
        path, token = unquote(self.path), self.headers.get("Authorization")
        self.server.asked.append((path, token))
        self.server.cookies.append(self.headers.get("Cookie"))
        self.server.hosts.append(self.headers.get("Host"))
        if self.server.drips is not None:
            self._drip(self.server.drips)
        elif self.server.fails is not None:
            self._send(self.server.fails, b"")
        elif token not in self.server.tokens:
            self._send(401, b"{}")
        elif path in self.server.redirects:
            self._send(302, b"", Location=self.server.redirects[path])
        elif path == "/api/projects/2/export?exportType=JSON":
            self._send(200, json.dumps(self.server.tasks).encode())
        elif path in self.server.pictures:
            self._send(200, self.server.pictures[path])
        else:
            self._send(404, b"{}")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, json.dumps(body)))
        self._send(200 if body == {"refresh": "a.personal.token"} else 401, b'{"access": "short-lived"}')

    def _drip(self, beginning: bytes) -> None:
        """Answer with this, then a byte at a time, for as long as anyone listens, or until it stops."""
        with suppress(OSError):
            self.wfile.write(beginning)
            while not self.server.stops.wait(0.005):
                self.wfile.write(b"x")
        self.close_connection = True

    def _send(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **self.server.headers, **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def setup(server: FakeLabelStudio, config: str = CHOICES) -> dict:
    return {
        "project": f"2.{CREATED}",
        "schema": config,
        "hostname": server.url,
        "access_token": TOKEN,
        "extra_params": None,
    }


def task(id_: int, image: str, **fields) -> dict:
    return {
        "id": id_,
        "data": {"image": image},
        "meta": {},
        "created_at": "2026-11-21T06:15:57.220945Z",
        "updated_at": "2026-11-21T06:15:57.220951Z",
        "is_labeled": False,
        "overlap": 1,
        "inner_id": id_,
        "total_annotations": 0,
        "cancelled_annotations": 0,
        "total_predictions": 0,
        "comment_count": 0,
        "project": 2,
        "file_upload": None,
        "annotations": [],
        "predictions": [],
        **fields,
    }


def predict(*tasks: dict, config: str = CHOICES, context: object = None) -> dict:
    return {
        "tasks": list(tasks),
        "project": f"2.{CREATED}",
        "label_config": config,
        "params": {"login": None, "password": None, "context": context},
    }


def chosen(*labels: str) -> dict:
    return {"from_name": "choice", "to_name": "image", "type": "choices", "value": {"choices": list(labels)}}


def boxed(label: str | None, x: float, y: float, width: float, height: float, *, id_: str = "r1", **fields) -> dict:
    value = {"x": x, "y": y, "width": width, "height": height, "rotation": 0}
    return {
        "id": id_,
        "from_name": "box",
        "to_name": "image",
        "type": "rectanglelabels",
        "original_width": 8,
        "original_height": 4,
        "image_rotation": 0,
        "value": value if label is None else {**value, "rectanglelabels": [label]},
        **fields,
    }


def annotation(id_: int, task_: int, *results: dict, second: float = 58.0, **fields) -> dict:
    return {
        "id": id_,
        "result": list(results),
        "was_cancelled": False,
        "ground_truth": False,
        "created_at": "2026-11-21T06:15:58.000000Z",
        "updated_at": f"2026-11-21T06:15:{second:09.6f}Z",
        "lead_time": 1.5,
        "unique_id": "46305c3f-9c19-4c83-9537-53eda94422a5",
        "task": task_,
        "project": 2,
        "completed_by": 1,
        **fields,
    }


_PROJECT = {
    "id": 2,
    "task_number": 5,
    "title": "fewshot",
    "label_config": CHOICES,
    "created_at": "2026-11-21T06:15:56.754558Z",
    "updated_at": "2026-11-21T06:15:56.754585Z",
}


def event(action: str, *, config: str = CHOICES, **fields) -> dict:
    return {"action": action, "project": {**copy.deepcopy(_PROJECT), "label_config": config}, **fields}


def created(annotation_: dict, task_: dict, *, config: str = CHOICES, action: str = "ANNOTATION_CREATED") -> dict:
    return event(action, config=config, annotation=annotation_, task=task_)
