"""Opening one sound, from a file, bytes, samples or a zip, as mono samples that are decoded as they are read."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import IO, TYPE_CHECKING, Any, Union

import numpy as np
from numpy.typing import NDArray

from fewshot.errors import MissingExtra, SoundError
from fewshot.media.cloud_files import CloudFile, without_secrets
from fewshot.media.file_bytes import file_bytes
from fewshot.media.wav import plain_wav, wav_bytes
from fewshot.media.zips import MAX_BYTES, ZippedImage
from fewshot.validation import check_extra

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

SOUND_SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".oga", ".mp3"})

MAX_SECONDS = 4 * 3600
"""Longer sounds are refused: a file of a few bytes can unpack to days."""

_BLOCK = 2**16  # samples decoded at once
_MAX_CHANNELS = 64
_LOUDEST = 100.0  # floats may be a little over 1, but 16-bit numbers as floats are a mistake
_RATES = range(1_000, 768_001)
_MISSING_SECONDS = 0.1  # that a file may lack of what its header says: MP3's is not exact
_KINDS = "a path, a URL, bytes, a binary file object, or (samples, sampling_rate)"

SoundSource: TypeAlias = Union[
    str,
    "os.PathLike[str]",
    bytes,
    bytearray,
    memoryview,
    IO[bytes],
    tuple[NDArray[Any], int],
    ZippedImage,
    CloudFile,
]


@dataclass(frozen=True)
class Sound:
    """A sound whose samples are decoded as they are read: an hour of it takes no more memory than a window.

    Attributes
    ----------
    name : str
        In messages.
    sampling_rate : int
        Samples a second, in Hz.
    n_samples : int
    """

    name: str
    sampling_rate: int
    n_samples: int
    _decode: Callable[[], Iterator[NDArray[np.float32]]]

    @property
    def seconds(self) -> float:
        """The length."""
        return self.n_samples / self.sampling_rate

    def samples(self, sampling_rate: int | None = None) -> NDArray[np.float32]:
        """Return the whole: (n,) float32, the mean of the channels, in [-1, 1].

        Parameters
        ----------
        sampling_rate : int, optional
            In Hz; by default the sound's own.

        Raises
        ------
        MissingExtra : if soxr, which changes the rate, is not installed.
        SoundError : where no sample is left at that rate.
        """
        return np.concatenate(list(self._at_rate(sampling_rate)))

    def windows(self, seconds: float, sampling_rate: int | None = None) -> Iterator[NDArray[np.float32]]:
        """Yield consecutive windows of ``samples``; the last may be shorter."""
        size = max(1, round(seconds * (sampling_rate or self.sampling_rate)))
        held: list[NDArray[np.float32]] = []
        count = 0
        for block in self._at_rate(sampling_rate):
            held.append(block)
            count += len(block)
            if count >= size:
                joined = np.concatenate(held)
                whole = count - count % size
                yield from joined[:whole].reshape(-1, size)
                held, count = [joined[whole:]], count - whole
        if count:
            yield np.concatenate(held)

    def _at_rate(self, sampling_rate: int | None) -> Iterator[NDArray[np.float32]]:
        if sampling_rate is None or sampling_rate == self.sampling_rate:
            yield from self._decode()
            return
        rates = f"{self.sampling_rate:,} samples a second, and the encoder reads {sampling_rate:,}"
        check_extra("audio", f"{self.name} has {rates}: to change the rate needs", "soxr")
        import soxr

        stream = soxr.ResampleStream(self.sampling_rate, sampling_rate, 1, dtype="float32")
        count = 0
        for block in self._decode():
            count += len(changed := stream.resample_chunk(block))
            yield changed
        rest = stream.resample_chunk(np.empty(0, np.float32), last=True)
        if not count + len(rest):
            raise SoundError(self.name, f"is too short: {rates}, which is none of its {self.n_samples}")
        yield rest


def is_samples(source: object) -> bool:
    """Whether it is a pair of samples and their sampling rate."""
    return isinstance(source, tuple) and len(source) == 2 and isinstance(source[1], (int, float, np.number))


def describe_sound(source: SoundSource) -> str:
    """Name a sound for a message: its path where it has one, or its URL without secrets."""
    if isinstance(source, tuple) and is_samples(source):
        return f"<samples of shape {np.shape(source[0])} at {source[1]} Hz>"
    if isinstance(source, (str, ZippedImage, CloudFile)):
        return without_secrets(str(source))
    if isinstance(source, os.PathLike):
        return os.fspath(source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return f"<{len(source)} bytes>"
    return str(getattr(source, "name", f"<{type(source).__name__}>"))


def open_sound(source: SoundSource | Sound) -> Sound:
    """Open a sound; it is decoded once, so that one that is damaged, cut short or silent is refused here.

    Channels are averaged.

    Parameters
    ----------
    source : path, URL, bytes, binary file object, (samples, sampling_rate), ZippedImage or CloudFile
        Files: WAV; with the extra ``audio`` also FLAC, OGG, MP3. Samples: (n,) or (n, channels), int16, or floats in
        [-1, 1], at ``sampling_rate`` Hz.

    Raises
    ------
    SoundError : naming the source, if it cannot be read, is silent, empty, or longer than ``MAX_SECONDS``.
    MissingExtra : for a file that needs soundfile, where that is not installed.
    TypeError : for what is no sound.
    """
    if isinstance(source, Sound):
        return source
    name = describe_sound(source)
    data = sound_bytes(source)
    if not data:
        raise SoundError(name, "the file is empty (0 bytes)")
    try:
        rate, channels, stated, decode = _plain(data, name) or _by_soundfile(data, name)
    except (SoundError, MissingExtra):
        raise
    except Exception as error:
        raise SoundError(name, f"damaged sound file ({_why(error)})") from error
    if rate not in _RATES or not 0 < channels <= _MAX_CHANNELS:
        raise SoundError(name, f"{rate:,} samples a second of {channels} channels are no sound that can be read")
    return Sound(name, rate, _checked(name, rate, stated, decode), decode)


def sound_bytes(source: SoundSource) -> bytes:
    """Return the sound's file, byte for byte; for samples a WAV file of them.

    Raises
    ------
    SoundError : naming the source, if it cannot be read.
    """
    name = describe_sound(source)
    if isinstance(source, tuple) and is_samples(source):
        return _samples_bytes(*source, name)
    return file_bytes(source, name, SoundError, what="a sound", kinds=_KINDS, max_bytes=MAX_BYTES)


def _samples_bytes(given: Any, rate: float, name: str) -> bytes:
    samples = np.asarray(given.detach().cpu() if hasattr(given, "detach") else given)
    if samples.ndim not in (1, 2) or (samples.ndim == 2 and samples.shape[1] > _MAX_CHANNELS):
        raise SoundError(name, "samples have shape (n,) or (n, channels), as soundfile reads them")
    if samples.dtype.kind != "f" and samples.dtype != np.int16:
        raise SoundError(name, f"samples are int16, or floats in [-1, 1], not {samples.dtype}")
    if samples.dtype.kind == "f" and samples.size and not np.abs(samples).max() <= _LOUDEST:
        raise SoundError(name, "samples are floats in [-1, 1]; these hold NaN or far larger values")
    if rate not in _RATES:
        raise SoundError(name, f"the sampling rate is a whole number of Hz from 1,000 to 768,000, not {rate}")
    return wav_bytes(samples, int(rate))


def one_or_several_sounds(sounds: SoundSource | Iterable[SoundSource]) -> Iterable[SoundSource]:
    """Return sounds as they are, and a single one as a list."""
    held = (str, bytes, bytearray, memoryview, os.PathLike, ZippedImage, CloudFile, Sound)
    alone = isinstance(sounds, held) or hasattr(sounds, "read") or is_samples(sounds)
    return [sounds] if alone else sounds  # type: ignore[list-item, return-value]


def sound_type(data: bytes) -> str:
    """Return the media type of a sound file's bytes; "application/octet-stream" where it is not known."""
    if data[:4] in (b"RIFF", b"RF64") and data[8:12] == b"WAVE":
        return "audio/wav"
    if data[:4] == b"fLaC":
        return "audio/flac"
    if data[:4] == b"OggS":
        return "audio/ogg"
    layer_three = len(data) > 1 and data[0] == 0xFF and data[1] & 0xE6 == 0xE2
    return "audio/mpeg" if data[:3] == b"ID3" or layer_three else "application/octet-stream"


