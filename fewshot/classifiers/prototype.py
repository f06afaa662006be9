"""Prototypical networks' classifier: the class whose mean embedding is closest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fewshot.classifiers.base import FewShotClassifier
from fewshot.classifiers.membership import Membership
from fewshot.validation import METRICS, Metric, check_choice
from fewshot.vectors import closeness, key_lengths

# Beside more classes than these, the margin of the support is that over so many of them, at equal distances.
_MOST_CLASSES = 2_000


@dataclass(frozen=True)
class _Prototypes:
    means: Tensor  # (e, c, d)
    lengths: Tensor | None  # (e, c), of the means, under "cosine"
    counts: Tensor  # (e, c)

    @classmethod
    def of(cls, means: Tensor, counts: Tensor, metric: Metric) -> _Prototypes:
        return cls(means, key_lengths(means) if metric == "cosine" else None, counts)

    def some(self, classes: Tensor) -> _Prototypes:
        """Those of some classes only."""
        lengths = None if self.lengths is None else self.lengths[:, classes]
        return _Prototypes(self.means[:, classes], lengths, self.counts[:, classes])


class PrototypeClassifier(FewShotClassifier):
    """Classify by the closest class prototype, the mean of the class's support embeddings.

    Parameters
    ----------
    metric : {"cosine", "sqeuclidean", "inner_product"}, default "cosine"
        Closeness of a query to a prototype. "sqeuclidean" is the paper's; "cosine" departs from it and is better
        calibrated on frozen encoders.

    Notes
    -----
    ``scores`` are cosines in [-1, 1], minus squared distances, or inner products. ``predict_proba`` is
    their softmax (eq. 2), scaled so that it is calibrated.

    References
    ----------
    Snell, Swersky & Zemel 2017, arXiv:1703.05175, eq. 1-2 ("sqeuclidean").
    Hu et al. 2022, arXiv:2204.07305, section 3 ("cosine", and its scale).
    """

    def __init__(self, *, metric: Metric = "cosine") -> None:
        self.metric = metric

    def _learn(self, support: Tensor, membership: Membership) -> _Prototypes:
        check_choice("metric", self.metric, METRICS)
        counts = membership.counts()
        means = membership.sums(support).div_(counts.clamp_min(1.0).unsqueeze(-1))
        return _Prototypes.of(means, counts, self.metric)

    def _learn_one(self, support: Tensor, membership: Membership) -> _Prototypes:
        if not _is_one_each(membership, 0):
            return self._learn(support, membership)
        check_choice("metric", self.metric, METRICS)
        return _Prototypes.of(support, membership.counts(), self.metric)  # not copied: see ``_extend``

    def _extend(self, learned: _Prototypes, support: Tensor, membership: Membership) -> _Prototypes:
        known, c = learned.means.shape[1], membership.n_classes
        first = self._support.parts[0]
        shared = learned.means.data_ptr() == first.ctypes.data
        if shared and len(first) == c and _is_one_each(membership, known):
            means, counts = torch.from_numpy(first)[None], torch.ones(1, c)
            touched = membership.labels[0]
        else:
            means = _with_room(learned.means, c, shared)
            counts = torch.nn.functional.pad(learned.counts, (0, c - known))
            touched = torch.unique(membership.labels[0])
            local = Membership(torch.searchsorted(touched, membership.labels), len(touched))
            total = counts[:, touched] + local.counts()
            sums = means[:, touched] * counts[:, touched].unsqueeze(-1) + local.sums(support)
            means[:, touched], counts[:, touched] = sums / total.unsqueeze(-1), total
        if learned.lengths is None:
            return _Prototypes(means, None, counts)
        lengths = torch.nn.functional.pad(learned.lengths, (0, c - known))
        lengths[:, touched] = key_lengths(means[:, touched])
        return _Prototypes(means, lengths, counts)

    def _scores(self, learned: _Prototypes, query: Tensor) -> Tensor:
        return closeness(query, learned.means, self.metric, lengths=learned.lengths)

    def _support_margin(self, learned: _Prototypes, support: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        c = learned.means.shape[1]
        if c <= _MOST_CLASSES:
            return super()._support_margin(learned, support, labels)
        spread = torch.linspace(0, c - 1, _MOST_CLASSES, dtype=torch.float64, device=labels.device).round().long()
        some = torch.unique(torch.cat([spread, labels[labels >= 0]]))
        own = torch.where(labels < 0, -1, torch.searchsorted(some, labels.clamp_min(0)))
        return super()._support_margin(learned.some(some), support, own)

    def _calibration_key(self, n_queries: int) -> str:
        return type(self).__name__ if self.metric == "cosine" else f"PrototypeClassifier of {self.metric}"

    @property
    def prototypes_(self) -> Any:
        """Ndarray of shape (c, d): the class means, ordered as ``classes_``."""
        return self._learned.means[0].numpy().copy()


def _is_one_each(membership: Membership, known: int) -> bool:
    """Whether each class from ``known`` on has one example, in order, and no other has any."""
    own = torch.arange(known, membership.n_classes, device=membership.labels.device)
    return membership.labels.shape == (1, len(own)) and bool((membership.labels[0] == own).all())


def _with_room(means: Tensor, c: int, shared: bool) -> Tensor:
    """Return a tensor (1, c, d) of ``means``, then zeros: in their own memory where that has room, else in new."""
    _, known, d = means.shape
    if shared or means.untyped_storage().nbytes() < c * d * means.element_size():
        grown = means.new_empty(1, c + c // 4, d)
        grown[:, :known] = means
        means = grown
    grown = means.as_strided((1, c, d), (c * d, d, 1), 0)
    grown[:, known:] = 0.0
    return grown
