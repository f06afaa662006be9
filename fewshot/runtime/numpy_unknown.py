"""The default unknown score by NumPy; ``fewshot.openset`` says what it is."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewshot.runtime.bundle_file import Bundle
from fewshot.runtime.vector_map import VectorMap, Vectors, cosines, unit

_TINY = 1e-12


class NumpyUnknown:
    """Scores embeddings as to whether they are of none of a bundle's classes.

    Raises
    ------
    ValueError, KeyError : for a description that lacks something.
    """

    def __init__(self, bundle: Bundle) -> None:
        arrays, about = bundle.arrays, bundle.about["unknown"]
        self.prototypes = arrays.get("unknown_prototypes", arrays["head_vectors"])
        self._map = VectorMap.of(arrays, "unknown", "mean")
        self._negatives, self._center = arrays.get("unknown_negatives"), arrays.get("unknown_center")
        self._background, self._scale = bool(about["background"]), float(about["scale"])
        self._center_classes = int(about["center_classes"])
        if (self._center is not None) != (self._center_classes > 0):
            raise ValueError(f"its unknown.center_classes is {self._center_classes}, which is not that of its center")
        self._keys = self._map(self.prototypes)

    def scores(self, vectors: Vectors) -> NDArray[np.float64]:
        """Score embeddings (q, d): (q,), higher is more surely of no class."""
        query = unit(vectors)
        logits = self._scale * self._closeness(query).astype(np.float64)
        best = logits.max(axis=1, keepdims=True)
        found = -(np.log(np.exp(logits - best).sum(axis=1)) + best[:, 0]) / self._scale
        if self._negatives is not None:
            to_classes = cosines(query, self.prototypes).max(axis=1)
            found = found + np.maximum(cosines(query, self._negatives).max(axis=1) - to_classes, 0.0)
        return np.asarray(found)

    def _closeness(self, query: Vectors) -> NDArray[np.floating[Any]]:
        if self._background:
            return cosines(self._map(query), self._keys)
        if len(self._keys) == 1 and self._center is None:
            return cosines(query, self.prototypes)
        return self._contrasted(self._map(query))

    def _contrasted(self, query: Vectors) -> NDArray[np.float64]:
        """Return cos(q - m_k, p_k - m_k) with m_k the mean of all that are compared but p_k: (q, c)."""
        keys, q = self._keys.astype(np.float64), query.astype(np.float64)
        total, number = keys.sum(axis=0), float(len(keys))
        if self._center is not None:
            weight = self._center_weight(self._center)
            total, number = total + weight * self._map(self._center[None])[0], number + weight
        means = (total - keys) / (number - 1.0)
        theirs = keys - means
        # (q - m_k) (p_k - m_k) and |q - m_k|, without an array of (q, c, d).
        along = q @ theirs.T - (means * theirs).sum(axis=1)
        ours = (q**2).sum(axis=1, keepdims=True) - 2.0 * q @ means.T + (means**2).sum(axis=1)
        lengths = np.maximum(ours, _TINY) * np.maximum((theirs**2).sum(axis=1), _TINY)
        return np.asarray(np.clip(along / np.sqrt(lengths), -1.0, 1.0))

    def _center_weight(self, center: Vectors) -> float:
        """How many classes the encoder's centre counts as, as ``fewshot.openset.Center.weight``."""
        c, most = len(self.prototypes), self._center_classes
        if c == 1:
            return float(most)
        prototypes = self.prototypes.astype(np.float64)
        mean = prototypes.mean(axis=0)
        variance = max(float(((prototypes - mean) ** 2).sum()), _TINY) / (c - 1)
        return variance / max(float(((mean - center) ** 2).sum()) - variance / c, variance / most)
