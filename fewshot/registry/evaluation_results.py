"""What an evaluation of a registry gives."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from fewshot.diagnosis import Share
from fewshot.registry.label_paths import levels_of
from fewshot.registry.results import Failure, Neighbor


@dataclass(frozen=True)
class Judged:
    """One example of an evaluation: its true label, the closest class, and whether the stored limit rejects it.

    ``answer`` is the label given: the closest class, with ``roll_up`` the deepest level that is sure, or None.
    ``probability``, ``unknown_score`` and ``nearest`` are the ``Prediction``'s; ``example`` is what was given.
    """

    source: str
    label: str
    predicted: str
    score: float
    rejected: bool = False
    answer: str | None = None
    probability: float | None = None
    unknown_score: float = math.nan
    nearest: tuple[Neighbor, ...] = ()
    example: Any = field(default=None, repr=False, compare=False)

    @property
    def correct(self) -> bool:
        """Whether the closest class is the true one, rejected or not."""
        return self.label == self.predicted

    @property
    def answered_right(self) -> bool:
        """Whether the answer is the true label, or one of its levels."""
        return self.answer in levels_of(self.label)


@dataclass(frozen=True)
class LevelAccuracy:
    """How well a level of the labels was recognised; the first is 1, and 0 is that of no label.

    Attributes
    ----------
    level : int
    n : int
        How many true labels have it.
    accuracy : float
        The share of these whose closest class agrees with them so far, without rejection.
    answered : int
        How many answers end at it, of all examples; at 0 are those without a label.
    answered_accuracy : float
        The share of these that are right; NaN where there is none.
    """

    level: int
    n: int
    accuracy: float
    answered: int
    answered_accuracy: float


@dataclass(frozen=True)
class Evaluation:
    """How well a labelled folder was recognised.

    Attributes
    ----------
    rows : tuple of Judged
        Every one that could be read.
    failed : tuple of Failure
        Those that could not; not counted.
    unregistered : tuple of str
        Labels of the folder that the registry does not know; their examples count as wrong.
    also_registered : int
        How many are registered examples themselves: a test of memory, not of recognition.
    ignored : tuple of str
        Files that are of another kind, or lie in no class folder.
    """

    rows: tuple[Judged, ...]
    failed: tuple[Failure, ...] = ()
    unregistered: tuple[str, ...] = ()
    also_registered: int = 0
    ignored: tuple[str, ...] = ()

    @property
    def n(self) -> int:
        """How many were judged."""
        return len(self.rows)

    @property
    def accuracy(self) -> float:
        """The share whose closest class is right, without rejection, in [0, 1]; NaN where there is none to judge."""
        return sum(row.correct for row in self.rows) / self.n if self.rows else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """Where the accuracy is with 95 % confidence, of other examples of these classes (Wilson 1927)."""
        share = Share.of(sum(row.correct for row in self.rows), self.n)
        return share.low, share.high

    @property
    def rejected(self) -> float:
        """The share that the limit on false accepts rejects, in [0, 1]; NaN where there is none to judge."""
        return sum(row.rejected for row in self.rows) / self.n if self.rows else float("nan")

    @property
    def accepted_accuracy(self) -> float:
        """The share of right ones among the accepted, in [0, 1]; NaN where none is accepted."""
        accepted = [row.correct for row in self.rows if not row.rejected]
        return sum(accepted) / len(accepted) if accepted else float("nan")

    @property
    def levels(self) -> tuple[LevelAccuracy, ...]:
        """How well each level of the labels was recognised, from 0, which is that of no label."""
        deepest = max((len(levels_of(label)) for row in self.rows for label in (row.label, row.predicted)), default=0)
        found = []
        for level in range(deepest + 1):
            pairs = [(levels_of(row.label)[:level], levels_of(row.predicted)[:level]) for row in self.rows]
            right = [true == predicted for true, predicted in pairs if len(true) == level]
            ends = [row for row in self.rows if (len(levels_of(row.answer)) if row.answer else 0) == level]
            answered = [row.answered_right for row in ends]
            found.append(LevelAccuracy(level, len(right), _mean(right), len(ends), _mean(answered)))
        return tuple(found)

    @property
    def per_class(self) -> dict[str, float]:
        """The share recognised of each class of the folder."""
        totals = Counter(row.label for row in self.rows)
        right = Counter(row.label for row in self.rows if row.correct)
        return {label: right[label] / totals[label] for label in sorted(totals)}

    @property
    def confusions(self) -> dict[tuple[str, str], int]:
        """How many of each label were taken for which other, most first: {(label, predicted): count}."""
        return dict(Counter((row.label, row.predicted) for row in self.rows if not row.correct).most_common())

    def _repr_html_(self) -> str:
        from fewshot.registry.evaluation_tables import evaluation_html

        return evaluation_html(self)


def _mean(truths: list[bool]) -> float:
    return sum(truths) / len(truths) if truths else math.nan
