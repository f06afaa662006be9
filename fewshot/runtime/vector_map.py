"""Maps of vectors by NumPy: to unit length, and around a centre along some axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
_SHORTEST = 1e-12


def unit(vectors: Vectors) -> Vectors:
    """Divide vectors (..., d) by their lengths; what is shorter than 1e-12 by that."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, _SHORTEST), np.float32)


def unit_parts(vectors: Vectors, sizes: Sequence[int]) -> Vectors:
    """Divide each part of vectors (n, d) by its length; without sizes the vectors stay."""
    if not sizes:
        return vectors
    parts = np.split(vectors, np.cumsum(sizes)[:-1], axis=-1)
    return np.concatenate([unit(part) for part in parts], axis=-1)


@dataclass(frozen=True)
class VectorMap:
    """x -> (x - center) W, where W is I + axes diag(factors) axes', or axes without factors, or I without axes."""

    center: Vectors | None
    axes: Vectors | None
    factors: Vectors | None

    @classmethod
    def of(cls, arrays: Mapping[str, Vectors], prefix: str, center: str) -> VectorMap:
        """Take it from the arrays of a bundle."""
        return cls(*(arrays.get(f"{prefix}_{name}") for name in (center, "axes", "factors")))

    def __call__(self, vectors: Vectors) -> Vectors:
        """Map vectors (n, d)."""
        moved = vectors if self.center is None else vectors - self.center
        if self.axes is None:
            return moved
        along = moved @ self.axes
        mapped = along if self.factors is None else moved + (along * self.factors) @ self.axes.T
        return np.asarray(mapped, np.float32)


def cosines(query: Vectors, keys: Vectors) -> Vectors:
    """Return the cosine of each query (q, d) to each key (k, d): (q, k)."""
    return np.asarray(np.clip(unit(query) @ unit(keys).T, -1.0, 1.0), np.float32)
