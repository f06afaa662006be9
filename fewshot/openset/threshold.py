"""Where to draw the line to "none of these", set from the classes' own one to five examples."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from fewshot.classifiers import Membership
from fewshot.openset.background import Background, evenly
from fewshot.openset.center import Center
from fewshot.openset.leave_one_out import without_class, without_example, without_example_around, without_group
from fewshot.openset.unknown_scores import Known
from fewshot.validation import check_vectors

# The tail of scores that a line is read from: what may be accepted and, so that it is not left to chance, as many
# classes more. 5 to 9 are alike on Tiny ImageNet's training classes, and on Omniglot's; with 15 too little is accepted.
_BEYOND = 5.0
# What is closer than a cosine of 0.99 is the same to the tail: one picture registered twice says nothing of others.
_CLOSEST = 0.01
# So many known examples tell the share of them that is refused to 2 points.
MOST_HELD = 500


@dataclass(frozen=True)
class Threshold:
    """A line between known and unknown, and what it promises.

    Attributes
    ----------
    value : float
        A query is accepted where its unknown score (``fewshot.openset.DEFAULT``) is below; in the score's units.
    asked : float
        The largest share of unknown pictures that may be accepted, in (0, 1).
    false_accept_bound : float
        The share that is promised, and expected: the one asked, or where there is too little to go on
        1 / (``n_unknown`` + 1) with a background, and 2 / (``n_unknown`` + 1) with classes.
    n_unknown : int
        Classes that stood for unknown ones.
    source : str
        Where they came from: "classes" (each class was left out in turn) or "background".
    estimated_false_reject : float or None
        The share of known pictures expected to be refused, in [0, 1], from the examples left out in turn; None if no
        class has two. The prototypes then lack an example, so that it is too high rather than too low.
    center : int or None
        Of how many classes the encoder's ``Center`` was made that scores are taken around, too; None where there is a
        background, or no such centre.
    """

    value: float
    asked: float
    false_accept_bound: float
    n_unknown: int
    source: str
    estimated_false_reject: float | None
    center: int | None

    @property
    def met(self) -> bool:
        """Whether what was asked is promised."""
        return self.false_accept_bound <= self.asked

    @property
    def needed(self) -> int:
        """How many classes must stand for unknown ones before what was asked can be promised."""
        return needed_classes(self.asked, self.source)

    def describe(self) -> str:
        """Say in a sentence what is promised, and where that is not what was asked, the remedy."""
        registered = self.source == "classes"
        classes = "class" if self.n_unknown == 1 else "classes"
        stood = f"{self.n_unknown} {'registered' if registered else 'background'} {classes}"
        if self.met:
            return f"at most {self.false_accept_bound:.3g} of the unknown pictures are accepted, going by {stood}"
        more = "register more classes, or give pictures of others as a background"
        remedy = more if registered else "give a background of more classes"
        return (
            f"{stood} are too few to promise at most {self.asked:.3g}: that takes {self.needed}. At most "
            f"{self.false_accept_bound:.3g} is promised; {remedy}"
        )


def needed_classes(level: float, source: str) -> int:
    """Return how many classes of a "background", or known "classes", it takes to promise ``level``: 19 for 0.05.

    Of two known classes each is all that the other is compared with: less than 2 / 3 takes three.
    """
    needed = math.ceil(1.0 / level - 1e-9) - 1
    return max(needed, 3) if source == "classes" and level < 2 / 3 else needed


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
    center : int or None
        As ``Threshold`` has it.
    """

    unknown: NDArray[np.float64]
    groups: NDArray[np.int64]
    known: NDArray[np.float64]
    source: str
    center: int | None = None

    def threshold(self, max_false_accept: float) -> Threshold:
        """Draw the line that at most a share of the pictures of unknown classes lies below, on average.

        Parameters
        ----------
        max_false_accept : float
            In (0, 1).

        Raises
        ------
        ValueError : for a level outside (0, 1).

        Notes
        -----
        Of the scores u_ji of the n_j examples of class j, each weighs 1 / n_j, for an unknown class is to the m that
        stand for such as one of them to the others. From the lowest scores upwards, the tail are those of
        (m + 1) max_false_accept + 5 classes. It is taken to be a power of the distance 1 + u, as it is of what lies
        about a point: if x is the next score, b the weighted mean of log((1 + x) / (1 + u_ji)) in the tail, and that
        comes from k of M independent scores, an unknown picture's distance is less than (1 + x) exp(-t) with chance

            (k + 1) / (M + 1) (1 + t / (k b))^-k,

        and the line is where that is ``max_false_accept``. Of such a tail the chance is exact, however few scores there
        are; with very many classes the line is the quantile, whatever the tail. Where that is not promised, it is drawn
        for one class in m + 1.

        k and M count each class of a background as 1, however many its pictures. Of classes left out in turn each
        counts as n_j / 2, for of two that are close, the closeness is in the scores of both; that more examples count
        for more was found, not derived (at 1 to 25 shots). Such classes also meet c - 1 others, a new one all c, so
        that it is (c - 1) / c of ``max_false_accept`` that the line is drawn for.

        Over random registries of real pictures the share is as asked from ``needed`` classes on
        (benchmarks/openset.py). Below that what is promised is the worst case of classes that are alike in pairs: of
        two such, neither is left to warn of the other when it is new, and twice as many are accepted.

        The tail is fitted anew for each level: with few classes, a larger share can draw a line lower by some 0.01.
        Above a share of 0.2 the tail is most of the scores and no power law: up to 0.02 more than 0.25 and 0.06 more
        than 0.5 were accepted.

        Nor is the promise one for every registry: it is kept on average over registries, and for unknown pictures of
        such kinds as stood for them.

        References
        ----------
        Lee, Barber & Willett 2023, arXiv:2306.06342, section 3 (classes, not examples, are exchangeable). Barber et al.
        2021, arXiv:1905.02928, theorem 1 (the worst case). Hill 1975, doi:10.1214/aos/1176343247 (b); the chance above
        is that of the next value, over b too: a Lomax distribution's.
        """
        if not 0.0 < max_false_accept < 1.0:
            raise ValueError(f"max_false_accept is a share of unknown pictures, in (0, 1), not {max_false_accept!r}")
        level = float(max_false_accept)
        m = len(np.unique(self.groups))
        enough = m >= needed_classes(level, self.source)
        drawn_for = level if enough else 1.0 / (m + 1)
        value = self._line(drawn_for * (m - 1) / m if self.source == "classes" else drawn_for)
        return Threshold(
            value=value,
            asked=level,
            false_accept_bound=level if enough else (2.0 if self.source == "classes" else 1.0) / (m + 1),
            n_unknown=m,
            source=self.source,
            estimated_false_reject=float((self.known >= value).mean()) if len(self.known) else None,
            center=self.center,
        )

    def _line(self, level: float) -> float:
        """Return the score below which the share ``level`` of unknown pictures is expected."""
        order = np.argsort(self.unknown, kind="stable")
        scores = self.unknown[order]
        logs = np.log(np.maximum(1.0 + scores, _CLOSEST))
        _, groups, counts = np.unique(self.groups[order], return_inverse=True, return_counts=True)
        m, sizes = len(counts), counts[groups.reshape(-1)]
        if len(scores) == 1:
            return float(scores[0])
        weights = 1.0 / sizes
        classes = min(level * (m + 1) + _BEYOND, m - 1.0)
        end = int(np.searchsorted(np.cumsum(weights), classes + 1e-9))
        end = min(max(end, 1), len(scores) - 1)
        tail = weights[:end]
        mean = float(tail @ (logs[end] - logs[:end])) / float(tail.sum())
        independent = sizes / 2.0 if self.source == "classes" else np.ones(len(sizes))
        k, of = float(tail @ independent[:end]), float(weights @ independent)
        further = k * mean * (((k + 1.0) / (of + 1.0) / level) ** (1.0 / k) - 1.0)
        return math.exp(logs[end] - further) - 1.0


