"""One HTTP request, within a total time and a size, whatever the host does."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from dataclasses import dataclass
from functools import cache
from typing import Any

import httpx2

SOCKET_SECONDS = 10.0
"""For a connection, and for each part of an answer to arrive."""
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052


class TooLarge(ValueError):
    """The answer's body is over the limit."""


class NotPublic(ValueError):
    """The host is at an address of a private network, or of this machine."""


@dataclass(frozen=True)
class Answer:
    """An HTTP response; ``body`` is empty unless its status is 2xx, ``redirect`` is where it is to be had instead."""

    status: int
    reason: str
    redirect: httpx2.URL | None
    body: bytes


def fetch(
    url: httpx2.URL,
    *,
    headers: dict[str, str],
    max_bytes: int,
    seconds: float,
    json: Any | None = None,
    public_only: bool = False,
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
    public_only : bool, default False
        Whether to refuse a host with any address of a private network; it is asked at the addresses that were checked.

    Raises
    ------
    TooLarge, NotPublic
    OSError : if there is no whole answer, or not in time.
    """
    loop = asyncio.new_event_loop()  # not asyncio.run, which would wait for a name server that does not answer
    try:
        asked = _request_publicly(url, headers, max_bytes) if public_only else _request(url, headers, max_bytes, json)
        return loop.run_until_complete(asyncio.wait_for(asked, seconds))
    except asyncio.TimeoutError:
        raise TimeoutError(f"it took more than {seconds:.3g} s") from None
    except (httpx2.HTTPError, UnicodeError) as error:  # the latter for a host that cannot be a name
        raise ConnectionError(str(error) or type(error).__name__) from error
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


async def _request_publicly(url: httpx2.URL, headers: dict[str, str], max_bytes: int) -> Answer:
    """Get a URL at the first of its host's addresses that answers, all of which are public."""
    found = await asyncio.get_running_loop().getaddrinfo(
        host := url.raw_host.decode(), url.port or url.scheme, type=socket.SOCK_STREAM
    )
    addresses = list(dict.fromkeys(str(place[0]) for *_, place in found))
    private = [address for address in addresses if not is_public(address)]
    if private or not addresses:
        raise NotPublic(f"{host} is at {', '.join(private) or 'no address'}, which is not of the public internet")
    # The name is not looked up again, when it might give another address; certificate and Host stay the name's.
    headers = {**headers, "Host": url.netloc.decode()}
    extensions = {"sni_hostname": host}
    for address in addresses[:-1]:
        try:
            return await _request(url.copy_with(host=address), headers, max_bytes, None, extensions)
        except httpx2.ConnectError:
            continue
    return await _request(url.copy_with(host=addresses[-1]), headers, max_bytes, None, extensions)


def is_public(address: str) -> bool:
    """Whether an IP address is of the public internet; one of IPv6 that stands for one of IPv4 is as that."""
    found = ipaddress.ip_address(address)
    if isinstance(found, ipaddress.IPv6Address):
        if found in _NAT64 or found.ipv4_mapped is not None:
            return is_public(str(ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)))
        if found.sixtofour is not None or found.teredo is not None:
            return False
    return found.is_global and not found.is_multicast


async def _request(
    url: httpx2.URL, headers: dict[str, str], max_bytes: int, json: Any | None, extensions: dict[str, str] | None = None
) -> Answer:
    # A client for each request: cookies are of a host, whatever its port, and are not to reach another server there.
    client = httpx2.AsyncClient(
        headers={"User-Agent": "fewshot", "Accept-Encoding": "identity"},
        timeout=SOCKET_SECONDS,
        verify=_tls(),
        trust_env=False,
    )
    method = "GET" if json is None else "POST"
    async with client, client.stream(method, url, headers=headers, json=json, extensions=extensions) as response:
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
