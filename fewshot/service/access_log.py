"""Prometheus metrics, and an access log of one JSON line a request."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fewshot.service.middleware import InFlight

log = logging.getLogger("fewshot.service")

_SECOND_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_SIZE_BUCKETS = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Prometheus metrics of one server, in a ``CollectorRegistry`` of their own."""

    def __init__(self, in_flight: InFlight, queued: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = Counter(
            "fewshot_requests", "Requests answered.", ["method", "route", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "fewshot_request_seconds",
            "From a request's headers to the end of its response.",
            ["route"],
            buckets=_SECOND_BUCKETS,
            registry=self.registry,
        )
        self.batches = Histogram(
            "fewshot_batch_images", "Examples embedded in one batch.", buckets=_SIZE_BUCKETS, registry=self.registry
        )
        self.encoder_seconds = Counter("fewshot_encoder_seconds", "Seconds spent on embedding.", registry=self.registry)
        self.disconnected = Counter(
            "fewshot_requests_disconnected", "Requests whose clients did not wait.", registry=self.registry
        )
        self.waits = Histogram(
            "fewshot_registry_wait_seconds",
            "Waits for a registry that another process was writing to.",
            buckets=_SECOND_BUCKETS,
            registry=self.registry,
        )
        gauges: dict[str, tuple[str, Callable[[], float]]] = {
            "fewshot_requests_in_flight": ("Requests in progress.", lambda: in_flight.requests),
            "fewshot_request_body_bytes": ("Bytes of their bodies.", lambda: in_flight.bytes),
            "fewshot_images_queued": ("Examples that wait for an encoder.", queued),
        }
        for name, (meaning, value) in gauges.items():
            Gauge(name, meaning, registry=self.registry).set_function(value)

    def count_batch(self, images: int, seconds: float) -> None:
        """Count a batch of images that were embedded."""
        self.batches.observe(images)
        self.encoder_seconds.inc(seconds)

    def text(self) -> bytes:
        """Return all metrics in Prometheus's text format."""
        return generate_latest(self.registry)


class AccessLogMiddleware:
    """ASGI middleware that counts and logs each request: its path, never its query, headers or body."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and log its response."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.perf_counter()
        status, sent = 500, 0

        async def send_counted(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
            sent += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, send_counted)
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


class JsonFormatter(logging.Formatter):
    """A log record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)