def leave_out(
    vectors: ArrayLike,
    labels: ArrayLike,
    *,
    background: Background | None = None,
    center: Center | None = None,
    random_state: int = 0,
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
    center : Center, optional
        Of the encoder; what is known is scored around it where there is no background.
    random_state : int, default 0
        Chooses 2,000 where more examples stand for unknown ones, and 500 where more do for known ones.

    Raises
    ------
    ValueError : for one class and no background, for then nothing stands for unknown pictures; or a centre of another
        size.
    """
    array = np.asarray(vectors)
    array = check_vectors(array, array.shape[1] if array.ndim == 2 else 0)
    codes = np.asarray(labels, np.int64)
    counts = np.bincount(codes)
    if background is None and len(counts) == 1:
        raise ValueError(
            "with one class and no background nothing stands for unknown pictures, which a line is drawn by: register "
            "more classes, or give pictures of others as a background"
        )
    rng = np.random.default_rng(random_state)
    with torch.inference_mode():
        known = Known.of(
            torch.from_numpy(array)[None], Membership(torch.from_numpy(codes)[None], len(counts)), background, center
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
        known.center.n_classes if known.center is not None else None,
    )


def set_threshold(
    vectors: ArrayLike,
    labels: ArrayLike,
    *,
    max_false_accept: float,
    background: Background | None = None,
    center: Center | None = None,
    random_state: int = 0,
) -> Threshold:
    """Draw one line: ``leave_out`` and ``LeftOut.threshold``."""
    left_out = leave_out(vectors, labels, background=background, center=center, random_state=random_state)
    return left_out.threshold(max_false_accept)
