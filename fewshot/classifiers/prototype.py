"""Prototypical networks' classifier: the class whose mean embedding is closest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fewshot.classifiers.base import FewShotClassifier
from fewshot.classifiers.membership import Membership
from fewshot.validation import Metric
from fewshot.vectors import closeness, prepared_keys


@dataclass(frozen=True)
class _Prototypes:
    means: Tensor  # (e, c, d)
    keys: Tensor  # (e, c, d): the means as ``closeness`` wants them, prepared once for all queries
    counts: Tensor  # (e, c)


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
        counts = membership.counts()
        means = membership.sums(support) / counts.clamp_min(1.0).unsqueeze(-1)
        return _Prototypes(means, prepared_keys(means, self.metric), counts)

    def _extend(self, learned: _Prototypes, support: Tensor, membership: Membership) -> _Prototypes:
        grown = (0, membership.n_classes - learned.means.shape[1])
        means = torch.nn.functional.pad(learned.means, (0, 0, *grown))
        touched = torch.unique(membership.labels[0])
        local = Membership(torch.searchsorted(touched, membership.labels), len(touched))
        before = torch.nn.functional.pad(learned.counts, grown)
        counts = before.index_add(1, touched, local.counts())
        totals = means[:, touched] * before[:, touched].unsqueeze(-1) + local.sums(support)
        means[:, touched] = totals / counts[:, touched].unsqueeze(-1)
        if self.metric != "cosine":
            return _Prototypes(means, means, counts)
        keys = torch.nn.functional.pad(learned.keys, (0, 0, *grown))
        keys[:, touched] = prepared_keys(means[:, touched], self.metric)
        return _Prototypes(means, keys, counts)

    def _scores(self, learned: _Prototypes, query: Tensor) -> Tensor:
        return closeness(query, learned.keys, self.metric, prepared=True)

    def _calibration_key(self, n_queries: int) -> str:
        return type(self).__name__ if self.metric == "cosine" else f"PrototypeClassifier of {self.metric}"

    @property
    def prototypes_(self) -> Any:
        """Ndarray of shape (c, d): the class means, ordered as ``classes_``."""
        return self._learned.means[0].numpy()