_Decoding = tuple[int, int, "int | None", "Callable[[], Iterator[NDArray[np.float32]]]"]


def _plain(data: bytes, name: str) -> _Decoding | None:
    """Sampling rate, channels, number of samples and a decoder of a plain WAV file."""
    if sound_type(data) != "audio/wav":
        return None
    found = plain_wav(data)
    if found is None:
        return None
    if found.missing:
        raise SoundError(name, f"the file is cut short: {found.missing:,} bytes of its samples are missing")
    return found.sampling_rate, found.channels, found.n_frames, lambda: (b.mean(axis=1) for b in found.blocks(_BLOCK))


def _by_soundfile(data: bytes, name: str) -> _Decoding:
    kind = sound_type(data)
    if not kind.startswith("audio/"):
        raise SoundError(name, "not a sound; WAV, FLAC, OGG and MP3 can be read")
    what = kind.removeprefix("audio/").replace("mpeg", "mp3").upper()
    check_extra("audio", f"{name} is a {what} file, which needs", "soundfile")
    import soundfile

    with soundfile.SoundFile(io.BytesIO(data)) as file:
        return file.samplerate, file.channels, file.frames, partial(_soundfile_blocks, data)


def _soundfile_blocks(data: bytes) -> Iterator[NDArray[np.float32]]:
    import soundfile

    with soundfile.SoundFile(io.BytesIO(data)) as file:
        while len(block := file.read(_BLOCK, dtype="float32", always_2d=True)):
            yield block.mean(axis=1)


def _why(error: Exception) -> str:
    """What libsndfile says, without the Python object that it read; else the error's own words."""
    return str(getattr(error, "error_string", error))


def _checked(name: str, rate: int, stated: int | None, decode: Callable[[], Iterator[NDArray[np.float32]]]) -> int:
    """Decode a sound once; return how many samples it has."""
    count, low, high = 0, np.inf, -np.inf
    try:
        for block in decode():
            count += len(block)
            low, high = min(low, float(block.min())), max(high, float(block.max()))
            if not np.isfinite(block).all():
                raise SoundError(name, "its samples hold NaN or infinity")
            if count > MAX_SECONDS * rate:
                raise SoundError(name, f"it is longer than the limit of {MAX_SECONDS / 3600:g} hours; cut it")
    except SoundError:
        raise
    except Exception as error:
        raise SoundError(name, f"the file is cut short or damaged ({_why(error)})") from error
    if not count:
        raise SoundError(name, "holds no samples (0 s)")
    if stated is not None and stated - count > _MISSING_SECONDS * rate:
        raise SoundError(name, f"the file is cut short: it has {count / rate:.1f} of {stated / rate:.1f} s")
    if low == high:
        raise SoundError(name, f"is silent: its {count / rate:.1f} s hold one value only")
    return count
