"""Images and exports from a Label Studio server, whose token goes to that server and nowhere else."""

from __future__ import annotations

import base64
import binascii
import json
import threading
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote_to_bytes

import httpx2

from fewshot.errors import FewShotError, ImageError
from fewshot.integrations.label_studio.fetch_slots import FetchSlots, NoSlot
from fewshot.integrations.label_studio.http_fetch import SOCKET_SECONDS, Answer, NotPublic, TooLarge, fetch
from fewshot.integrations.label_studio.origin import Origin, without_query
from fewshot.integrations.label_studio.storage_address import is_storage_route, stored_file

MAX_IMAGE_BYTES = 32 * 2**20
MAX_EXPORT_BYTES = 512 * 2**20
_DEADLINE_SECONDS = 30.0
"""For an image or an export, over all redirects."""
_MAX_REDIRECTS = 3
_NO_SERVER = (
    "Label Studio has not said where it is yet; it does so, at /setup, whenever it asks for a prediction, or start "
    "with: --label-studio-url, and a token as LABEL_STUDIO_API_KEY"
)
_PAUSE_FACTOR = 3.0
"""A host that does not answer is not asked again for this many times as long as it took to find that out."""
_HUNG_PAUSE = _PAUSE_FACTOR * SOCKET_SECONDS


class Unreachable(FewShotError):
    """Label Studio, or another host of images, does not answer now; it may later.

    Attributes
    ----------
    pause : float
        For how many seconds Label Studio should not be asked for the same again, because it hung.
    """

    def __init__(self, message: str, pause: float = 0.0) -> None:
        super().__init__(message)
        self.pause = pause

    @property
    def hung(self) -> bool:
        """Whether that took so long that nothing else should be asked of Label Studio for the same request."""
        return self.pause >= _HUNG_PAUSE


