"""Thumbnails: how large they are, and that one is made once while it is cached."""

from __future__ import annotations

import io

import pytest
from fakes import GREEN, RED, png
from PIL import Image

from fewshot.service import thumbnails
from fewshot.service.thumbnails import ThumbnailCache, media_type


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
    assert media_type(data) == "image/jpeg"


def _wide():
    out = io.BytesIO()
    Image.new("RGB", (400, 100), GREEN).save(out, format="PNG")
    return out.getvalue()


@pytest.mark.parametrize(
    ("suffix", "kind"),
    [("JPEG", "image/jpeg"), ("PNG", "image/png"), ("GIF", "image/gif"), ("BMP", "image/bmp"), ("WEBP", "image/webp"),
     ("TIFF", "image/tiff")],
)  # fmt: skip
def test_the_media_type_is_that_of_the_first_bytes(suffix, kind):
    out = io.BytesIO()
    Image.new("RGB", (8, 8), RED).save(out, format=suffix)
    assert media_type(out.getvalue()) == kind
    assert media_type(b"text") == "application/octet-stream"
