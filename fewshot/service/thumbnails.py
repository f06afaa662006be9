"""Registered pictures on their way out: as they came, or small."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response

from fewshot.media import open_image

_AT_ONCE = 2
_KEPT_BYTES = 32 * 2**20
_STARTS = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG": "image/png", b"GIF8": "image/gif", b"BM": "image/bmp"}


class Thumbnails:
    """Makes small pictures, a few at a time as decoding takes memory, and keeps the last ones made."""

    def __init__(self) -> None:
        self._made: OrderedDict[tuple[bytes, int], bytes] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()
        self._turn = threading.Semaphore(_AT_ONCE)

    def get(self, digest: bytes, size: int, picture: Callable[[], bytes]) -> bytes:
        """Return a JPEG of at most ``size`` pixels a side of the picture with this hash."""
        key = digest, size
        with self._lock:
            if key in self._made:
                self._made.move_to_end(key)
                return self._made[key]
        with self._turn:
            image = open_image(picture())
            image.thumbnail((size, size))
            out = io.BytesIO()
            image.save(out, format="JPEG", quality=85)
        data = out.getvalue()
        with self._lock:
            if key not in self._made:
                self._bytes += len(data)
            self._made[key] = data
            while self._bytes > _KEPT_BYTES:
                self._bytes -= len(self._made.popitem(last=False)[1])
        return data


def media_type(data: bytes) -> str:
    """Return what a picture's first bytes say it is."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    if data[:4] in (b"II*\0", b"MM\0*"):
        return "image/tiff"
    return next((kind for start, kind in _STARTS.items() if data.startswith(start)), "application/octet-stream")


def answer(request: Request, data: bytes, kind: str, tag: str) -> Response:
    """Send a picture, or say that it is the one the client has; caches may keep it, and ask whether it is the same."""
    headers = {"ETag": f'"{tag}"', "Cache-Control": "private, no-cache"}
    if f'"{tag}"' in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(data, media_type=kind, headers=headers)
