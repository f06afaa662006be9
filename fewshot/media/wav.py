"""WAV files: read where their samples are plain numbers, and written."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_UNKNOWN = (0, 0xFFFFFFFF)  # the size of the samples where the file was written to a pipe


@dataclass(frozen=True)
class PlainWav:
    """The samples of a WAV file of integers or floats.

    Attributes
    ----------
    sampling_rate, channels : int
    n_frames : int
        Samples of each channel.
    missing : int
        Bytes of samples that the header tells of and the file lacks.
    """

    sampling_rate: int
    channels: int
    n_frames: int
    missing: int
    _samples: memoryview
    _bits: int
    _floats: bool

    def blocks(self, size: int) -> Iterator[NDArray[np.float32]]:
        """Yield arrays (at most ``size``, channels) in [-1, 1], in order."""
        step = self.channels * self._bits // 8
        for start in range(0, self.n_frames, size):
            part = self._samples[start * step : min(start + size, self.n_frames) * step]
            yield self._scaled(part).reshape(-1, self.channels)

    def _scaled(self, part: memoryview) -> NDArray[np.float32]:
        samples: NDArray[Any]
        if self._floats:
            samples = np.frombuffer(part, f"<f{self._bits // 8}")
        elif self._bits == 8:
            samples = (np.frombuffer(part, np.uint8) - 128.0) / 128
        elif self._bits == 24:
            wide = np.zeros((len(part) // 3, 4), np.uint8)
            wide[:, 1:] = np.frombuffer(part, np.uint8).reshape(-1, 3)
            samples = wide.view("<i4").ravel() / 2.0**31
        else:
            samples = np.frombuffer(part, f"<i{self._bits // 8}") / 2.0 ** (self._bits - 1)
        return samples.astype(np.float32)


def plain_wav(data: bytes) -> PlainWav | None:
    """Read a WAV file's header; None where its samples are not plain numbers, or it has none.

    Raises
    ------
    ValueError : if the header is damaged.
    """
    layout: tuple[int, ...] | None = None
    for name, start, size in _chunks(data):
        if name == b"fmt ":
            if size < 16 or start + 16 > len(data):
                raise ValueError("its format chunk is too short")
            layout = struct.unpack_from("<HHIIHH", data, start)
            if layout[0] == _EXTENSIBLE and size >= 26:
                layout = (*struct.unpack_from("<H", data, start + 24), *layout[1:])
        elif name == b"data" and layout is not None:
            return _plain(data, start, size, layout)
    return None


def wav_bytes(samples: NDArray[Any], sampling_rate: int) -> bytes:
    """Return the WAV file of samples (n,) or (n, channels): of 16 bits for int16, else of 32-bit floats."""
    floats = samples.dtype != np.int16
    body = np.ascontiguousarray(samples, "<f4" if floats else "<i2").tobytes()
    channels = 1 if samples.ndim == 1 else samples.shape[1]
    width = 4 if floats else 2
    kind, frame = (_FLOAT if floats else _PCM), channels * width
    layout = struct.pack("<HHIIHH", kind, channels, sampling_rate, sampling_rate * frame, frame, 8 * width)
    chunks = b"fmt " + struct.pack("<I", len(layout)) + layout
    if floats:  # as the standard asks of samples that are no integers
        chunks += b"fact" + struct.pack("<II", 4, len(samples))
    chunks += b"data" + struct.pack("<I", len(body)) + body
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """The name, beginning and stated size of each chunk."""
    at = 12
    while at + 8 <= len(data):
        name, size = struct.unpack_from("<4sI", data, at)
        yield name, at + 8, size
        at += 8 + size + size % 2


def _plain(data: bytes, start: int, size: int, layout: tuple[int, ...]) -> PlainWav | None:
    kind, channels, rate, _, _, bits = layout
    if not ((kind == _PCM and bits in (8, 16, 24, 32)) or (kind == _FLOAT and bits in (32, 64))):
        return None
    if not channels:
        raise ValueError("it has no channels")
    held = len(data) - start
    stated = held if size in _UNKNOWN and held else size
    n_frames = min(held, stated) // (channels * bits // 8)
    return PlainWav(rate, channels, n_frames, max(0, stated - held), memoryview(data)[start:], bits, kind == _FLOAT)
