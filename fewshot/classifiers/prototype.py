"""Prototypical networks' classifier: the class whose mean embedding is closest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from fewshot.classifiers.base import FewShotClassifier
from fewshot.classifiers.class_means import ClassMeans, one_of_each, some_classes
from fewshot.classifiers.membership import Membership
from fewshot.validation import METRICS, Metric, check_choice
from fewshot.vectors import closeness, key_lengths


@dataclass(frozen=True)
class _Prototypes:
    of: ClassMeans
    lengths: Tensor | None  # (e, c), of the means, under "cosine"

    @classmethod
    def measured(cls, of: ClassMeans, metric: Metric) -> _Prototypes:
        return cls(of, key_lengths(of.means) if metric == "cosine" else None)


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

    Examples
    --------
    >>> from fewshot import PrototypeClassifier
    >>> classifier = PrototypeClassifier().fit([[1, 0], [2, 1], [0, 1]], ["cat", "cat", "dog"])
    >>> classifier.predict([[1.0, 0.3], [0.3, 0.8]]).tolist()
    ['cat', 'dog']
    >>> classifier.scores([[1, 0]]).round(2)
    array([[0.95, 0.  ]], dtype=float32)
    >>> classifier.partial_fit([[-1.0, 0.2]], ["bird"]).predict([[-0.9, 0.1]]).tolist()
    ['bird']
    """

    def __init__(self, *, metric: Metric = "cosine") -> None:
        self.metric = metric

    def _learn(self, support: Tensor, membership: Membership) -> _Prototypes:
        check_choice("metric", self.metric, METRICS)
        return _Prototypes.measured(ClassMeans.of(support, membership), self.metric)

    def _learn_one(self, support: Tensor, membership: Membership) -> _Prototypes:
        check_choice("metric", self.metric, METRICS)
        return _Prototypes.measured(ClassMeans.of_one(support, membership), self.metric)  # see ``_extend``

    def _extend(self, learned: _Prototypes, support: Tensor, membership: Membership) -> _Prototypes:
        known, c = learned.of.means.shape[1], membership.n_classes
        first = self._support.parts[0]
        shared = learned.of.means.data_ptr() == first.ctypes.data
        if shared and len(first) == c and one_of_each(membership, known):
            of, touched = ClassMeans(torch.from_numpy(first)[None], torch.ones(1, c)), membership.labels[0]
        else:
            of, touched = learned.of.extended(support, membership, shared=shared)
        if learned.lengths is None:
            return _Prototypes(of, None)
        lengths = pad(learned.lengths, (0, c - known))
        lengths[:, touched] = key_lengths(of.means[:, touched])
        return _Prototypes(of, lengths)

    def _scores(self, learned: _Prototypes, query: Tensor) -> Tensor:
        return closeness(query, learned.of.means, self.metric, lengths=learned.lengths)

    def _support_margin(self, learned: _Prototypes, support: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        some = some_classes(learned.of.means.shape[1], labels)
        if some is None:
            return super()._support_margin(learned, support, labels)
        classes, labels = some
        lengths = None if learned.lengths is None else learned.lengths[:, classes]
        few = ClassMeans(learned.of.means[:, classes], learned.of.counts[:, classes])
        return super()._support_margin(_Prototypes(few, lengths), support, labels)

    def _calibration_key(self, n_queries: int) -> str:
        return type(self).__name__ if self.metric == "cosine" else f"PrototypeClassifier of {self.metric}"

    @property
    def prototypes_(self) -> Any:
        """Ndarray of shape (c, d): the class means, ordered as ``classes_``."""
        return self._learned.of.means[0].numpy().copy()
