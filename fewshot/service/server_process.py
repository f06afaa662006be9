"""The service as a process: its socket, its token, its log, and its graceful shutdown."""

from __future__ import annotations

import logging
import os
import signal
import socket
import stat
import sys
from collections.abc import Callable
from typing import Any

import uvicorn
from fastapi import FastAPI

from fewshot.service.access_log import JsonFormatter
from fewshot.service.limits import Limits
from fewshot.service.middleware import is_loopback

# Python switches threads every 5 ms: the encoder, which releases the GIL at every layer, would wait that long for it
# each time while requests are parsed.
_SWITCH_SECONDS = 0.0005
_MIN_TOKEN_LENGTH = 16
# Beyond the limit of a request, before those in progress are answered with 503 when the server stops.
_GRACE_SECONDS = 5


def read_token(path: str) -> str:
    """Return the token that a file holds.

    Raises
    ------
    ValueError : if others can read the file, or it holds no token to rely on.
    OSError : if it cannot be read.
    """
    with open(path, encoding="utf-8") as file:
        mode = os.fstat(file.fileno()).st_mode
        if os.name == "posix" and mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise ValueError(
                f"the token in {path} can be read by others than its owner (mode {stat.S_IMODE(mode):03o}); do: "
                f"chmod 600 {path}"
            )
        token = file.read(4096).strip()
    remedy = f"make one with: (umask 077; openssl rand -hex 32 > {path})"
    if not token:
        raise ValueError(f"{path} holds no token; {remedy}")
    if len(token) < _MIN_TOKEN_LENGTH or not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError(
            f"the token in {path} must be one word of {_MIN_TOKEN_LENGTH} ASCII characters or more, not of "
            f"{len(token)}; {remedy}"
        )
    return token


def check_host(host: str, token: str | None) -> None:
    """Refuse to serve other machines without a token.

    Raises
    ------
    ValueError : with the remedy.
    """
    if token is None and not is_loopback(host):
        raise ValueError(
            f"{host} can be reached by others, so a token is required: give --token-file FILE; make one with: "
            "(umask 077; openssl rand -hex 32 > FILE)"
        )


def listen(host: str, port: int) -> socket.socket:
    """Bind a socket to a port, 0 for any that is free.

    Raises
    ------
    ValueError : if it is taken, or cannot be bound.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address[:2], family=family, backlog=1024)
    except OSError as error:
        if error.errno in (98, 48, 10048):
            raise ValueError(f"port {port} of {host} is taken; give another with --port, or 0 for any") from None
        raise ValueError(f"cannot listen at {host}, port {port}: {error.strerror or error}") from None


def url_of(bound: socket.socket) -> str:
    """Return the URL of a listening socket."""
    host, port = bound.getsockname()[:2]
    shown = f"[{host}]" if bound.family == socket.AF_INET6 else host
    return f"http://{shown}:{port}"


class _Server(uvicorn.Server):
    """Calls ``ready`` once it accepts requests."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()


def run(app: FastAPI, bound: socket.socket, ready: Callable[[], None]) -> None:
    """Serve until SIGTERM or SIGINT, then finish the requests in progress; a second signal ends it at once."""
    limits: Limits = app.state.limits
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    for name in ("fewshot.service", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO if name == "fewshot.service" else logging.WARNING)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="on",
        server_header=False,
        ws="none",
        timeout_keep_alive=30,
        timeout_graceful_shutdown=int(limits.timeout_seconds) + _GRACE_SECONDS,
    )
    if sys.platform == "linux":  # else a client that reads nothing could keep its connection for ever
        bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(1000 * limits.timeout_seconds))
    # uvicorn raises the signal again once it has finished, which would end the process with an error.
    before: dict[int, Any] = {number: signal.signal(number, _ignore) for number in (signal.SIGINT, signal.SIGTERM)}
    interval = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_SECONDS)
    try:
        _Server(config, ready).run(sockets=[bound])
    finally:
        sys.setswitchinterval(interval)
        for number, old in before.items():
            signal.signal(number, old)
        bound.close()


def _ignore(*_: object) -> None:
    """Handle a signal that was acted on already."""
