"""How much several examples of one object tell together: near-copies of each other tell little more than one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fewshot.vectors import top_k

if TYPE_CHECKING:
    from fewshot.registry.snapshot import Snapshot

# Of what follows, all was chosen on Tiny ImageNet's validation and training classes: benchmarks/groups.py --fit.
# The mean squared distance of two examples of a class over that of any two; and after how many differences within
# classes the registry's own counts as much.
_WITHIN_SHARE, _PRIOR_COUNT = 0.84, 8.0
# Answers to different examples of one class share the errors of the class's few examples: their correlation is this,
# and this over the number of examples more.
_SHARED_ERROR, _SHARED_ERROR_PER_SHOT = 0.18, 0.14
# Of unknown scores: how close an unknown class is to the known ones is in all of its examples' scores.
_SHARED_SCORE = 0.5
# Examples that a registry's scatter is measured on, and rows of a group compared at once.
_MOST_EXAMPLES, _ROWS_AT_ONCE = 2**13, 2**10
_SMALLEST = 1e-30  # probability, before its logarithm


def class_scatter(snapshot: Snapshot) -> float:
    """Return the mean squared distance of two unit vectors of one class.

    The share of the distance of any two that is usual, which counts as 8 differences within classes, and the
    registry's own differences. 1 where it has a single example. ``Snapshot.class_scatter`` keeps it.
    """
    if len(snapshot) < 2:
        return 1.0
    c = len(snapshot.labels)
    rows = snapshot.examples_of(np.unique(np.linspace(0, c - 1, min(c, _MOST_EXAMPLES // 4)).round().astype(np.int64)))
    if len(rows) > _MOST_EXAMPLES:
        rows = rows[np.linspace(0, len(rows) - 1, _MOST_EXAMPLES).round().astype(np.int64)]
    unit = snapshot.vectors[rows] / snapshot.lengths[rows, None]
    _, codes, counts = np.unique(snapshot.codes[rows], return_inverse=True, return_counts=True)
    total = 2.0 * float(np.square(unit - unit.mean(axis=0)).sum()) / max(len(unit) - 1, 1)
    means = np.zeros((len(counts), unit.shape[1]), np.float32)
    np.add.at(means, codes, unit)
    within = 2.0 * float(np.square(unit - (means / counts[:, None])[codes]).sum())
    freedom = len(unit) - len(counts)
    prior = _PRIOR_COUNT if len(counts) > 1 else 0.0  # one class has no distances to others
    return (prior * _WITHIN_SHARE * total + within) / (prior + freedom) or 1.0


@dataclass(frozen=True)
class GroupEvidence:
    """The examples of one group, each weighing the less, the more of them are like it.

    Attributes
    ----------
    weights : ndarray of shape (n,), float64
        Their sum is 1.
    concentration : float
        w' K w for the weights w and the likeness K of each two: 1 for copies of one example, 1 / n at least.
    """

    weights: NDArray[np.float64]
    concentration: float

    @classmethod
    def of(cls, vectors: NDArray[np.float32], scatter: float) -> GroupEvidence:
        """Weigh vectors (n, d) of any length by their distances.

        The likeness of two is 1 - their squared distance / ``scatter``, at least 0: the correlation of two examples of
        a class of which a part of what differs within classes is the same. Each weighs as 1 / the sum of its
        likenesses, so that of copies all together weigh as one.

        References
        ----------
        Leinster & Cobbold 2012, doi:10.1890/10-2402.1, equation 1 with q = 0 (the sum of these is the number of
        different ones).
        """
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-12)
        starts = range(0, len(unit), _ROWS_AT_ONCE)
        likeness = [_likeness(unit, start, scatter).sum(axis=1) for start in starts]
        weights = 1.0 / np.concatenate(likeness)
        weights /= weights.sum()
        parts = [weights[start : start + _ROWS_AT_ONCE] @ _likeness(unit, start, scatter) @ weights for start in starts]
        return cls(weights, float(min(1.0, sum(parts))))

    def effective_size(self, shots: float) -> float:
        """Return how many independent examples tell as much, for classes of so many examples: 1 to n.

        References
        ----------
        Kish 1965, Survey Sampling, section 5.4 (effective size under an intraclass correlation).
        """
        shared = _SHARED_ERROR + _SHARED_ERROR_PER_SHOT / max(shots, 1.0)
        return 1.0 / (shared + (1.0 - shared) * self.concentration)

    def threshold(self, value: float, mean: float) -> float:
        """Return the threshold for the group's mean unknown score, from that for one example's.

        A mean of several scores varies less around the ``mean`` of unknown examples than one score does, by the factor
        that is applied here.
        """
        return mean + float(np.sqrt(_SHARED_SCORE + (1.0 - _SHARED_SCORE) * self.concentration)) * (value - mean)


def _likeness(unit: NDArray[np.float32], start: int, scatter: float) -> NDArray[np.float64]:
    """Of some rows with all: (r, n)."""
    squared = 2.0 - 2.0 * (unit[start : start + _ROWS_AT_ONCE] @ unit.T).astype(np.float64)
    found = 1.0 - (squared / scatter).clip(0.0, 1.0)
    found[np.arange(len(found)), start + np.arange(len(found))] = 1.0
    return np.asarray(found)


class GroupCombiner:
    """Adds the calibrated log-probabilities of each group's examples, as many times as these are independent.

    Parameters
    ----------
    groups : sequence of GroupEvidence
        Whose examples come one group after the other.
    shots : float
        How many examples a class has.
    k : int
        How many classes to rank.
    roll_up : callable, optional
        ``LabelTree.roll_up`` for a share.

    Attributes
    ----------
    ranked : list of (classes (k,), probabilities (k,))
        Of each group whose examples are all there.
    rolled_up : list of (label, probability) or None
        Of each, where it is asked for.
    """

    def __init__(
        self,
        groups: Sequence[GroupEvidence],
        shots: float,
        k: int,
        roll_up: Callable[[NDArray[np.float32]], list[tuple[str, float] | None]] | None = None,
    ) -> None:
        self._groups, self._shots, self._k, self._roll_up = groups, shots, k, roll_up
        self.rolled_up: list[tuple[str, float] | None] = []
        self._sum: NDArray[np.float64] | None = None
        self._seen = 0  # examples of the group that is being added
        self.ranked: list[tuple[NDArray[np.int64], NDArray[np.float32]]] = []

    def take(self, probabilities: NDArray[np.float32]) -> None:
        """Add those of the next examples (q, c)."""
        start = 0
        while start < len(probabilities):
            group = self._groups[len(self.ranked)]
            end = min(len(probabilities), start + len(group.weights) - self._seen)
            weights = group.weights[self._seen : self._seen + end - start]
            added = weights @ np.log(probabilities[start:end].clip(_SMALLEST))
            self._sum = added if self._sum is None else self._sum + added
            self._seen, start = self._seen + end - start, end
            if self._seen == len(group.weights):
                self._finish(group, self._sum)
                self._sum, self._seen = None, 0

    def _finish(self, group: GroupEvidence, total: NDArray[np.float64]) -> None:
        logits = group.effective_size(self._shots) * total
        shares = np.exp(logits - logits.max())
        probabilities = (shares / shares.sum()).astype(np.float32)[None]
        places, values = top_k(probabilities, self._k)
        self.ranked.append((places[0], values[0]))
        self.rolled_up += [] if self._roll_up is None else self._roll_up(probabilities)
