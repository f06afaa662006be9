"""What to add next: the gain to be expected of more examples of each class, by the learning curve."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fewshot.diagnosis.error_curve import mean_ratio

if TYPE_CHECKING:
    from fewshot.diagnosis.error_curve import LearningCurve
    from fewshot.diagnosis.left_out_examples import LeftOut

# A plan goes on while one more example brings at least this share of what the first one did, to at most so many.
_WORTH, _MOST_PLANNED = 0.6, 50


@dataclass(frozen=True)
class ClassNeeds:
    """How much of the error is each class's, and what more examples of it would bring.

    Attributes
    ----------
    shots : ndarray of shape (c,), int64
        Groups of examples that there are.
    error : ndarray of shape (c,), float64
        Its share of the error of queries spread evenly over the classes: half of that of its own queries, and half of
        that of others which are taken for it. Their sum is the error.
    curve : LearningCurve
    """

    shots: NDArray[np.int64]
    error: NDArray[np.float64]
    curve: LearningCurve

    @classmethod
    def of(cls, found: LeftOut, codes: NDArray[np.int64], shots: NDArray[np.int64], curve: LearningCurve) -> ClassNeeds:
        """Share the error of leave-one-out, once corrected to all examples, by the calibrated probabilities.

        A class that has no example to leave out has the mean error, as the curve has it for one example.
        """
        own = codes[found.positions]
        counts = np.bincount(own, minlength=len(shots))
        asked = counts > 0
        wrong = np.bincount(own, ~found.correct, minlength=len(shots))[asked] / counts[asked]
        doubt = np.bincount(own, 1.0 - found.own.astype(np.float64), minlength=len(shots))
        mean = max(float(wrong.mean()), 0.5 / len(own))
        mean *= float(curve.remaining(mean, mean_ratio(shots[own], found.shots)))
        error = np.where(asked, doubt / counts.clip(1), 0.0)
        error[asked] *= mean / max(error[asked].mean(), 1e-12)
        error[~asked] = mean * curve.remaining(mean, 1.0 / mean_ratio(shots[own], np.ones(len(own))))
        taken = found.mistaken_for
        taken = taken * (error.mean() / max(taken.sum(), 1e-12))
        return cls(shots, (error / len(shots) + taken) / 2.0, curve)

    def gains(self, more: int | NDArray[np.int64] = 1) -> NDArray[np.float64]:
        """Return the accuracy to be gained by so many more examples of each class alone: (c,), in [0, 1]."""
        return self.error * (1.0 - self._remaining(self.shots, more))

    def _remaining(self, shots: NDArray[np.int64], more: int | NDArray[np.int64]) -> NDArray[np.float64]:
        return self.curve.remaining(float(self.error.sum()), (shots + more) / shots)

    def plan(self) -> Plan:
        """Choose what to add: one example after another of the class where it brings most.

        It ends where one brings less than 0.6 of what the first did, where classes would more than double, or at 50.
        """
        more = np.zeros(len(self.shots), np.int64)
        queue = [(-gain, code) for code, gain in enumerate(self.gains().tolist())]
        heapq.heapify(queue)
        first = -queue[0][0]
        for _ in range(_MOST_PLANNED):
            if not queue or -queue[0][0] < _WORTH * first or not first:
                break
            _, code = heapq.heappop(queue)
            more[code] += 1
            if more[code] < self.shots[code]:
                one = self._remaining(self.shots[code], more[code] + np.arange(2))
                heapq.heappush(queue, (-float(self.error[code] * (one[0] - one[1])), code))
        gain = float(self.gains(more).sum())
        rest = float(self.gains(1)[more == 0].sum())
        return Plan(more, gain, rest, float(self.gains(self.shots).sum()))


@dataclass(frozen=True)
class Plan:
    """Examples to add, and the accuracy to be gained.

    Attributes
    ----------
    more : ndarray of shape (c,), int64
        Of each class.
    gain : float
        By them.
    rest : float
        By one more of each of the other classes.
    doubled : float
        By as many again of every class.
    """

    more: NDArray[np.int64]
    gain: float
    rest: float
    doubled: float
