"""The scheme, host and port of a URL: what a token belongs to."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

import httpx2

from fewshot.registry import storable

_PORTS, _LAST_PORT = {"http": 80, "https": 443}, 65535


@dataclass(frozen=True, order=True)
class Origin:
    """Scheme, host and port."""

    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, url: str | httpx2.URL) -> Origin:
        """Return the origin of a URL.

        Raises
        ------
        ValueError : unless it is an http or https URL with a host, and without a user name.
        """
        try:
            parts = httpx2.URL(url)
        except (httpx2.InvalidURL, ValueError) as error:
            raise ValueError(f"{without_query(str(url))!r} is no URL ({error})") from None
        if parts.scheme not in _PORTS or not parts.host or parts.userinfo or (parts.port or 0) > _LAST_PORT:
            raise ValueError(f"expected an http or https URL with a host, not {without_query(str(url))!r}")
        port = _PORTS[parts.scheme] if parts.port is None else parts.port
        return cls(parts.scheme, parts.host.rstrip("."), port)

    @property
    def is_loopback(self) -> bool:
        """Whether it is this machine itself, by its name or number alone: no name server is asked."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


def without_query(address: str) -> str:
    """Return an image's address as a message may hold it: no query, which may be secret, and no image."""
    return "a data: URI" if address[:5].lower() == "data:" else storable(address.partition("?")[0][:100])
