"""One HTTP request, within a total time and a size, whatever the host does."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from functools import cache
from typing import Any

import httpx2

SOCKET_SECONDS = 10.0
"""For a connection, and for each part of an answer to arrive."""


class TooLarge(ValueError):
    """The answer's body is over the limit."""


@dataclass(frozen=True)
class Answer:
    """An HTTP response; ``body`` is empty unless its status is 2xx, ``redirect`` is where it is to be had instead."""

    status: int
    reason: str
    redirect: httpx2.URL | None
    body: bytes


def fetch(
    url: httpx2.URL, *, headers: dict[str, str], max_bytes: int, seconds: float, json: Any | None = None
) -> Answer:
    """Get a URL, or post JSON to it; redirects are not followed.

    No proxy is used, and no password file: a token would go through the first, and another be sent with the second.

    Parameters
    ----------
    url : httpx2.URL
    headers : dict
    max_bytes : int
        Of the body.
    seconds : float
        For everything, from the name server to the last byte.
    json : optional
        To be posted.

    Raises
    ------
    TooLarge
    OSError : if there is no whole answer, or not in time.
    """
    loop = asyncio.new_event_loop()  # not asyncio.run, which would wait for a name server that does not answer
    try:
        return loop.run_until_complete(asyncio.wait_for(_request(url, headers, max_bytes, json), seconds))
    except asyncio.TimeoutError:
        raise TimeoutError(f"it took more than {seconds:.3g} s") from None
    except (httpx2.HTTPError, UnicodeError) as error:  # the latter for a host that cannot be a name
        raise ConnectionError(str(error) or type(error).__name__) from error
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


async def _request(url: httpx2.URL, headers: dict[str, str], max_bytes: int, json: Any | None) -> Answer:
    # A client for each request: cookies are of a host, whatever its port, and are not to reach another server there.
    client = httpx2.AsyncClient(
        headers={"User-Agent": "fewshot", "Accept-Encoding": "identity"},
        timeout=SOCKET_SECONDS,
        verify=_tls(),
        trust_env=False,
    )
    method = "GET" if json is None else "POST"
    async with client, client.stream(method, url, headers=headers, json=json) as response:
        parts, size = [], 0
        if response.is_success:
            async for part in response.aiter_raw():  # never decompressed: that could be a thousand times larger
                parts.append(part)
                size += len(part)
                if size > max_bytes:
                    raise TooLarge(f"is over the limit of {max_bytes:,} bytes")
        redirect = None if response.next_request is None else response.next_request.url
        return Answer(response.status_code, response.reason_phrase, redirect, b"".join(parts))


@cache
def _tls() -> ssl.SSLContext:
    """Return the system's certificates, or those of $SSL_CERT_FILE, read once."""
    return ssl.create_default_context()
