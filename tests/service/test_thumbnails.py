"""Thumbnails: how large they are, and that one is made once while it is cached."""

from __future__ import annotations

import io

from fakes import GREEN, RED, png
from PIL import Image

from fewshot.media import image_type
from fewshot.service import thumbnails
from fewshot.service.thumbnails import ThumbnailCache


def test_a_thumbnail_is_made_once_while_it_is_cached_and_again_after_it_was_evicted(monkeypatch):
    reads = []

    def read(name, colour):
        return lambda: reads.append(name) or png(colour, 300)

    size = len(ThumbnailCache().get(b"red", 64, read("red", RED)))
    monkeypatch.setattr(thumbnails, "_CACHE_BYTES", 2 * size)
    cache = ThumbnailCache()
    reads.clear()
    cache.get(b"red", 64, read("red", RED))
    cache.get(b"green", 64, read("green", GREEN))
    cache.get(b"red", 64, read("red", RED))
    assert reads == ["red", "green"]
    cache.get(b"other", 64, read("other", RED))  # evicts the least recently used
    cache.get(b"red", 64, read("red", RED))
    assert reads == ["red", "green", "other"]
    cache.get(b"green", 64, read("green", GREEN))
    assert reads == ["red", "green", "other", "green"]


def test_a_thumbnail_is_a_jpeg_of_at_most_its_size_a_side():
    data = ThumbnailCache().get(b"wide", 32, _wide)
    assert Image.open(io.BytesIO(data)).size == (32, 8)
    assert image_type(data) == "image/jpeg"


def _wide():
    out = io.BytesIO()
    Image.new("RGB", (400, 100), GREEN).save(out, format="PNG")
    return out.getvalue()
