"""What the service tells about itself: Prometheus metrics, and a line of JSON for each request."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fewshot.service.middleware import Load

log = logging.getLogger("fewshot.service")

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_SIZES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """The numbers of one server, in a registry of Prometheus of its own."""

    def __init__(self, load: Load, waiting: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = Counter(
            "fewshot_requests", "Requests answered.", ["method", "route", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "fewshot_request_seconds",
            "From a request's headers to the end of its answer.",
            ["route"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.batches = Histogram(
            "fewshot_batch_pictures", "Pictures computed together.", buckets=_SIZES, registry=self.registry
        )
        self.computing = Counter(
            "fewshot_encoder_seconds", "Seconds spent turning pictures into vectors.", registry=self.registry
        )
        self.abandoned = Counter(
            "fewshot_requests_abandoned", "Requests whose clients did not wait for the answer.", registry=self.registry
        )
        in_work = Gauge("fewshot_requests_in_work", "Requests being answered.", registry=self.registry)
        in_work.set_function(lambda: load.requests)
        received = Gauge("fewshot_bodies_bytes", "Bytes of their bodies.", registry=self.registry)
        received.set_function(lambda: load.bytes)
        queued = Gauge("fewshot_pictures_waiting", "Pictures that wait for an encoder.", registry=self.registry)
        queued.set_function(waiting)

    def computed(self, pictures: int, seconds: float) -> None:
        """Count a batch."""
        self.batches.observe(pictures)
        self.computing.inc(seconds)

    def text(self) -> bytes:
        """Return all in Prometheus's text format."""
        return generate_latest(self.registry)


class Watch:
    """ASGI middleware that counts and logs each request: the path, never its query, headers or body."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, and note how."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.perf_counter()
        status, sent = 500, 0

        async def counted(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
            sent += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, counted)
        finally:
            seconds = time.perf_counter() - start
            route = str(getattr(scope.get("route"), "path", "")) or "none"
            method = scope["method"] if scope["method"] in _METHODS else "other"
            self._metrics.requests.labels(method, route, str(status)).inc()
            self._metrics.seconds.labels(route).observe(seconds)
            client = scope.get("client")
            log.info(
                "request",
                extra={
                    "fields": {
                        "method": scope["method"],
                        "path": scope["path"],
                        "status": status,
                        "seconds": round(seconds, 4),
                        "bytes": sent,
                        "client": client[0] if client else None,
                    }
                },
            )


class JsonLines(logging.Formatter):
    """A log record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Write a record."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)
