"""How well the classes of multi-label examples were predicted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fewshot.registry.results import Failure


@dataclass(frozen=True)
class JudgedLabels:
    """One example of an evaluation: its true labels, those predicted, and the probability of each registered class."""

    source: str
    labels: frozenset[str]
    predicted: frozenset[str]
    probabilities: Mapping[str, float]


@dataclass(frozen=True)
class ClassQuality:
    """Of one class: how many examples have it, precision, recall, F1 and average precision, in [0, 1]; NaN for none."""

    n: int
    precision: float
    recall: float
    f1: float
    average_precision: float


@dataclass(frozen=True)
class MultiLabelEvaluation:
    """How well the classes of labelled examples were predicted.

    Attributes
    ----------
    rows : tuple of JudgedLabels
        Every one that could be read.
    failed : tuple of Failure
        Those that could not; not counted.
    unregistered : tuple of str
        Labels that the registry does not know: they are never predicted, and count as missed.
    also_registered : int
        How many are registered examples themselves.
    ignored : tuple of str
        Files that are of another kind, or lie in no class folder.
    """

    rows: tuple[JudgedLabels, ...]
    failed: tuple[Failure, ...] = ()
    unregistered: tuple[str, ...] = ()
    also_registered: int = 0
    ignored: tuple[str, ...] = ()

    @property
    def n(self) -> int:
        """How many were judged."""
        return len(self.rows)

    @property
    def micro_f1(self) -> float:
        """F1 of all decisions together, in [0, 1]; NaN where nothing is true and nothing predicted."""
        truth, predicted, _ = self._tables
        return _f1(truth & predicted, truth, predicted)

    @property
    def macro_f1(self) -> float:
        """The mean F1 of the classes that occur, in [0, 1]."""
        return _mean([one.f1 for one in self.per_class.values() if one.n])

    @property
    def mean_average_precision(self) -> float:
        """The mean of the average precision of the classes that occur, in [0, 1]."""
        return _mean([one.average_precision for one in self.per_class.values() if one.n])

    @property
    def exact(self) -> float:
        """The share of examples of which all labels are right and none is missing, in [0, 1]."""
        return _mean([float(row.labels == row.predicted) for row in self.rows])

    @cached_property
    def per_class(self) -> dict[str, ClassQuality]:
        """The quality of each class that is registered or occurs."""
        truth, predicted, probabilities = self._tables
        found = {}
        for n, label in enumerate(self._labels):
            t, p = truth[:, n], predicted[:, n]
            hits = int((t & p).sum())
            found[label] = ClassQuality(
                int(t.sum()),
                hits / p.sum() if p.any() else float("nan"),
                hits / t.sum() if t.any() else float("nan"),
                _f1(t & p, t, p),
                _average_precision(t, probabilities[:, n]),
            )
        return found

    @cached_property
    def _labels(self) -> list[str]:
        return sorted({label for row in self.rows for label in (*row.labels, *row.probabilities)})

    @cached_property
    def _tables(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.float64]]:
        shape = len(self.rows), len(self._labels)
        truth, predicted = (
            np.array([[label in one for label in self._labels] for one in sets], np.bool_).reshape(shape)
            for sets in ([row.labels for row in self.rows], [row.predicted for row in self.rows])
        )
        values = [[row.probabilities.get(label, 0.0) for label in self._labels] for row in self.rows]
        return truth, predicted, np.array(values, np.float64).reshape(shape)


def _f1(hits: NDArray[np.bool_], truth: NDArray[np.bool_], predicted: NDArray[np.bool_]) -> float:
    total = int(truth.sum()) + int(predicted.sum())
    return 2.0 * int(hits.sum()) / total if total else float("nan")


def _average_precision(truth: NDArray[np.bool_], probabilities: NDArray[np.float64]) -> float:
    if not truth.any():
        return float("nan")
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(truth, probabilities))


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else float("nan")
