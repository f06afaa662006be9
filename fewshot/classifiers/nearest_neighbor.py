"""The k-nearest-neighbour classifier: FAISS for an estimator, tensors for a batch of episodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from fewshot.classifiers.base import FewShotClassifier
from fewshot.classifiers.membership import LabelledSupport, Membership
from fewshot.validation import METRICS, Metric, check_choice, check_count
from fewshot.vectors import VectorIndex, closeness

# Of how many nearest examples the probabilities are made.
_CANDIDATES = 100


@dataclass(frozen=True)
class _IndexedSupport:
    index: VectorIndex  # of the one support set that an estimator is fitted to
    membership: Membership


class NearestNeighborClassifier(FewShotClassifier):
    """Classify by the votes of the k closest support examples.

    As an estimator it searches its support set with FAISS, so that it may be large; a batch of episodes is searched as
    one tensor, on its own device. Both find the same neighbours, but for the choice among equally close ones.

    Parameters
    ----------
    n_neighbors : int, default 1
        k. Where fewer examples are known, all vote.
    metric : {"cosine", "sqeuclidean", "inner_product"}, default "cosine"
    weights : {"uniform", "distance"}, default "uniform"
        "distance": a vote counts the reciprocal of the neighbour's distance (for "cosine", 1 - cosine; for
        "sqeuclidean", the Euclidean distance); an exact match outvotes all others. Not for "inner_product", which is
        no distance.

    Notes
    -----
    ``scores`` are the shares of the votes, in [0, 1]. A draw goes to the first of ``classes_``,
    as in scikit-learn.

    References
    ----------
    Cover & Hart 1967, Nearest neighbor pattern classification; the weights are scikit-learn's.

    Examples
    --------
    >>> from fewshot import NearestNeighborClassifier
    >>> classifier = NearestNeighborClassifier(n_neighbors=3).fit([[1, 0], [2, 1], [0, 1]], ["cat", "cat", "dog"])
    >>> classifier.predict([[1.0, 0.3]]).tolist()
    ['cat']
    >>> classifier.scores([[0.1, 1.0]]).round(2)
    array([[0.67, 0.33]], dtype=float32)
    """

    def __init__(
        self,
        *,
        n_neighbors: int = 1,
        metric: Metric = "cosine",
        weights: Literal["uniform", "distance"] = "uniform",
    ) -> None:
        self.n_neighbors = n_neighbors
        self.metric = metric
        self.weights = weights

    def _learn(self, support: Tensor, membership: Membership) -> LabelledSupport:
        check_count("n_neighbors", self.n_neighbors)
        check_choice("metric", self.metric, METRICS)
        check_choice("weights", self.weights, ("uniform", "distance"))
        if self.weights == "distance" and self.metric == "inner_product":
            raise ValueError("weights='distance' needs a distance; 'inner_product' is none: use 'cosine'")
        return LabelledSupport(support, membership)

    def _learn_one(self, support: Tensor, membership: Membership) -> _IndexedSupport:
        self._learn(support, membership)  # for its checks
        index = VectorIndex(support.shape[2], metric=self.metric)
        index.add(support[0].numpy(), range(support.shape[1]))
        return _IndexedSupport(index, membership)

    def _extend(self, learned: _IndexedSupport, support: Tensor, membership: Membership) -> _IndexedSupport:
        known = learned.membership.labels.shape[1]
        learned.index.add(support[0].numpy(), range(known, known + support.shape[1]))
        labels = torch.cat([learned.membership.labels, membership.labels], dim=1)
        return _IndexedSupport(learned.index, Membership(labels, membership.n_classes))

    def _scores(self, learned: LabelledSupport | _IndexedSupport, query: Tensor) -> Tensor:
        close, votes = self._near(learned, query, self.n_neighbors)
        return self._share(close, votes, learned.membership.n_classes)

    def _near(self, learned: LabelledSupport | _IndexedSupport, query: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Closeness of the k nearest examples of queries (e, q, d), nearest first, and their classes: (e, q, k)."""
        labels = learned.membership.labels
        k = min(k, labels.shape[1])
        if isinstance(learned, _IndexedSupport):
            found, ids = learned.index.search(query[0].numpy(), k)
            close, near = torch.from_numpy(found)[None], torch.from_numpy(ids.astype(np.int64))[None]
        else:
            scores = closeness(query, learned.support, self.metric)
            scores = scores.masked_fill((labels < 0).unsqueeze(1), -torch.inf)
            close, near = scores.topk(k, dim=-1)
        return close, labels.unsqueeze(1).expand(-1, query.shape[1], -1).gather(2, near)

    def _share(self, close: Tensor, votes: Tensor, c: int) -> Tensor:
        """Count the votes of neighbours with closeness (e, q, k) and classes (e, q, k): shares (e, q, c)."""
        weight = self._weight(close).masked_fill(votes < 0, 0.0)
        counted = weight.new_zeros(*votes.shape[:2], c).scatter_add_(2, votes.clamp_min(0), weight)
        return counted / counted.sum(dim=-1, keepdim=True)

    def _weight(self, close: Tensor) -> Tensor:
        if self.weights == "uniform":
            return torch.ones_like(close)
        distance = (1.0 - close) if self.metric == "cosine" else (-close).sqrt()
        exact = distance <= 0.0
        return torch.where(exact.any(dim=-1, keepdim=True), exact.to(close.dtype), distance.reciprocal())

    def _calibration_logits(self, learned: LabelledSupport | _IndexedSupport, query: Tensor, scores: Tensor) -> Tensor:
        """Mean closeness of each class's k closest examples: votes alone lack the distances."""
        close, classes = self._near(learned, query, _CANDIDATES)
        farthest = close.masked_fill(classes < 0, torch.inf).amin(-1, keepdim=True)
        counts = (classes >= 0) & (_turns(classes) < self.n_neighbors)
        classes = classes.clamp_min(0)
        number = torch.zeros_like(scores).scatter_add_(2, classes, counts.to(close.dtype))
        total = torch.zeros_like(scores).scatter_add_(2, classes, close.masked_fill(~counts, 0.0))
        # A class that is not among these is as close as the farthest of them.
        found = torch.where(number > 0, total / number.clamp_min(1.0), farthest)
        # The class with most votes stays the likeliest, the only one where several are equally close.
        best = found.amax(-1, keepdim=True)
        found = found - 1e-6 * found.abs().amax(-1, keepdim=True)
        return found.scatter(2, scores.argmax(-1, keepdim=True), best)

    def _calibration_key(self, n_queries: int) -> str:
        return type(self).__name__ if self.n_neighbors == 1 else "NearestNeighborClassifier of several"


def _turns(classes: Tensor) -> Tensor:
    """Index of each entry among those of its class along the last axis: (..., k)."""
    order = classes.argsort(dim=-1, stable=True)
    ordered = classes.gather(-1, order)
    place = torch.arange(classes.shape[-1], device=classes.device).expand_as(classes)
    begins = torch.ones_like(classes, dtype=torch.bool)
    begins[..., 1:] = ordered[..., 1:] != ordered[..., :-1]
    start = torch.where(begins, place, 0).cummax(-1).values
    return torch.empty_like(classes).scatter_(-1, order, place - start)
