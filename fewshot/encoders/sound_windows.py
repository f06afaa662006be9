"""Embedding sounds window by window, so that an hour takes no more memory than some windows."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fewshot.encoders.encoder import Encoded, check_image_batch, counted, gathered
from fewshot.encoders.image_transformer import ImageTransformer
from fewshot.errors import SoundError
from fewshot.media import Modality, Sound, attempt, open_sound
from fewshot.progress import Progress

_BATCH = 8


class SoundEncoder(ImageTransformer):
    """Base of encoders of sounds: one's vector is the mean of those of its windows, weighted by their lengths.

    A subclass gives ``windows`` of a sound and ``embed`` of windows of one length; no sound is padded to another's
    length, so one embeds the same alone, in any batch.
    """

    @property
    def modality(self) -> Modality:
        """What it embeds."""
        return "audio"

    def encode_valid(self, images: Iterable[Any]) -> Encoded:
        """Embed the sounds that can be read, and list the others; sounds are resampled and their channels averaged."""
        _ = self.dim
        source, total = counted(check_image_batch(images, "audio"))
        with Progress(total, "encode", unit="sound") as bar:
            return gathered(self._each(source), self.dim, bar.advance)

    @property
    @abstractmethod
    def dim(self) -> int:
        """The embedding size d."""

    @abstractmethod
    def windows(self, sound: Sound) -> Iterator[tuple[NDArray[np.float32], float]]:
        """Yield windows of a sound (n,), and the weight of each."""

    @abstractmethod
    def embed(self, windows: NDArray[np.float32]) -> torch.Tensor:
        """Embed m windows (m, n): (m, d)."""

    def finished(self, mean: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return a sound's vector, of the weighted mean (d,) of its windows' vectors."""
        return mean

    def _each(self, source: Iterator[Any]) -> Iterator[tuple[list[Any], NDArray[np.float32]]]:
        for given in source:
            outcome = attempt(self._one, given)
            failed = isinstance(outcome, SoundError)
            vectors = np.empty((0, self.dim), np.float32) if failed else np.asarray(outcome)[None]
            yield [outcome], vectors

    def _one(self, given: Any) -> NDArray[np.float32]:
        total, weight = np.zeros(self.dim), 0.0
        for windows, weights in _batches(self.windows(open_sound(given))):
            with torch.inference_mode():
                vectors = self.embed(windows).float().cpu().numpy()
            total += weights @ vectors
            weight += float(weights.sum())
        return self.finished((total / weight).astype(np.float32))


def _batches(
    windows: Iterator[tuple[NDArray[np.float32], float]],
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float64]]]:
    """Put up to eight consecutive windows of one length together: (m, n), and their weights (m,)."""
    held: list[tuple[NDArray[np.float32], float]] = []
    for window in windows:
        if held and (len(held) == _BATCH or len(held[0][0]) != len(window[0])):
            yield np.stack([one for one, _ in held]), np.array([weight for _, weight in held])
            held = []
        held.append(window)
    if held:
        yield np.stack([one for one, _ in held]), np.array([weight for _, weight in held])
