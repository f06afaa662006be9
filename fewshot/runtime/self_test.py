"""Three images whose embeddings a bundle holds: the machine that opens it must compute the same."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fewshot.runtime.vector_map import Vectors, unit

_SIZES = ((61, 83), (96, 96), (150, 40))
_WAVES = ((0.11, 0.07), (0.05, 0.19), (0.31, 0.02))
LEAST_COSINE = 0.999
"""To the stored embeddings."""


def self_test_images() -> list[NDArray[np.uint8]]:
    """Return three images (h, w, 3), the same everywhere."""
    found = []
    for (h, w), (along, across) in zip(_SIZES, _WAVES, strict=True):
        rows, columns = np.mgrid[:h, :w]
        channels = [np.sin(along * rows + k) + np.cos(across * columns - k) for k in range(3)]
        found.append(np.round(127.5 + 63.0 * np.stack(channels, axis=-1)).astype(np.uint8))
    return found


def check_self_test(found: Vectors, wanted: Vectors, least: float) -> None:
    """Compare embeddings (3, d) with those that the bundle holds.

    Raises
    ------
    ValueError : where they are of another direction or length.
    """
    cosine = float((unit(found) * unit(wanted)).sum(axis=1).min())
    lengths = np.linalg.norm(found, axis=1) / np.maximum(np.linalg.norm(wanted, axis=1), 1e-12)
    apart = float(np.abs(lengths - 1.0).max())
    if not (cosine >= least and apart <= 10.0 * (1.0 - least)):  # also where it is no number
        raise ValueError(
            f"its self-test fails: the embeddings of three images have cosines of {cosine:.4f} and more to those of "
            f"the machine that wrote it, at least {least} is needed, and lengths that differ by {apart:.2g}"
        )
