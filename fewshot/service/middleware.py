"""Security in front of the application: token, host and origin of a request, its size, and how long it may take."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import ipaddress
import logging
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

import anyio
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fewshot.service.batching import DEADLINE
from fewshot.service.limits import Limits
from fewshot.service.problems import HTTPProblem, is_out_of_memory, problem_response, too_little_memory

# Need no token: the page asks for it itself, and health tells nothing else.
_PUBLIC = frozenset({"/", "/healthz", "/readyz", "/health"})
_PUBLIC_PREFIX = "/page/"
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
# A client that is still sending does not read a response; so much of its body is read, for so long, and dropped.
_DRAIN_SECONDS, _DRAIN_BYTES = 2.0, 256 * 2**20
# A response is sent in pieces, each once the client has taken the one before, at so many bytes a second at least.
_PIECE_BYTES, _MIN_BYTES_PER_SECOND = 64 * 2**10, 128 * 2**10
# Routes that take images end with these; other bodies below _REST are short, as they are parsed in the event loop.
_REST, _IMAGE_ROUTES = "/v1/", ("/predict", "/examples", "/negatives")

log = logging.getLogger("fewshot.service")

_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
    "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


@dataclass
class InFlight:
    """Requests in progress, and the bytes of their bodies."""

    requests: int = 0
    bytes: int = 0


class SecurityMiddleware:
    """ASGI middleware that authenticates and limits requests, and sets the security headers of responses.

    Without a token only this machine is served, and its browsers are protected: a request must name the server as
    localhost (against DNS rebinding), and one that changes something must not come from another site (CSRF).

    Parameters
    ----------
    app : ASGI application
    token : str or None
        That requests must send, as ``Authorization: Bearer TOKEN``, or as the password of Basic authentication.
    limits : Limits
    in_flight : InFlight
        Is kept up to date.
    """

    def __init__(self, app: ASGIApp, *, token: str | None, limits: Limits, in_flight: InFlight) -> None:
        self._app, self._limits, self._in_flight = app, limits, in_flight
        self._token = None if token is None else token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or reject it."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
                return
            await self._app(scope, receive, send)
            return

        response = _TimedResponse(send, scope["path"], self._limits)
        try:
            await self._handle(scope, receive, response.send)
        except _SlowClient:  # the server closes a connection whose response is incomplete
            fields = {"path": scope["path"], "bytes": response.sent, "seconds": round(response.waited, 3)}
            log.warning("a client did not take its response", extra={"fields": fields})
        except Exception as error:
            if response.started or not is_out_of_memory(error):
                raise
            await self._reject(too_little_memory(error), scope, receive, response.send)
        except asyncio.CancelledError:  # the time for requests in progress is over when the server stops
            if response.started:
                raise
            await problem_response(503, "the server is stopping; retry later", {"Retry-After": "5"})(
                scope, receive, response.send
            )

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self._check(scope)
            size = self._content_length(scope)
        except HTTPProblem as problem:
            await self._reject(problem, scope, receive, send)
            return
        self._in_flight.requests += 1
        self._in_flight.bytes += size
        body = _LimitedBody(receive, self._limits, self._in_flight, size, self._max_bytes(scope))
        token = DEADLINE.set(time.monotonic() + self._limits.timeout_seconds)
        try:
            await self._app(scope, body.receive, send)
        finally:
            DEADLINE.reset(token)
            self._in_flight.requests -= 1
            self._in_flight.bytes -= body.reserved

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        if self._token is None:
            _check_host_and_origin(scope, headers)
        elif not (_is_public(scope["path"]) or self._is_authenticated(headers)):
            problem = HTTPProblem(401, "this server requires its token, in the header: Authorization: Bearer TOKEN")
            problem.headers = {"WWW-Authenticate": "Bearer"}
            raise problem
        if self._in_flight.requests >= self._limits.max_requests and not _is_public(scope["path"]):
            raise HTTPProblem(
                503, f"{self._in_flight.requests} requests are in progress already; retry later", retry_after=1
            )

    def _is_authenticated(self, headers: Headers) -> bool:
        """Whether the token was sent; compared in constant time."""
        assert self._token is not None
        scheme, _, value = headers.get("authorization", "").partition(" ")
        given = value.strip().encode()
        if scheme.lower() == "basic":
            try:
                given = base64.b64decode(given, validate=True).partition(b":")[2]
            except binascii.Error:
                return False
        elif scheme.lower() != "bearer":
            return False
        return hmac.compare_digest(given, self._token)

    def _content_length(self, scope: Scope) -> int:
        """Return how many bytes a request declares to send, 0 if it declares nothing."""
        declared = Headers(scope=scope).get("content-length", "0")
        size = int(declared) if declared.isdecimal() else 0
        if size > self._max_bytes(scope):
            raise too_large(self._max_bytes(scope))
        if self._in_flight.bytes + size > self._limits.max_total_body_bytes:
            raise HTTPProblem(503, "too much is being received already; retry later", retry_after=1)
        return size

    def _max_bytes(self, scope: Scope) -> int:
        """Return how many bytes a request may send."""
        path: str = scope["path"]
        short = path.startswith(_REST) and not path.endswith(_IMAGE_ROUTES)
        limit = self._limits.max_body_bytes
        return min(self._limits.max_field_bytes, limit) if short else limit

    async def _reject(self, problem: HTTPProblem, scope: Scope, receive: Receive, send: Send) -> None:
        drained = 0
        with anyio.move_on_after(_DRAIN_SECONDS):
            while drained < _DRAIN_BYTES:
                message = await receive()
                drained += len(message.get("body", b""))
                if message["type"] == "http.disconnect" or not message.get("more_body"):
                    break
        response = problem_response(
            problem.status_code, problem.detail, dict(problem.headers or {}), cause=problem.cause
        )
        await response(scope, receive, send)


class _LimitedBody:
    """A request's body as it arrives, counted and timed."""

    def __init__(self, receive: Receive, limits: Limits, in_flight: InFlight, declared: int, limit: int) -> None:
        self._receive, self._limits, self._in_flight, self._limit = receive, limits, in_flight, limit
        self._deadline = anyio.current_time() + limits.timeout_seconds
        self._received, self.reserved = 0, declared
        self._complete = False

    async def receive(self) -> Message:
        if self._complete:  # what may still come is that the client disconnects
            return await self._receive()
        try:
            with anyio.fail_after(max(0.0, self._deadline - anyio.current_time())):
                message = await self._receive()
        except TimeoutError:
            raise HTTPProblem(
                408, f"the body did not arrive within {self._limits.timeout_seconds:g} s; send less"
            ) from None
        self._received += len(message.get("body", b""))
        self._complete = not message.get("more_body", False)
        if self._received > self._limit:
            raise too_large(self._limit)
        if self._received > self.reserved:
            if self._in_flight.bytes + self._received - self.reserved > self._limits.max_total_body_bytes:
                raise HTTPProblem(503, "too much is being received already; retry later", retry_after=1)
            self._in_flight.bytes += self._received - self.reserved
            self.reserved = self._received
        return message


