"""The door: who may come in, how much they may bring, and how long they may take."""

from __future__ import annotations

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

from fewshot.service.batching_encoder import DEADLINE
from fewshot.service.limits import Limits
from fewshot.service.problems import Refused, response

# The page asks for the token itself; health says no more than that, so that any watchdog can ask.
_OPEN = frozenset({"/", "/healthz", "/readyz", "/health"})
_OPEN_BELOW = "/page/"
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
# A client still sending would not read a refusal; so much of its body is read, for so long, and thrown away.
_DRAIN_SECONDS, _DRAIN_BYTES = 2.0, 256 * 2**20
# An answer goes out in pieces, each once the client has taken what was before it, at so many bytes a second at least.
_PIECE, _SLOWEST = 64 * 2**10, 128 * 2**10
# Only the routes that these end take pictures; other bodies under _REST are short, and parsed where all requests wait.
_REST, _TAKES_PICTURES = "/v1/", ("/predict", "/examples", "/negatives")

log = logging.getLogger("fewshot.service")

_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


@dataclass
class Load:
    """What is in work at this moment."""

    requests: int = 0
    bytes: int = 0


class Guard:
    """ASGI middleware in front of everything else.

    Without a token only this machine is served, and its browsers are protected: a request must name the server as
    localhost (against DNS rebinding), and one that changes something must not come from another site's page.

    Parameters
    ----------
    app : ASGI application
    token : str or None
        What requests must show, as ``Authorization: Bearer TOKEN``, or as the password of Basic authentication, for
        tools that know no other.
    limits : Limits
    load : Load
        Kept up to date.
    """

    def __init__(self, app: ASGIApp, *, token: str | None, limits: Limits, load: Load) -> None:
        self._app, self._limits, self._load = app, limits, load
        self._token = None if token is None else token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or refuse it."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
                return
            await self._app(scope, receive, send)
            return

        timed = _TimedAnswer(send, scope["path"], self._limits)
        try:
            await self._answer(scope, receive, timed.send)
        except _Slow:  # a connection whose answer is not whole is closed, see ``running``
            fields = {"path": scope["path"], "bytes": timed.sent, "seconds": round(timed.waited, 3)}
            log.warning("a client did not take its answer", extra={"fields": fields})

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self._check(scope)
            body = self._body(scope)
        except Refused as refusal:
            await self._refuse(refusal, scope, receive, send)
            return
        self._load.requests += 1
        self._load.bytes += body
        limited = _LimitedBody(receive, self._limits, self._load, body, self._most(scope))
        known = DEADLINE.set(time.monotonic() + self._limits.seconds)
        try:
            await self._app(scope, limited.receive, send)
        finally:
            DEADLINE.reset(known)
            self._load.requests -= 1
            self._load.bytes -= limited.reserved

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        if self._token is None:
            _check_browser(scope, headers)
        elif not (_open(scope["path"]) or self._shown(headers)):
            refused = Refused(401, "this server wants its token, in the header: Authorization: Bearer TOKEN")
            refused.headers = {"WWW-Authenticate": "Bearer"}
            raise refused
        if self._load.requests >= self._limits.requests and not _open(scope["path"]):
            raise Refused(503, f"{self._load.requests} requests are in work already; ask again", retry_after=1)

    def _shown(self, headers: Headers) -> bool:
        """Whether the token was given; compared in a time that tells nothing about it."""
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

    def _body(self, scope: Scope) -> int:
        """Return how many bytes a request says it brings, 0 if it does not say."""
        said = Headers(scope=scope).get("content-length", "0")
        size = int(said) if said.isdecimal() else 0
        if size > self._most(scope):
            raise too_large(self._most(scope))
        if self._load.bytes + size > self._limits.bodies_bytes:
            raise Refused(503, "too much is being received already; ask again", retry_after=1)
        return size

    def _most(self, scope: Scope) -> int:
        """Return how many bytes a request may bring."""
        path: str = scope["path"]
        short = path.startswith(_REST) and not path.endswith(_TAKES_PICTURES)
        return min(self._limits.fields_bytes, self._limits.body_bytes) if short else self._limits.body_bytes

    async def _refuse(self, refusal: Refused, scope: Scope, receive: Receive, send: Send) -> None:
        drained = 0
        with anyio.move_on_after(_DRAIN_SECONDS):
            while drained < _DRAIN_BYTES:
                message = await receive()
                drained += len(message.get("body", b""))
                if message["type"] == "http.disconnect" or not message.get("more_body"):
                    break
        answer = response(refusal.status_code, refusal.detail, dict(refusal.headers or {}))
        await answer(scope, receive, send)


