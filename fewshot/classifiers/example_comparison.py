"""Closeness of queries to single examples, in the space where a method compares them with classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewshot.vectors import closeness


class ExampleComparison:
    """The part of a fitted classifier that explains its answers by examples."""

    _learned: Any

    def prepare(self, vectors: Tensor) -> Tensor:
        """See ``FewShotClassifier.prepare``."""
        raise NotImplementedError

    def example_scores(self, X: NDArray[np.float32], examples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return how close queries are to examples, in the space and metric in which the method compares classes.

        By default that of prepared vectors; a method that maps them further has its own.

        Parameters
        ----------
        X : ndarray of shape (q, d), float32
        examples : ndarray of shape (n, d), float32
            Such as those of the class that was predicted.

        Returns
        -------
        ndarray of shape (q, n)
            In the classifier's ``metric``; cosines where it has none. Higher is closer.
        """
        with torch.inference_mode():
            query, keys = (self.prepare(torch.from_numpy(vectors)) for vectors in (X, examples))
            return np.asarray(closeness(query, keys, getattr(self, "metric", "cosine")).numpy())