class _SlowClient(Exception):
    """A client has not taken its response in time."""


class _TimedResponse:
    """A response in pieces that the client must take in time, with the headers that all responses have."""

    def __init__(self, send: Send, path: str, limits: Limits) -> None:
        self._send, self._path, self._limits = send, path, limits
        self.sent, self.waited, self.started = 0, 0.0, False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
            # The state of a registry is not cached; the page's files are revalidated each time.
            headers.setdefault("Cache-Control", "no-cache" if _is_public(self._path) else "no-store")
        body, at = message.get("body", b""), 0
        while len(body) - at > _PIECE_BYTES:
            piece = {**message, "body": body[at : at + _PIECE_BYTES], "more_body": True}
            await self._send_in_time(piece, _PIECE_BYTES)
            at += _PIECE_BYTES
        await self._send_in_time({**message, "body": body[at:]} if at else message, len(body) - at)

    async def _send_in_time(self, message: Message, size: int) -> None:
        start, timeout = anyio.current_time(), self._limits.timeout_seconds
        try:
            with anyio.fail_after(timeout + min(0.0, self.sent / _MIN_BYTES_PER_SECOND - self.waited)):
                await self._send(message)
        except TimeoutError:
            raise _SlowClient from None
        finally:
            self.waited += anyio.current_time() - start
        self.sent += size


def too_large(limit: int) -> HTTPProblem:
    """Return the problem of a body of more bytes than its limit."""
    return HTTPProblem(413, f"this request may hold {limit:,} bytes; send less, in several requests")


def is_loopback(host: str) -> bool:
    """Whether a host's name or address is that of this machine only."""
    if host.lower() in ("localhost", "localhost."):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _is_public(path: str) -> bool:
    return path in _PUBLIC or path.startswith(_PUBLIC_PREFIX)


def _check_host_and_origin(scope: Scope, headers: Headers) -> None:
    host = headers.get("host", "")
    try:
        named = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        named = ""
    if not is_loopback(named):
        raise HTTPProblem(
            403,
            f"this server has no token, so it answers to localhost and 127.0.0.1 only, not to {host!r}; to be reached "
            "by another name, start it with --token-file",
        )
    if scope["method"] in _SAFE:
        return
    origin = headers.get("origin")
    foreign = headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none")
    if foreign if origin is None else origin.partition("://")[2].lower() != host.lower():
        raise HTTPProblem(403, f"requests from {origin or 'another site'} may not change anything here")
