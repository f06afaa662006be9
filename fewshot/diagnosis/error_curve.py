"""How errors grow fewer with the examples of each class: a power law, fitted to subsets of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fewshot.diagnosis.left_out_examples import LeftOut, fitted_to, leave_out_rounds

if TYPE_CHECKING:
    from fewshot.classifiers import FewShotClassifier

# Of subsets; small registries are asked in more rounds, as chance says more there.
_SIZES = (1, 2, 3, 5, 8, 13, 21, 34)
_ROUNDS, _FEW_ROUNDS, _MANY, _MOST_ASKED = 5, 3, 2_000, 1_000
# What is expected of the exponent before anything is measured, and how surely.
_EXPONENT, _DEVIATION = 0.5, 0.2


@dataclass(frozen=True)
class CurvePoint:
    """The share of ``n`` examples that were recognised from ``shots`` examples of their class, a geometric mean."""

    shots: float
    accuracy: float
    n: int


@dataclass(frozen=True)
class LearningCurve:
    """The odds error / (1 - error) are proportional to shots ** -exponent.

    Attributes
    ----------
    points : tuple of CurvePoint
        By rising shots; the last is leave-one-out's.
    exponent : float
        0 or above.

    References
    ----------
    Hestness et al. 2017, arXiv:1712.00409 (error falls as a power of the number of examples, which is the same where it
    is small; where it is near 1, as of many classes from one example, it cannot). No floor is fitted: over the few
    shots there are, none can be told from a smaller exponent.
    """

    points: tuple[CurvePoint, ...]
    exponent: float

    def remaining(self, error: float, times: NDArray[np.float64] | float) -> NDArray[np.float64]:
        """Return which share of an error is left once there are so many times the examples."""
        return np.asarray(1.0 / (error + (1.0 - error) * np.asarray(times, np.float64) ** self.exponent))


def learning_curve(
    classifier: FewShotClassifier,
    vectors: NDArray[np.float32],
    codes: NDArray[np.int64],
    found: LeftOut,
    *,
    groups: NDArray[np.int64],
    random_state: int = 0,
) -> LearningCurve:
    """Fit it to the accuracy from 1, 2, 3, 5, 8, ... groups of examples of each class, and to leave-one-out's.

    Of registries of more than 2,000 examples three rounds of at most 1,000 examples, evenly spaced, are asked a size.
    The exponent is the likeliest by a normal prior of mean 0.5 and deviation 0.2, about what it is of Tiny ImageNet's
    training classes and Omniglot's background.

    Parameters
    ----------
    classifier, vectors, codes, groups
        As of ``left_out``, which gave ``found``.
    random_state : int
        Of the draws of subsets.
    """
    rng = np.random.default_rng(random_state)
    last = CurvePoint(_geometric_mean(found.shots), float(found.correct.mean()), len(found.correct))
    rounds = leave_out_rounds(codes, groups)[: _ROUNDS if len(codes) <= _MANY else _FEW_ROUNDS]
    points = []
    for size in _SIZES:
        if size > 0.8 * last.shots:
            break
        right, shots = [], []
        for out in rounds:
            kept, known = _subset(codes, groups, ~out, size, rng)
            rows = np.flatnonzero(out)
            rows = rows[:: max(1, len(rows) // _MOST_ASKED)]
            answers = fitted_to(classifier, vectors[kept], codes[kept]).predict(vectors[rows])
            right.append(answers == codes[rows])
            shots.append(known[codes[rows]])
        hits = np.concatenate(right)
        points.append(CurvePoint(_geometric_mean(np.concatenate(shots)), float(hits.mean()), len(hits)))
    points.append(last)
    return LearningCurve(tuple(points), _exponent(points))


def mean_ratio(after: NDArray[Any], before: NDArray[Any]) -> float:
    """Return the geometric mean of how many times as many there are after as before."""
    return float(np.exp(np.log(after / before).mean()))


def _geometric_mean(shots: NDArray[np.int64]) -> float:
    return float(np.exp(np.log(shots).mean()))


def _subset(
    codes: NDArray[np.int64], groups: NDArray[np.int64], there: NDArray[np.bool_], size: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions of one example of each of at most ``size`` groups a class, drawn from those there; how many: (c,)."""
    drawn = rng.permutation(np.flatnonzero(there))
    _, first = np.unique(codes[drawn] * (int(groups.max()) + 1) + groups[drawn], return_index=True)
    drawn = drawn[np.sort(first)]
    drawn = drawn[np.argsort(codes[drawn], kind="stable")]
    counts = np.bincount(codes[drawn], minlength=int(codes.max()) + 1)
    within = np.arange(len(drawn)) - np.repeat(np.cumsum(counts) - counts, counts)
    return drawn[within < size], counts.clip(max=size)


def _exponent(points: list[CurvePoint]) -> float:
    """The exponent by weighted least squares on the logarithms of odds, and its prior."""
    x = np.log([point.shots for point in points])
    n = np.array([point.n for point in points], np.float64)
    error = (n * (1.0 - np.array([point.accuracy for point in points])) + 0.5) / (n + 1.0)
    weights = n * error * (1.0 - error)  # one over the variance of the logarithm
    y = np.log(error / (1.0 - error))
    x, y = x - np.average(x, weights=weights), y - np.average(y, weights=weights)
    precision = _DEVIATION**-2
    slope = (-(weights * x * y).sum() + precision * _EXPONENT) / ((weights * x * x).sum() + precision)
    return max(0.0, float(slope)) if math.isfinite(slope) else _EXPONENT
