"""How an example is shown to a person: a small image, the beginning of a text or of a sound."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np

from fewshot.media.images import ImageSource, open_image
from fewshot.media.sounds import SoundSource, open_sound
from fewshot.media.texts import TextSource, open_text
from fewshot.media.wav import wav_bytes

SIDE = 160
"""Pixels of a preview at most, a side."""
_CHARACTERS, _SECONDS = 400, 4.0


@dataclass(frozen=True)
class Preview:
    """What is shown: its media type, "image/jpeg", "text/plain" or "audio/wav", and the bytes, of a text UTF-8."""

    media_type: str
    data: bytes


def thumbnail(source: ImageSource, size: int) -> bytes:
    """Return a JPEG of at most ``size`` pixels a side.

    Raises
    ------
    ImageError : naming the source, if it cannot be read.
    """
    image = open_image(source)
    image.thumbnail((size, size))
    out = io.BytesIO()
    image.save(out, format="JPEG", quality=85)
    return out.getvalue()


def image_preview(source: ImageSource) -> Preview:
    """Show an image by a JPEG of at most 160 pixels a side."""
    return Preview("image/jpeg", thumbnail(source, SIDE))


def text_preview(source: TextSource) -> Preview:
    """Show a text by its first 400 characters."""
    text = open_text(source)
    shown = text if len(text) <= _CHARACTERS else f"{text[:_CHARACTERS].rstrip()} ..."
    return Preview("text/plain", shown.encode())


def sound_preview(source: SoundSource) -> Preview:
    """Show a sound by its first four seconds, of 16 bits."""
    sound = open_sound(source)
    samples = next(iter(sound.windows(_SECONDS)))
    return Preview("audio/wav", wav_bytes(np.round(samples.clip(-1, 1) * 32767).astype(np.int16), sound.sampling_rate))
