"""The head of a classifier by NumPy: scores of classes, and the calibrated probability of the best."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewshot.runtime.bundle_file import Bundle
from fewshot.runtime.vector_map import VectorMap, Vectors, cosines, unit_parts

_KINDS = ("cosine", "sqeuclidean", "linear")
_BETA_RANGE = (-3.0, 7.0)  # of its logarithm, as fewshot.calibration has it


class NumpyHead:
    """Scores as the classifier that a bundle was exported from; ``fewshot.classifiers.ExportedHead`` says how.

    Raises
    ------
    ValueError, KeyError : for a description that lacks something.
    """

    def __init__(self, bundle: Bundle) -> None:
        about, self._arrays = bundle.about["head"], bundle.arrays
        self.kind, self._parts = about["kind"], tuple(map(int, about["parts"]))
        d = self._arrays["head_vectors"].shape[1]
        if self.kind not in _KINDS or (self._parts and (sum(self._parts) != d or min(self._parts) < 1)):
            raise ValueError(f"its head of kind {self.kind!r} has parts {self._parts} of vectors of {d} numbers")
        self._map = VectorMap.of(self._arrays, "head", "center")
        self._calibration: dict[str, Any] = bundle.about["calibration"]
        self._keys = self._map(self._arrays["head_vectors"]) if self.kind == "cosine" else self._arrays["head_vectors"]

    def prepared(self, vectors: Vectors) -> Vectors:
        """Return embeddings (n, d) as they are compared: units, or weighted parts."""
        found, scale = unit_parts(vectors, self._parts), self._arrays.get("head_scale")
        return found if scale is None else found * scale

    def scores(self, vectors: Vectors) -> Vectors:
        """Score embeddings (q, d): (q, c), higher is closer."""
        query = self.prepared(vectors)
        if self.kind == "cosine":
            return cosines(self._map(query), self._keys)
        if self.kind == "linear":
            bias = self._arrays.get("head_bias")
            return np.asarray(query @ self._keys.T + (0.0 if bias is None else bias), np.float32)
        # Around the mean key, where float32 loses nothing.
        center = self._keys.mean(axis=0)
        query, keys = query - center, self._keys - center
        squares = (query**2).sum(axis=1, keepdims=True) + (keys**2).sum(axis=1)
        return np.asarray(np.minimum(2.0 * query @ keys.T - squares, 0.0), np.float32)

    def best_probability(self, scores: Vectors) -> NDArray[np.float32] | None:
        """Return the calibrated probability of the best class (q,) of scores (q, c); None of one class."""
        c, of = scores.shape[1], self._calibration
        if c == 1 or not of:
            return None
        best = scores.max(axis=1, keepdims=True)
        margins = (best - scores).astype(np.float64) / of["unit"]
        mean = margins.sum(axis=1, keepdims=True) / (c - 1)
        log_beta = (
            of["intercept"]
            + of["log_ways"] * np.log(np.clip(c, *of["ways_range"]) / 10.0)
            + of["similarity"] * np.clip((best - of["others"]) / of["unit"], *of["similarity_range"])
            + of["log_margin"] * np.log(np.clip(mean, *of["margin_range"]))
        )
        beta, mean, shape = np.exp(np.clip(log_beta, *_BETA_RANGE)), np.maximum(mean, 1e-30), of["shape"]
        distances = mean * np.expm1(shape * np.log1p(margins / mean)) / shape
        share = 1.0 / np.exp(-beta * distances).sum(axis=1)
        return np.asarray((1.0 - of["uniform_mix"]) * share + of["uniform_mix"] / c, np.float32)
