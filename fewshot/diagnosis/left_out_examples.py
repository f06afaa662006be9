"""Examples recognised by a classifier that has learned the others: leave-one-out, in few rounds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from fewshot.calibration import CalibrationTable
    from fewshot.classifiers import FewShotClassifier

ROUNDS = 10
RIVALS = 3
"""So many other classes, the closest, are remembered of each example."""
_MOST_SCORES = 2**24
_LEAST = 1e-9  # probability, of which a logarithm is taken
_SURE = 0.9  # the highest threshold of confident learning


@dataclass(frozen=True)
class LeftOut:
    """How m of n examples were recognised by what was learned without them.

    Attributes
    ----------
    positions : ndarray of shape (m,), int64
        Which of the n, rising: those whose class has another.
    shots : ndarray of shape (m,), int64
        From how many groups of examples their class was learned.
    own : ndarray of shape (m,), float32
        Calibrated probability of their own class.
    correct : ndarray of shape (m,), bool
        Whether that is the closest.
    rivals : ndarray of shape (m, r), int64
        The closest other classes, closest first; r is 3, or all others where there are fewer.
    rival_probabilities : ndarray of shape (m, r), float32
    mistaken_for : ndarray of shape (c,), float64
        The probability that each class has of examples of others, as a mean over the classes of these.
    """

    positions: NDArray[np.int64]
    shots: NDArray[np.int64]
    own: NDArray[np.float32]
    correct: NDArray[np.bool_]
    rivals: NDArray[np.int64]
    rival_probabilities: NDArray[np.float32]
    mistaken_for: NDArray[np.float64]

    @property
    def suspicion(self) -> NDArray[np.float64]:
        """Minus the logarithm of ``own`` (m,): the higher, the likelier that the label is wrong.

        References
        ----------
        Northcutt, Jiang & Chuang 2021, arXiv:1911.00068 (ranking by self-confidence, the probability of the given label
        by a model that has not learned it). Chosen on Tiny ImageNet's training and validation classes, where it found
        as many of the labels flipped on purpose as any of its variants (``benchmarks/doctor.py``).
        """
        return np.asarray(-np.log(self.own.astype(np.float64).clip(_LEAST)))

    def mislabelled(self, codes: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which (m,) are counted as of another class, ``rivals[:, 0]``, by confident learning.

        One is where another class is as likely as that is, on average, of its own examples, and the closest.

        Parameters
        ----------
        codes : ndarray of shape (n,), int64
            The classes of all examples.

        References
        ----------
        Northcutt, Jiang & Chuang 2021, arXiv:1911.00068 (the confident joint). Ours: no threshold is above 0.9, as of
        few examples each may be surer; and a class of which none was left out has the mean threshold.
        """
        own = codes[self.positions]
        counts = np.bincount(own, minlength=len(self.mistaken_for))
        sums = np.bincount(own, self.own.astype(np.float64), minlength=len(counts))
        threshold = np.where(counts > 0, sums / counts.clip(1), self.own.mean())
        sure = self.rival_probabilities[:, 0] >= threshold.clip(max=_SURE)[self.rivals[:, 0]]
        return np.asarray(~self.correct & sure)


def leave_out_rounds(
    codes: NDArray[np.int64], groups: NDArray[np.int64] | None = None, rounds: int = ROUNDS
) -> list[NDArray[np.bool_]]:
    """Return masks (n,) of examples to be left out at once; each example is in one mask at most.

    In each round one of every class is left out, and of a class of more than ``rounds`` as many as it takes to get
    through. A class of one keeps it.

    Parameters
    ----------
    codes : ndarray of shape (n,), int64
        The class of each.
    groups : ndarray of shape (n,), int64, optional
        What has the same number, as near-duplicates, counts as one: it is left out together.
    """
    keys, group = _groups(codes, np.arange(len(codes)) if groups is None else groups)
    counts = np.bincount(keys, minlength=int(codes.max(initial=-1)) + 1)
    within = np.arange(len(keys)) - np.repeat(np.cumsum(counts) - counts, counts)
    n_rounds = min(rounds, int(counts.max(initial=0)))
    masks = [(within[group] % n_rounds == turn) & (counts[codes] > 1) for turn in range(n_rounds)]
    return [mask for mask in masks if mask.any()]


