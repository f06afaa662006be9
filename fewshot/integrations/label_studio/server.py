"""Pictures and exports from a Label Studio server, whose token goes to that server and nowhere else."""

from __future__ import annotations

import base64
import binascii
import http.client
import ipaddress
import json
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote_to_bytes, urljoin, urlsplit, urlunsplit

from fewshot.errors import FewShotError, ImageError

MAX_PICTURE_BYTES = 32 * 2**20
MAX_EXPORT_BYTES = 512 * 2**20
_SECONDS = 10.0
"""For each answer to begin, and each part of it to arrive; the whole may take three times as long."""
_MOST_REDIRECTS = 3
_PAUSE = 3.0
"""What gave no answer is left alone this many times as long as it took to find that out."""
_PORTS = {"http": 80, "https": 443}
_PLACE = re.compile(r"(\[[0-9a-fA-F:.]+\]|[\w.-]+)(:\d*)?")


class Unreachable(FewShotError):
    """Label Studio, or another place where pictures lie, cannot be asked now; later it may answer.

    Attributes
    ----------
    pause : float
        For how many seconds Label Studio had best not be asked for the same again: it hung.
    """

    def __init__(self, message: str, pause: float = 0.0) -> None:
        super().__init__(message)
        self.pause = pause


@dataclass(frozen=True, order=True)
class Origin:
    """Scheme, host and port: what a token belongs to."""

    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, url: str) -> Origin:
        """Take the origin of a URL.

        Raises
        ------
        ValueError : unless it is an http or https URL with a host.
        """
        parts = urlsplit(url)
        port = parts.port  # raises for what is no number
        # No user's name, and nothing else that a name server and a parser could see differently.
        if parts.scheme not in _PORTS or not parts.hostname or not _PLACE.fullmatch(parts.netloc):
            raise ValueError(f"expected an http or https URL with a host, not {_short(url)!r}")
        return cls(parts.scheme, parts.hostname.lower().rstrip("."), port or _PORTS[parts.scheme])

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


