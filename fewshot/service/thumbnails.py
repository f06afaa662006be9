"""Images of a registry as HTTP responses: as they were uploaded, or as thumbnails."""

from __future__ import annotations

import threading
from collections.abc import Callable

from cachetools import LRUCache
from starlette.requests import Request
from starlette.responses import Response

from fewshot.media import thumbnail

_CONCURRENT = 2
_CACHE_BYTES = 32 * 2**20


class ThumbnailCache:
    """Makes thumbnails, a few at a time as decoding takes memory, and caches the most recently used."""

    def __init__(self) -> None:
        self._cache: LRUCache[tuple[bytes, int], bytes] = LRUCache(_CACHE_BYTES, getsizeof=len)
        self._lock = threading.Lock()
        self._decoding = threading.Semaphore(_CONCURRENT)

    def get(self, digest: bytes, size: int, read: Callable[[], bytes]) -> bytes:
        """Return a JPEG of at most ``size`` pixels a side of the image with this hash, which ``read`` returns."""
        key = digest, size
        with self._lock:
            cached = self._cache.get(key)
        if cached is not None:
            return cached
        with self._decoding:
            data = thumbnail(read(), size)
        with self._lock:
            self._cache[key] = data
        return data

    def clear(self) -> None:
        """Forget all thumbnails."""
        with self._lock:
            self._cache.clear()


def image_response(request: Request, data: bytes, kind: str, etag: str) -> Response:
    """Return an image, or 304 if the client has it already; caches may keep it, and must revalidate it."""
    headers = {"ETag": f'"{etag}"', "Cache-Control": "private, no-cache"}
    if f'"{etag}"' in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(data, media_type=kind, headers=headers)