class _LimitedBody:
    """A request's body as it comes in, counted and timed."""

    def __init__(self, receive: Receive, limits: Limits, load: Load, said: int, most: int) -> None:
        self._receive, self._limits, self._load, self._most = receive, limits, load, most
        self._end = anyio.current_time() + limits.seconds
        self._came, self.reserved = 0, said
        self._whole = False

    async def receive(self) -> Message:
        if self._whole:  # what may come now is only that the client has gone
            return await self._receive()
        try:
            with anyio.fail_after(max(0.0, self._end - anyio.current_time())):
                message = await self._receive()
        except TimeoutError:
            raise Refused(408, f"the body did not arrive within {self._limits.seconds:g} s; send less") from None
        self._came += len(message.get("body", b""))
        self._whole = not message.get("more_body", False)
        if self._came > self._most:
            raise too_large(self._most)
        if self._came > self.reserved:
            if self._load.bytes + self._came - self.reserved > self._limits.bodies_bytes:
                raise Refused(503, "too much is being received already; ask again", retry_after=1)
            self._load.bytes += self._came - self.reserved
            self.reserved = self._came
        return message


class _Slow(Exception):
    """A client has not taken its answer in time."""


class _TimedAnswer:
    """An answer on its way out, in pieces that the client must take in time; with the headers that all answers have."""

    def __init__(self, send: Send, path: str, limits: Limits) -> None:
        self._send, self._path, self._limits = send, path, limits
        self.sent, self.waited = 0, 0.0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
            # Answers are of their moment; the page's files are asked for each time whether they are still the same.
            headers.setdefault("Cache-Control", "no-cache" if _open(self._path) else "no-store")
        body, at = message.get("body", b""), 0
        while len(body) - at > _PIECE:
            await self._pass({**message, "body": body[at : at + _PIECE], "more_body": True}, _PIECE)
            at += _PIECE
        await self._pass({**message, "body": body[at:]} if at else message, len(body) - at)

    async def _pass(self, message: Message, size: int) -> None:
        start, most = anyio.current_time(), self._limits.seconds
        try:
            with anyio.fail_after(most + min(0.0, self.sent / _SLOWEST - self.waited)):
                await self._send(message)
        except TimeoutError:
            raise _Slow from None
        finally:
            self.waited += anyio.current_time() - start
        self.sent += size


def too_large(most: int) -> Refused:
    """Refuse a body."""
    return Refused(413, f"this request may hold {most:,} bytes; send less, as pictures in several requests")


def is_loopback(host: str) -> bool:
    """Whether a host's name or address stands for this machine only."""
    if host.lower() in ("localhost", "localhost."):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _open(path: str) -> bool:
    return path in _OPEN or path.startswith(_OPEN_BELOW)


def _check_browser(scope: Scope, headers: Headers) -> None:
    host = headers.get("host", "")
    try:
        named = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        named = ""
    if not is_loopback(named):
        raise Refused(
            403,
            f"this server has no token, so it answers to localhost and 127.0.0.1 only, not to {host!r}; to be reached "
            "by another name, start it with --token-file",
        )
    if scope["method"] in _SAFE:
        return
    origin = headers.get("origin")
    foreign = headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none")
    if foreign if origin is None else origin.partition("://")[2].lower() != host.lower():
        raise Refused(403, f"a page of {origin or 'another site'} may change nothing here")