@dataclass(frozen=True)
class Server:
    """A Label Studio server.

    Parameters
    ----------
    url : str
        Where it is reached; it may lie below a path.
    token : str
        A user's: a legacy token, or a personal access token, which is exchanged for short-lived ones.
    alias : str, optional
        How the server calls itself, where that is another URL: pictures there are fetched from ``url``.
    image_hosts : collection of Origin
        Other places that pictures may be fetched from, without the token; any else is refused.

    Notes
    -----
    Redirects are followed three times at most, within the same rules. No proxy is used: the token would go through it.
    A place other than the server that gives no answer is not asked again for a while, so that pictures which lie on a
    dead one do not hold up the others. The server itself always is: it was alive when it asked us.
    """

    url: str
    token: str = field(repr=False)
    alias: str | None = None
    image_hosts: Collection[Origin] = ()
    _access: dict[str, tuple[str, float]] = field(default_factory=dict, repr=False, compare=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)
    _paused: dict[Origin, tuple[str, float]] = field(default_factory=dict, repr=False, compare=False)

    def picture(self, address: str) -> bytes:
        """Return the picture that a task names: a data: URI, a path on the server, or a URL.

        Raises
        ------
        ImageError : if it cannot be had, now or ever, with the reason.
        Unreachable : if the server does not answer, or refuses the token.
        """
        if address[:5].lower() == "data:":
            return _from_data_uri(address)
        return self._get(self._resolved(address), MAX_PICTURE_BYTES)

    def export(self, project: int) -> Any:
        """Return all annotated tasks of a project, in Label Studio's JSON.

        Raises
        ------
        Unreachable : if they cannot be had.
        """
        url = self._below(f"/api/projects/{project}/export?exportType=JSON")
        try:
            return json.loads(self._get(url, MAX_EXPORT_BYTES))
        except (ImageError, ValueError) as error:
            raise Unreachable(f"the export of project {project} cannot be read: {error}") from error

    def _below(self, path: str) -> str:
        return self.url.rstrip("/") + path

    def _resolved(self, address: str) -> str:
        if address.startswith("/") and not address.startswith("//"):
            base = urlsplit(self.url)
            # A server below a path may give it, or leave it out.
            inside = address.startswith(base.path.rstrip("/") + "/")
            return urljoin(self.url, address) if inside else self._below(address)
        try:
            origin = Origin.of(address)
            own = Origin.of(self.url)
            if self.alias is not None and origin == Origin.of(self.alias):
                parts = urlsplit(address)
                there = urlsplit(self.url)
                return urlunsplit((there.scheme, there.netloc, parts.path, parts.query, ""))
        except ValueError as error:
            raise ImageError(_short(address), f"cannot be fetched ({error})") from None
        if origin != own and origin not in self.image_hosts:
            raise ImageError(
                _short(address),
                f"lies on {origin}, neither the Label Studio server nor a place that pictures may come from; allow it "
                f"with: --label-studio-images {origin}",
            )
        return address

    def _get(self, url: str, most: int) -> bytes:
        deadline = time.monotonic() + 3 * _SECONDS
        first = url
        for _ in range(_MOST_REDIRECTS + 1):
            answer = self._ask(url, deadline)
            if isinstance(answer, str):
                url = self._resolved(urljoin(url, answer))
                continue
            with answer:
                return _read(answer, most, deadline, first)
        raise ImageError(_short(first), f"is redirected more than {_MOST_REDIRECTS} times")

    def _ask(self, url: str, deadline: float) -> http.client.HTTPResponse | str:
        """Return the answer, or where it is to be had instead."""
        origin = Origin.of(url)
        own = origin == Origin.of(self.url)
        why, until = self._paused.get(origin, ("", 0.0))
        start = time.monotonic()
        if start < until:
            raise Unreachable(f"{why}; it is asked again in {until - start:.0f} s")
        headers = {"User-Agent": "fewshot", "Accept-Encoding": "identity"}
        if own:
            headers["Authorization"] = self._authorization(deadline)
        plain = quote(url, safe=":/?#[]@!$&'()*+,;=%~")  # a file's name may hold spaces and other alphabets
        try:
            answer: http.client.HTTPResponse = _OPENER.open(
                urllib.request.Request(plain, headers=headers), timeout=_SECONDS
            )
            return answer
        except urllib.error.HTTPError as error:
            with error:
                return self._judged(error, url, own)
        except (OSError, http.client.HTTPException, ValueError) as error:
            why = f"{origin} does not answer ({getattr(error, 'reason', None) or error})"
            now = time.monotonic()
            pause = _PAUSE * (now - start)
            if own:
                raise Unreachable(why, pause) from error
            self._paused[origin] = why, now + pause
            raise Unreachable(why) from error

    def _judged(self, error: urllib.error.HTTPError, url: str, own: bool) -> str:
        if error.code in (301, 302, 303, 307, 308) and error.headers.get("Location"):
            return str(error.headers["Location"])
        if error.code in (401, 403) and own:
            self._access.clear()
            raise Unreachable(
                f"{Origin.of(url)} refuses the token ({error.code}). Give that of a user who sees the project, as "
                "LABEL_STUDIO_API_KEY"
            )
        if error.code >= 500 or error.code in (408, 425, 429):
            raise Unreachable(f"{_short(url)} answers {error.code} {error.reason}")
        raise ImageError(_short(url), f"the server answers {error.code} {error.reason}")

    def _authorization(self, deadline: float) -> str:
        if self.token.count(".") != 2:
            return f"Token {self.token}"
        with self._lock:
            access, until = self._access.get("access", ("", 0.0))
            if time.monotonic() >= until:
                access = self._refreshed(deadline)
                self._access["access"] = access, time.monotonic() + 60.0
            return f"Bearer {access}"

    def _refreshed(self, deadline: float) -> str:
        """Exchange a personal access token for one that can be used."""
        request = urllib.request.Request(
            self._below("/api/token/refresh"),
            data=json.dumps({"refresh": self.token}).encode(),
            headers={"User-Agent": "fewshot", "Content-Type": "application/json"},
        )
        try:
            with _OPENER.open(request, timeout=_SECONDS) as answer:
                return str(json.loads(_read(answer, 2**20, deadline, request.full_url))["access"])
        except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError, ImageError) as error:
            raise Unreachable(
                f"{Origin.of(self.url)} gives nothing for the personal access token ({error}). Give a valid one as "
                "LABEL_STUDIO_API_KEY"
            ) from error


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """Follow none: where it leads is judged first."""


_OPENER = urllib.request.OpenerDirector()
for _handler in (
    urllib.request.HTTPHandler(),
    urllib.request.HTTPSHandler(),
    urllib.request.HTTPErrorProcessor(),
    urllib.request.HTTPDefaultErrorHandler(),
    _NoRedirects(),
):
    _OPENER.add_handler(_handler)


def _read(answer: http.client.HTTPResponse, most: int, deadline: float, url: str) -> bytes:
    parts, size = [], 0
    try:
        while part := answer.read1(2**18):
            parts.append(part)
            size += len(part)
            if size > most:
                raise ImageError(_short(url), f"is over the limit of {most:,} bytes")
            if time.monotonic() > deadline:
                raise Unreachable(f"{Origin.of(url)} took more than {3 * _SECONDS:g} s over {size:,} bytes")
    except (OSError, http.client.HTTPException) as error:
        raise Unreachable(f"{Origin.of(url)} broke off ({error})") from error
    if answer.length:
        raise Unreachable(f"{Origin.of(url)} broke off {answer.length:,} bytes before the end")
    return b"".join(parts)


def _from_data_uri(uri: str) -> bytes:
    head, comma, data = uri.partition(",")
    if not comma or len(data) > 2 * MAX_PICTURE_BYTES:
        raise ImageError(_short(uri), "the data: URI holds no picture, or too large a one")
    try:
        if head.lower().endswith(";base64"):
            return base64.b64decode(unquote_to_bytes(data))
        return unquote_to_bytes(data)
    except (binascii.Error, ValueError) as error:
        raise ImageError(_short(uri), f"damaged base64 ({error})") from None


def _short(address: str) -> str:
    """Name a picture in a message: without what a query may hold, and no whole picture."""
    return address.partition("?")[0][:100] if address[:5].lower() != "data:" else "a data: URI"