@dataclass(frozen=True)
class LabelStudioClient:
    """Gets images and exports from a Label Studio server.

    Parameters
    ----------
    url : str or None
        Where the server is reached; it may lie below a path. None while nobody knows: what lies there is unreachable.
    token : str
        A user's: a legacy token, or a personal access token, which is exchanged for short-lived ones.
    alias : str, optional
        The server's own URL for itself, if another: images there are fetched from ``url``.
    image_hosts : collection of Origin
        Other hosts that images may be fetched from, without the token; any else is refused.
    slots : FetchSlots, optional
        For the fetches of this and of other clients.

    Notes
    -----
    At most three redirects are followed, within the same rules; and to one address more: where the server, asked with
    the token for a task's file in a bucket, answers with an address that it signed, that is asked, without the token.
    A user of the server, who can set up its storages, chooses that host: unless it is allowed above, it is asked by
    https alone, and at no address of a private network.

    A host other than the server that does not answer is not asked again for a while, so that its images do not delay
    the others. The server itself always is: it was alive when it called us.
    """

    url: str | None
    token: str = field(repr=False)
    alias: str | None = None
    image_hosts: Collection[Origin] = ()
    slots: FetchSlots = field(default_factory=FetchSlots, repr=False, compare=False)
    _access: dict[str, tuple[str, float]] = field(default_factory=dict, repr=False, compare=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)
    _paused: dict[Origin, tuple[str, float]] = field(default_factory=dict, repr=False, compare=False)

    def image(self, address: str) -> bytes:
        """Return the image that a task names: a data: URI, a path on the server, or a URL.

        One in a bucket is named by ``storage_address``.

        Raises
        ------
        ImageError : if it can never be had, with the reason.
        Unreachable : if it cannot be had now, or the server refuses the token.
        """
        if address[:5].lower() == "data:":
            return _from_data_uri(address)
        return self._fetch(self._resolve(address), MAX_IMAGE_BYTES)

    def export(self, project: int) -> Any:
        """Return all annotated tasks of a project, in Label Studio's JSON.

        Raises
        ------
        Unreachable : if they cannot be had.
        """
        try:
            url = self._below(f"/api/projects/{project}/export?exportType=JSON")
            return json.loads(self._fetch(url, MAX_EXPORT_BYTES))
        except (ImageError, ValueError) as error:
            raise Unreachable(f"the export of project {project} cannot be read: {error}") from error

    def is_on_server(self, address: str) -> bool:
        """Whether an image is to be fetched from the server itself."""
        try:
            return address[:5].lower() != "data:" and self._is_server(Origin.of(self._resolve(address)))
        except (ImageError, Unreachable):
            return False

    def _is_server(self, origin: Origin) -> bool:
        return self.url is not None and origin == Origin.of(self.url)

    def _server(self) -> httpx2.URL:
        if self.url is None:
            raise Unreachable(_NO_SERVER)
        return httpx2.URL(self.url)

    def _below(self, path: str) -> httpx2.URL:
        return httpx2.URL(str(self._server()).rstrip("/") + path)

    def _resolve(self, address: str) -> httpx2.URL:
        """Return the URL of an image; a server below a path may give that path or leave it out."""
        try:
            if address.startswith("/") and not address.startswith("//"):
                server = self._server()
                is_whole = address.startswith(f"{server.path.rstrip('/')}/")
                return server.join(address) if is_whole else self._below(address)
            return self._permitted(httpx2.URL(address))
        except (httpx2.InvalidURL, ValueError) as error:
            raise ImageError(without_query(address), f"cannot be fetched ({error})") from None

    def _permitted(self, url: httpx2.URL) -> httpx2.URL:
        """Return a URL on the server or an allowed host, the alias replaced.

        Raises
        ------
        ImageError : for one on another host.
        ValueError : for one that is not of http.
        """
        origin = Origin.of(url)
        if self.alias is not None and origin == Origin.of(self.alias):
            server = self._server()
            return url.copy_with(scheme=server.scheme, host=server.host, port=server.port)
        if not self._is_known(origin):
            raise ImageError(
                without_query(str(url)),
                f"lies on {origin}, neither the Label Studio server nor a host that pictures may come from; allow it "
                f"with: --label-studio-images {origin}",
            )
        return url

    def _signs(self, url: httpx2.URL) -> bool:
        """Whether a URL is where the server signs addresses in buckets."""
        return self._is_server(Origin.of(url)) and is_storage_route(url, self._server())

    def _signed(self, url: httpx2.URL) -> httpx2.URL:
        """Return an address that the server signed: by https on any host, else as ``_permitted``."""
        origin = Origin.of(url)
        return url if origin.scheme == "https" and not self._is_known(origin) else self._permitted(url)

    def _is_known(self, origin: Origin) -> bool:
        alias = None if self.alias is None else Origin.of(self.alias)
        return self._is_server(origin) or origin == alias or origin in self.image_hosts

    def _fetch(self, url: httpx2.URL, max_bytes: int) -> bytes:
        deadline = time.monotonic() + _DEADLINE_SECONDS
        first = _shown(url)
        is_signed = False
        for _ in range(_MAX_REDIRECTS + 1):
            answer = self._ask(url, max_bytes, deadline, is_signed=is_signed)
            if answer.redirect is None:
                return answer.body
            try:
                is_signed = not is_signed and self._signs(url)
                url = self._signed(answer.redirect) if is_signed else self._permitted(answer.redirect)
            except ImageError:
                raise
            except ValueError as error:
                raise ImageError(first, f"cannot be fetched ({error})") from None
        raise ImageError(first, f"is redirected more than {_MAX_REDIRECTS} times")

    def _ask(self, url: httpx2.URL, max_bytes: int, deadline: float, *, is_signed: bool = False) -> Answer:
        """Return the answer, which is a success or a redirect; of an address that the server signed without a token."""
        origin = Origin.of(url)
        is_server = self._is_server(origin)
        why, until = self._paused.get(origin, ("", 0.0))
        start = time.monotonic()
        if start < until:
            raise Unreachable(f"{why}; it is asked again in {until - start:.0f} s")
        try:
            with self.slots.take(origin, deadline):
                headers = {"Authorization": self._authorization(deadline)} if is_server and not is_signed else {}
                answer = fetch(
                    url,
                    headers=headers,
                    max_bytes=max_bytes,
                    seconds=deadline - time.monotonic(),
                    public_only=not self._is_known(origin),
                )
        except TooLarge as error:
            raise ImageError(_shown(url), str(error)) from None
        except NotPublic as error:
            raise ImageError(_shown(url), f"{error}; allow it with: --label-studio-images {origin}") from None
        except NoSlot as error:
            raise Unreachable(f"{origin} is not asked now ({error})") from error
        except OSError as error:
            why = f"{origin} does not answer ({error})"
            now = time.monotonic()
            pause = _PAUSE_FACTOR * (now - start)
            if is_server:
                raise Unreachable(why, pause) from error
            self._paused[origin] = why, now + pause
            raise Unreachable(why) from error
        self._check_status(answer, url, is_server=is_server, is_signed=is_signed)
        return answer

    def _check_status(self, answer: Answer, url: httpx2.URL, *, is_server: bool, is_signed: bool) -> None:
        status = f"{answer.status} {answer.reason}"
        if 200 <= answer.status < 300 or answer.redirect is not None:
            return
        if answer.status in (401, 403) and is_signed:
            raise Unreachable(
                f"{_shown(url)} answers {status}, though Label Studio signed the address: there is no such file, or "
                "the credentials of the project's storage may not read it"
            )
        if answer.status in (401, 403) and is_server:
            self._access.clear()
            raise Unreachable(
                f"{Origin.of(url)} refuses the token ({answer.status}). Give that of a user who sees the project, as "
                "LABEL_STUDIO_API_KEY"
            )
        if answer.status >= 500 or answer.status in (408, 424, 425, 429):  # 424: it could not read it from the bucket
            raise Unreachable(f"{_shown(url)} answers {status}")
        is_unknown = answer.status == 404 and not is_signed and self._signs(url)
        remedy = "; add its bucket as a source storage of the project" if is_unknown else ""
        raise ImageError(_shown(url), f"the server answers {status}{remedy}")

    def _authorization(self, deadline: float) -> str:
        if self.token.count(".") != 2:
            return f"Token {self.token}"
        with self._lock:
            access, until = self._access.get("access", ("", 0.0))
            if time.monotonic() >= until:
                access = self._short_lived_token(deadline)
                self._access["access"] = access, time.monotonic() + 60.0
            return f"Bearer {access}"

    def _short_lived_token(self, deadline: float) -> str:
        """Exchange the personal access token."""
        url, start = self._below("/api/token/refresh"), time.monotonic()
        try:
            answer = fetch(url, headers={}, max_bytes=2**20, seconds=deadline - start, json={"refresh": self.token})
            if not answer.body:
                raise ValueError(f"{answer.status} {answer.reason}")
            return str(json.loads(answer.body)["access"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Unreachable(
                f"{Origin.of(url)} gives nothing for the personal access token ({error}). Give a valid one as "
                "LABEL_STUDIO_API_KEY",
                _PAUSE_FACTOR * (time.monotonic() - start) if isinstance(error, OSError) else 0.0,
            ) from error


def _shown(url: httpx2.URL) -> str:
    """Return a URL as a message may hold it: of a file in a bucket that one, for the server's route tells nobody."""
    return without_query(stored_file(url) or str(url))


def _from_data_uri(uri: str) -> bytes:
    head, comma, data = uri.partition(",")
    if not comma or len(data) > 2 * MAX_IMAGE_BYTES:
        raise ImageError(without_query(uri), "the data: URI holds no picture, or too large a one")
    try:
        if head.lower().endswith(";base64"):
            return base64.b64decode(unquote_to_bytes(data))
        return unquote_to_bytes(data)
    except (binascii.Error, ValueError) as error:
        raise ImageError(without_query(uri), f"damaged base64 ({error})") from None
