"""Where to draw the line to "none of these", set from the classes' own one to five examples."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from fewshot.classifiers.membership import Membership
from fewshot.unknowns.background import Background, evenly
from fewshot.unknowns.leaving import (
    Positions,
    without_class,
    without_example,
    without_example_around,
    without_group,
)
from fewshot.unknowns.scores import Known
from fewshot.validation import check_vectors

# While fewer classes than these may be accepted, one example of each is asked, else all (see ``LeftOut.threshold``).
_FEW = 20.0
_DRAWS = 200
# So many known examples tell the share of them that is refused to 2 points.
MOST_HELD = 500


@dataclass(frozen=True)
class Threshold:
    """A line between known and unknown, and what it promises.

    Attributes
    ----------
    value : float
        A query is accepted where its unknown score (``fewshot.unknowns.DEFAULT``) is below; in the score's units.
    asked : float
        The largest share of unknown pictures that may be accepted, in (0, 1).
    promised : float
        The share that is promised, and expected: the one asked, or where there is too little to go on
        1 / (``n_unknown`` + 1) with a background, and 2 / (``n_unknown`` + 1) with classes.
    n_unknown : int
        Classes that stood for unknown ones.
    source : str
        Where they came from: "classes" (each class was left out in turn) or "background".
    false_reject : float or None
        The share of known pictures expected to be refused, in [0, 1], from the examples left out in turn; None if no
        class has two. The prototypes then lack an example, so that it is too high rather than too low.
    """

    value: float
    asked: float
    promised: float
    n_unknown: int
    source: str
    false_reject: float | None

    @property
    def kept(self) -> bool:
        """Whether what was asked is promised."""
        return self.promised <= self.asked

    @property
    def needed(self) -> int:
        """How many classes must stand for unknown ones before what was asked can be promised."""
        return needed_classes(self.asked)

    def describe(self) -> str:
        """Say in a sentence what is promised, and where that is not what was asked, the remedy."""
        registered = self.source == "classes"
        classes = "class" if self.n_unknown == 1 else "classes"
        stood = f"{self.n_unknown} {'registered' if registered else 'background'} {classes}"
        if self.kept:
            return f"at most {self.promised:.3g} of the unknown pictures are accepted, going by {stood}"
        more = "register more classes, or give pictures of others as a background"
        remedy = more if registered else "give a background of more classes"
        return (
            f"{stood} are too few to promise at most {self.asked:.3g}: that takes {self.needed}. At most "
            f"{self.promised:.3g} is promised; {remedy}"
        )


def needed_classes(level: float) -> int:
    """Return how many unknown classes it takes to promise at most ``level``: 19 for 0.05."""
    return math.ceil(1.0 / level - 1e-9) - 1


@dataclass(frozen=True)
class LeftOut:
    """Unknown scores of examples whose answer is known, each from what is known without it.

    Attributes
    ----------
    unknown : ndarray of shape (u,)
        Of examples of classes left out, or of a background.
    groups : ndarray of shape (u,), int64
        The class of each.
    known : ndarray of shape (h,)
        Of examples left out of their class, which keeps others; empty where no class has two.
    source : str
        "classes" or "background".
    """

    unknown: NDArray[np.float64]
    groups: NDArray[np.int64]
    known: NDArray[np.float64]
    source: str

    def threshold(self, max_false_accept: float, *, random_state: int = 0) -> Threshold:
        """Draw the line that at most a share of the pictures of unknown classes lies below, on average.

        Parameters
        ----------
        max_false_accept : float
            In (0, 1).
        random_state : int, default 0
            Draws examples of each class, where ``max_false_accept`` is fewer than 20 of the classes.

        Raises
        ------
        ValueError : for a level outside (0, 1).

        Notes
        -----
        An unknown class is to the m that stand for such as one of them to the others, so the guarantee is by class:
        with u_ji the scores of the n_j examples of class j, a query of score u is accepted where

            (1 + sum_j #{i: u_ji <= u} / n_j) / (m + 1) <= max_false_accept,

        which happens to at most that share of unknown queries, over draws of classes. It takes (m + 1) max_false_accept
        >= 1. With few classes one example of each (n_j = 1) wastes less of what is allowed. Which one is drawn 200
        times over, and the mean of the lines is taken, so that less is left to chance.

        With a background this is the paper's, but for that mean, and that between two steps of the left side the line
        is drawn in proportion. Both keep the promise where lower scores are ever rarer, as in a distribution's tail.

        Classes left out in turn depart from it further: one meets c - 1 others, a new one all c. Of two classes that
        are alike, neither is left to warn of the other when it is new; at worst, where only such twins are close, twice
        as many are accepted (as with the jackknife+). Over random registries of real pictures the share is as asked
        from ``needed`` classes on (benchmarks/unknowns.py); below that the worst case is what is promised.

        Nor is the promise one for every registry: it is kept on average over registries, and for unknown pictures of
        such kinds as stood for them.

        References
        ----------
        Lee, Barber & Willett 2023, arXiv:2306.06342, section 3 (hierarchical conformal prediction). Barber et al. 2021,
        arXiv:1905.02928, theorem 1 (jackknife+).
        """
        if not 0.0 < max_false_accept < 1.0:
            raise ValueError(f"max_false_accept is a share of unknown pictures, in (0, 1), not {max_false_accept!r}")
        level = float(max_false_accept)
        order = np.argsort(self.unknown, kind="stable")
        scores = self.unknown[order]
        _, groups, counts = np.unique(self.groups[order], return_inverse=True, return_counts=True)
        m, groups = len(counts), groups.reshape(-1)
        # How much lies below each score, every class having a weight of 1.
        weights = 1.0 / counts[groups]
        below = np.cumsum(weights) - weights
        budget = max((m + 1) * level - 1.0, 0.0)
        if (m + 1) * level < _FEW:
            value = _drawn(scores, groups, counts, budget, np.random.default_rng(random_state))
        else:
            value = float(np.interp(budget, below, scores))
        return Threshold(
            value=value,
            asked=level,
            promised=level if m >= needed_classes(level) else (2.0 if self.source == "classes" else 1.0) / (m + 1),
            n_unknown=m,
            source=self.source,
            false_reject=float((self.known >= value).mean()) if len(self.known) else None,
        )


def leave_out(
    vectors: ArrayLike, labels: ArrayLike, *, background: Background | None = None, random_state: int = 0
) -> LeftOut:
    """Score examples whose answer is known, from which any number of lines can be drawn.

    Parameters
    ----------
    vectors : array-like of shape (s, d)
        The registered examples.
    labels : array-like of s whole numbers, 0 to c - 1
        The class of each.
    background : Background, optional
        Other classes, which then stand for the unknown ones. Without, each class is left out in turn, and its examples
        are unknown to the others.
    random_state : int, default 0
        Chooses 2,000 where more examples stand for unknown ones, and 500 where more do for known ones.

    Raises
    ------
    ValueError : for one class and no background, from which nothing can be told.
    """
    array = np.asarray(vectors)
    array = check_vectors(array, array.shape[1] if array.ndim == 2 else 0)
    codes = np.asarray(labels, np.int64)
    counts = np.bincount(codes)
    if background is None and len(counts) == 1:
        raise ValueError(
            "with one class and no background there is nothing that tells known from unknown: register a second class, "
            "or give pictures of others as a background"
        )
    rng = np.random.default_rng(random_state)
    with torch.inference_mode():
        known = Known.of(
            torch.from_numpy(array)[None], Membership(torch.from_numpy(codes)[None], len(counts)), background
        )
        held = np.sort(rng.permutation(np.flatnonzero(counts[codes] > 1))[:MOST_HELD])
        if background is None:
            groups, asked = codes, evenly(codes, rng)
            unknown = without_class(known, codes, asked)
            inliers = without_example(known, codes, held)
        else:
            groups, asked = background.groups, evenly(background.groups, rng)
            unknown = without_group(known, background, asked)
            inliers = without_example_around(known, codes, held)
    return LeftOut(
        np.asarray(unknown.numpy(), np.float64),
        groups[asked],
        np.asarray(inliers.numpy(), np.float64),
        "classes" if background is None else "background",
    )


def set_threshold(
    vectors: ArrayLike,
    labels: ArrayLike,
    *,
    max_false_accept: float,
    background: Background | None = None,
    random_state: int = 0,
) -> Threshold:
    """Draw one line: ``leave_out`` and ``LeftOut.threshold``."""
    left_out = leave_out(vectors, labels, background=background, random_state=random_state)
    return left_out.threshold(max_false_accept, random_state=random_state)


def _drawn(
    scores: NDArray[np.float64],
    groups: Positions,
    counts: Positions,
    budget: float,
    rng: np.random.Generator,
) -> float:
    """Return the line that one example of each class draws, on average over such draws."""
    members = np.argsort(groups, kind="stable")
    starts = np.cumsum(counts) - counts
    drawn = scores[members[starts + (rng.random((_DRAWS, len(counts))) * counts).astype(np.int64)]]
    drawn.sort(axis=1)
    first = min(int(budget), len(counts) - 1)
    second = min(first + 1, len(counts) - 1)
    return float((drawn[:, first] + (budget - first) * (drawn[:, second] - drawn[:, first])).mean())
