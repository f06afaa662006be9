"""Encoders of texts and sounds whose vectors come from numpy, and a few texts and sounds of two classes."""

from __future__ import annotations

import zlib

import numpy as np

from fewshot import FunctionEncoder
from fewshot.media import Sound, wav_bytes

RATE = 8000
DIM = 64


def _trigrams(texts: list[str]) -> np.ndarray:
    """Hashed character trigrams: how often each falls into one of ``DIM`` buckets."""
    vectors = np.zeros((len(texts), DIM), np.float32)
    for vector, text in zip(vectors, texts, strict=True):
        padded = f"  {text.lower()}  "
        for n in range(len(padded) - 2):
            vector[zlib.crc32(padded[n : n + 3].encode()) % DIM] += 1
    return vectors


def _log_spectrum(sounds: list[Sound]) -> np.ndarray:
    """The mean of the windows' log magnitudes in ``DIM`` bands."""
    return np.stack([np.mean([_bands(window) for window in sound.windows(0.1, RATE)], axis=0) for sound in sounds])


def _bands(window: np.ndarray) -> np.ndarray:
    magnitudes = np.abs(np.fft.rfft(window, n=2 * DIM * 4))[1:]
    return np.log1p(magnitudes.reshape(DIM, -1).sum(axis=1))


class Named(FunctionEncoder):
    """A function's encoder that a registry can load again by its name."""

    @property
    def spec(self):
        return {"name": f"test-{self.modality}"}


def text_encoder() -> FunctionEncoder:
    return Named(_trigrams, DIM, "character trigrams 1", modality="text")


def sound_encoder() -> FunctionEncoder:
    return Named(_log_spectrum, DIM, "log spectrum 1", modality="audio")


def load_test_encoder(name: str = "test-text", **_: object) -> FunctionEncoder:
    """What takes the place of ``load_encoder``."""
    return {"test-text": text_encoder, "test-audio": sound_encoder}[name]()


FILMS = ["a fine film", "a fine and moving film", "fine acting, a fine film", "what a fine old film"]
SOUPS = ["boil the onions", "boil the onions and leeks", "chop and boil onions", "then boil more onions"]


def tone(hertz: float, seconds: float = 0.3, seed: int = 0) -> np.ndarray:
    """A tone with a little noise, float32 in [-1, 1]."""
    noise = np.random.default_rng(seed).normal(0, 0.01, round(seconds * RATE))
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(len(noise)) / RATE) + noise).astype(np.float32)


def tone_file(hertz: float, seed: int = 0) -> bytes:
    return wav_bytes(tone(hertz, seed=seed), RATE)


LOW, HIGH = (300.0, 310.0, 320.0, 330.0), (2000.0, 2050.0, 2100.0, 2150.0)