def group_counts(codes: NDArray[np.int64], groups: NDArray[np.int64], n_classes: int) -> NDArray[np.int64]:
    """Return of how many groups the examples of each class are: (c,)."""
    return np.bincount(_groups(codes, groups)[0], minlength=n_classes)


def left_out(
    classifier: FewShotClassifier,
    vectors: NDArray[np.float32],
    codes: NDArray[np.int64],
    *,
    groups: NDArray[np.int64] | None = None,
    calibration: CalibrationTable | None = None,
) -> LeftOut:
    """Recognise each example by the others.

    Parameters
    ----------
    classifier : FewShotClassifier
        Cloned and fitted once a round.
    vectors : ndarray of shape (n, d), float32
    codes : ndarray of shape (n,), int64
        0 to c - 1, each of which occurs, one of them twice; c is 2 or more.
    groups
        As of ``leave_out_rounds``.
    calibration
        As of ``FewShotClassifier.predict_proba``.
    """
    c = int(codes.max()) + 1
    groups = np.arange(len(codes)) if groups is None else groups
    rounds = leave_out_rounds(codes, groups)
    asked = np.bincount(codes[np.logical_or.reduce(rounds)], minlength=c)
    weights = 1.0 / (asked.clip(1) * np.count_nonzero(asked))  # such that each class counts alike
    mistaken = np.zeros(c)
    parts = []
    for out in rounds:
        fitted = fitted_to(classifier, vectors[~out], codes[~out])
        learned = group_counts(codes[~out], groups[~out], c)
        rows = np.flatnonzero(out)
        for some in np.array_split(rows, -(-len(rows) * c // _MOST_SCORES)):
            scores, likely = fitted.scores_and_probabilities(vectors[some], calibration)
            mistaken += _add_up(likely, codes[some], weights)
            parts.append((some, learned[codes[some]], *_closest(scores, likely, codes[some])))
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    order = np.argsort(columns[0])
    positions, shots, own, correct, rivals, likely = (column[order] for column in columns)
    return LeftOut(positions, shots, own, correct, rivals, likely, mistaken)


def fitted_to(
    classifier: FewShotClassifier, vectors: NDArray[np.float32], codes: NDArray[np.int64]
) -> FewShotClassifier:
    """Return a copy of a classifier, fitted; its arguments must not be changed afterwards."""
    from sklearn.base import clone

    fitted: FewShotClassifier = clone(classifier).fit(vectors, codes, copy=False)
    return fitted


def _groups(codes: NDArray[np.int64], groups: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The class of each group within a class, rising, and the number of each example's: (g,), (n,)."""
    size = int(groups.max(initial=0)) + 1
    keys, number = np.unique(codes * size + groups, return_inverse=True)
    return keys // size, number.reshape(-1)


def _add_up(likely: NDArray[np.float32], own: NDArray[np.int64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weighted sums (c,) of the probabilities (q, c) that classes have of examples of others."""
    weight = weights[own]
    sums = weight @ likely.astype(np.float64)
    np.subtract.at(sums, own, weight * likely[np.arange(len(own)), own])
    return np.asarray(sums)


def _closest(
    scores: NDArray[np.float32], likely: NDArray[np.float32], own: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.int64], NDArray[np.float32]]:
    """Probability of the own class, whether it is the closest, and the closest others with theirs."""
    from fewshot.vectors import top_k

    rows = np.arange(len(own))
    correct = scores.argmax(axis=1) == own
    others = scores.copy()
    others[rows, own] = -np.inf
    rivals = top_k(others, min(RIVALS, scores.shape[1] - 1))[0]
    return likely[rows, own], correct, rivals, np.take_along_axis(likely, rivals, axis=1)
