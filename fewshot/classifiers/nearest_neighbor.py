"""The k-nearest-neighbour classifier, over FAISS where the support set is one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from fewshot.classifiers.base import FewShotClassifier
from fewshot.classifiers.membership import Membership
from fewshot.validation import METRICS, Metric, check_choice, check_count
from fewshot.vectors import VectorIndex, closeness

# How many examples are looked at to find each class's closest.
_LOOKED_AT = 100


@dataclass(frozen=True)
class _Neighbours:
    support: Tensor | VectorIndex  # (e, s, d), or the index of a single episode's support
    membership: Membership


class NearestNeighborClassifier(FewShotClassifier):
    """Classify by the votes of the k closest support examples.

    One support set is searched with FAISS, so it may be large; a batch of episodes is searched as one tensor. Both
    give the same neighbours, but for the choice among equally close ones.

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

    def _learn(self, support: Tensor, membership: Membership) -> _Neighbours:
        check_count("n_neighbors", self.n_neighbors)
        check_choice("metric", self.metric, METRICS)
        check_choice("weights", self.weights, ("uniform", "distance"))
        if self.weights == "distance" and self.metric == "inner_product":
            raise ValueError("weights='distance' needs a distance; 'inner_product' is none: use 'cosine'")
        if len(support) > 1 or bool((membership.labels < 0).any()):
            return _Neighbours(support, membership)
        index = VectorIndex(support.shape[2], metric=self.metric)
        index.add(support[0].numpy(), range(support.shape[1]))
        return _Neighbours(index, membership)

    def _extend(self, learned: _Neighbours, support: Tensor, membership: Membership) -> _Neighbours | None:
        if not isinstance(learned.support, VectorIndex):
            return None
        known = learned.membership.labels.shape[1]
        learned.support.add(support[0].numpy(), range(known, known + support.shape[1]))
        labels = torch.cat([learned.membership.labels, membership.labels], dim=1)
        return _Neighbours(learned.support, Membership(labels, membership.n_classes))

    def _scores(self, learned: _Neighbours, query: Tensor) -> Tensor:
        close, votes = self._near(learned, query, self.n_neighbors)
        return self._share(close, votes, learned.membership.n_classes)

    def _near(self, learned: _Neighbours, query: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Closeness of the k nearest examples of queries (e, q, d), nearest first, and their classes: (e, q, k)."""
        labels = learned.membership.labels
        k = min(k, labels.shape[1])
        if isinstance(learned.support, VectorIndex):
            found, ids = learned.support.search(query[0].numpy(), k)
            close, near = torch.from_numpy(found)[None], torch.from_numpy(ids.astype(np.int64))[None]
        else:
            everyone = closeness(query, learned.support, self.metric)
            everyone = everyone.masked_fill((labels < 0).unsqueeze(1), -torch.inf)
            close, near = everyone.topk(k, dim=-1)
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

    def _calibration_logits(self, learned: _Neighbours, query: Tensor, scores: Tensor) -> Tensor:
        """Mean closeness of each class's k closest examples: votes say too little of how near they are."""
        close, classes = self._near(learned, query, _LOOKED_AT)
        farthest = close.masked_fill(classes < 0, torch.inf).amin(-1, keepdim=True)
        counts = (classes >= 0) & (_turns(classes) < self.n_neighbors)
        classes = classes.clamp_min(0)
        number = torch.zeros_like(scores).scatter_add_(2, classes, counts.to(close.dtype))
        total = torch.zeros_like(scores).scatter_add_(2, classes, close.masked_fill(~counts, 0.0))
        found = torch.where(number > 0, total / number.clamp_min(1.0), farthest)  # classes not seen are no nearer
        # The class that has most votes stays the likeliest, and of equally close ones it alone.
        best = found.amax(-1, keepdim=True)
        found = found - 1e-6 * found.abs().amax(-1, keepdim=True)
        return found.scatter(2, scores.argmax(-1, keepdim=True), best)

    def _calibration_key(self, n_queries: int) -> str:
        return type(self).__name__ if self.n_neighbors == 1 else "NearestNeighborClassifier of several"


def _turns(classes: Tensor) -> Tensor:
    """How many before it along the last axis are of its class: (..., k)."""
    order = classes.argsort(dim=-1, stable=True)
    ordered = classes.gather(-1, order)
    place = torch.arange(classes.shape[-1], device=classes.device).expand_as(classes)
    begins = torch.ones_like(classes, dtype=torch.bool)
    begins[..., 1:] = ordered[..., 1:] != ordered[..., :-1]
    start = torch.where(begins, place, 0).cummax(-1).values
    return torch.empty_like(classes).scatter_(-1, order, place - start)
