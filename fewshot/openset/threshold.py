"""Rejection thresholds that bound the share of unknown images accepted, estimated by leaving classes out."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch.nn.functional import normalize

from fewshot.classifiers import Membership
from fewshot.errors import TooFewExamples
from fewshot.openset.background import Background, stratified_sample
from fewshot.openset.center import Center
from fewshot.openset.leave_one_out import (
    nearer_negative_without,
    without_class,
    without_example,
    without_example_around,
    without_group,
    without_negative,
)
from fewshot.openset.unknown_scores import KnownClasses
from fewshot.validation import check_vectors

# Classes in the fitted tail beyond those that may be accepted. 5 to 9 are alike on Tiny ImageNet's training classes and
# on Omniglot's; with 15 too little is accepted.
_TAIL_CLASSES = 5.0
# Distances below this are equal to the tail: one image registered twice says nothing of others.
_MIN_DISTANCE = 0.01
# Known examples that are scored, at most: they give the false reject rate to 2 points.
MAX_KNOWN_EXAMPLES = 500
# What serves as unknown, in the singular and plural, and what to do where it is too little.
_SOURCES = {
    "classes": (
        ("registered class", "registered classes"),
        "register more classes, or give images of others as a background or as negatives",
    ),
    "background": (("background class", "background classes"), "give a background of more classes"),
    "negatives": (("negative", "negatives"), "add more negatives, images that are of none of the classes"),
}


@dataclass(frozen=True)
class Threshold:
    """A rejection threshold, and its bound on false accepts.

    Attributes
    ----------
    value : float
        A query is accepted where its unknown score (``fewshot.openset.DEFAULT``) is below.
    max_false_accept : float
        The limit that it was estimated for: a share of unknown images, in (0, 1).
    false_accept_bound : float
        The expected share that is accepted at most: the limit, or where there are too few classes 2 / (``n_unknown`` +
        1), and 1 / (``n_unknown`` + 1) where there are too few of a background or negatives.
    n_unknown : int
        How many classes served as unknown ones; each negative counts as one.
    source : str
        What these were: "classes" (each registered class left out in turn), "background" or "negatives".
    estimated_false_reject : float or None
        The expected share of known images that are rejected, in [0, 1], from examples left out in turn; None if no
        class has two. It is too high rather than too low, for the prototypes then lack an example.
    center : int or None
        Of how many classes the encoder's ``Center`` was made; None with a background, or without such a centre.

    Examples
    --------
    >>> import numpy as np
    >>> from fewshot.openset import leave_one_out_scores
    >>> negatives = np.array([[0.1, 1.0], [0.6, 0.8], [-1.0, 0.3]], np.float32)
    >>> scores = leave_one_out_scores([[1.0, 0.1], [1.0, 0.2]], [0, 0], negatives=negatives)
    >>> threshold = scores.threshold(0.25)
    >>> threshold.met, threshold.source, threshold.estimated_false_reject
    (True, 'negatives', 0.0)
    >>> round(threshold.value, 3)
    -0.568
    """

    value: float
    max_false_accept: float
    false_accept_bound: float
    n_unknown: int
    source: str
    estimated_false_reject: float | None
    center: int | None

    @property
    def met(self) -> bool:
        """Whether the bound is within the limit."""
        return self.false_accept_bound <= self.max_false_accept

    @property
    def required_classes(self) -> int:
        """How many classes must serve as unknown ones for a bound within the limit."""
        return required_classes(self.max_false_accept, self.source)

    def describe(self, noun: str = "image") -> str:
        """Say in a sentence what the bound on images (or texts, sounds) is and, where it is too high, the remedy."""
        one = self.n_unknown == 1
        unknown, remedy = _SOURCES[self.source]
        of = f"{self.n_unknown} {unknown[not one]}"
        if self.met:
            return f"at most {self.false_accept_bound:.3g} of unknown {noun}s are accepted, estimated from {of}"
        return (
            f"{of} {'is' if one else 'are'} too few to bound false accepts at {self.max_false_accept:.3g}: that takes "
            f"{self.required_classes}. The bound is {self.false_accept_bound:.3g}; {remedy.replace('image', noun)}"
        )


def required_classes(max_false_accept: float, source: str) -> int:
    """Return how many known "classes", classes of a "background" or "negatives" bound false accepts: 19 for 0.05.

    Of two known classes each is compared with the other alone: a limit below 2 / 3 takes three.
    """
    required = math.ceil(1.0 / max_false_accept - 1e-9) - 1
    return max(required, 3) if source == "classes" and max_false_accept < 2 / 3 else required


@dataclass(frozen=True)
class LeaveOneOutScores:
    """Unknown scores of examples, each computed without it, or without its class.

    Attributes
    ----------
    unknown : ndarray of shape (u,)
        Of examples whose class was left out, of a background, or of negatives, each left out.
    groups : ndarray of shape (u,), int64
        The class of each; a negative is one of its own.
    known : ndarray of shape (h,)
        Of examples left out of their class, which has others; empty where no class has two.
    source : str
    center : int or None
        As ``Threshold`` has it.

    Examples
    --------
    >>> import numpy as np
    >>> from fewshot.openset import LeaveOneOutScores
    >>> scores = LeaveOneOutScores(np.array([0.1, -0.2, 0.3]), np.arange(3), np.array([-0.8, -0.6, 0.0]), "negatives")
    >>> scores.threshold(0.25).value
    -0.2
    >>> round(scores.threshold(0.25).estimated_false_reject, 2)
    0.33
    >>> scores.threshold(0.05).met, scores.threshold(0.05).required_classes
    (False, 19)
    """

    unknown: NDArray[np.float64]
    groups: NDArray[np.int64]
    known: NDArray[np.float64]
    source: str
    center: int | None = None

    @property
    def mean_unknown(self) -> float:
        """The mean of the unknown scores, each class as one."""
        _, places, counts = np.unique(self.groups, return_inverse=True, return_counts=True)
        return float(np.average(self.unknown, weights=1.0 / counts[places.reshape(-1)]))

    def threshold(self, max_false_accept: float) -> Threshold:
        """Estimate the threshold below which the expected share of unknown images is ``max_false_accept``.

        Parameters
        ----------
        max_false_accept : float
            In (0, 1).

        Raises
        ------
        ValueError : for a limit outside (0, 1).

        Notes
        -----
        Classes, not examples, are exchangeable: the scores u_ji of the n_j examples of class j weigh 1 / n_j each. The
        tail are the lowest scores, of (m + 1) max_false_accept + 5 of the m classes, and the distances 1 + u in it are
        taken to follow a power law. With x the next score, b the weighted mean of log((1 + x) / (1 + u_ji)) in it, and
        k of M independent scores in it, the distance of an unknown image is below (1 + x) exp(-t) with chance

            (k + 1) / (M + 1) (1 + t / (k b))^-k,

        exact for such a tail, however few the scores. The threshold is where that chance is ``max_false_accept``, or
        1 / (m + 1) where the bound exceeds it. For many classes it is the quantile.

        k and M count a class of a background as 1, and one left out in turn as n_j / 2, for the closeness of two close
        classes is in the scores of both (found for 1 to 25 shots, not derived). A class left out is compared with c - 1
        others, a new one with c: the threshold is estimated for (c - 1) / c of the limit.

        Over random registries of real images the share of unknown images accepted is the limit from
        ``required_classes`` on (benchmarks/openset.py). Below, the bound is the worst case, of classes alike in pairs.
        It holds on average over registries, not for every one, and for unknown images of such kinds as the classes or
        the background. Above a limit of 0.2 the tail is most of the scores and no power law: up to 0.02 more than 0.25
        and 0.06 more than 0.5 were accepted.

        Of m negatives the threshold is their k-th lowest score, k = floor((m + 1) max_false_accept) and at least 1: an
        unknown image of their kind is as likely to have one rank as another among them, and beside one negative more
        no score would be lower. So the bound, k / (m + 1), assumes no tail.

        References
        ----------
        Lee, Barber & Willett 2023, arXiv:2306.06342, section 3 (exchangeable classes). Barber et al. 2021,
        arXiv:1905.02928, theorem 1 (the worst case). Hill 1975, doi:10.1214/aos/1176343247 (b). The chance is the
        predictive distribution of the next value, over b too: a Lomax distribution.
        """
        if not 0.0 < max_false_accept < 1.0:
            raise ValueError(f"max_false_accept is a share of unknown images, in (0, 1), not {max_false_accept!r}")
        limit = float(max_false_accept)
        m = len(np.unique(self.groups))
        enough = m >= required_classes(limit, self.source)
        level = limit if enough else 1.0 / (m + 1)
        if self.source == "negatives":
            value = float(np.sort(self.unknown)[min(int(level * (m + 1) + 1e-9), m) - 1])
        else:
            value = self._quantile(level * (m - 1) / m if self.source == "classes" else level)
        return Threshold(
            value=value,
            max_false_accept=limit,
            false_accept_bound=limit if enough else (2.0 if self.source == "classes" else 1.0) / (m + 1),
            n_unknown=m,
            source=self.source,
            estimated_false_reject=float((self.known >= value).mean()) if len(self.known) else None,
            center=self.center,
        )

    def _quantile(self, level: float) -> float:
        """Return the score below which the share ``level`` of unknown images is expected."""
        order = np.argsort(self.unknown, kind="stable")
        scores = self.unknown[order]
        logs = np.log(np.maximum(1.0 + scores, _MIN_DISTANCE))
        _, groups, counts = np.unique(self.groups[order], return_inverse=True, return_counts=True)
        m, sizes = len(counts), counts[groups.reshape(-1)]
        if len(scores) == 1:
            return float(scores[0])
        weights = 1.0 / sizes
        classes = min(level * (m + 1) + _TAIL_CLASSES, m - 1.0)
        end = int(np.searchsorted(np.cumsum(weights), classes + 1e-9))
        end = min(max(end, 1), len(scores) - 1)
        tail = weights[:end]
        mean = float(tail @ (logs[end] - logs[:end])) / float(tail.sum())
        independent = sizes / 2.0 if self.source == "classes" else np.ones(len(sizes))
        k, of = float(tail @ independent[:end]), float(weights @ independent)
        further = k * mean * (((k + 1.0) / (of + 1.0) / level) ** (1.0 / k) - 1.0)
        return math.exp(logs[end] - further) - 1.0


def leave_one_out_scores(
    vectors: ArrayLike,
    labels: ArrayLike,
    *,
    background: Background | None = None,
    center: Center | None = None,
    negatives: NDArray[np.float32] | None = None,
    random_state: int = 0,
) -> LeaveOneOutScores:
    """Return the unknown scores of examples left out in turn, which thresholds for any limit are estimated from.

    Parameters
    ----------
    vectors : array-like of shape (s, d)
        The registered examples.
    labels : array-like of s whole numbers, 0 to c - 1
        The class of each.
    background : Background, optional
        Other classes, which then serve as unknown ones. By default each class is left out in turn, and its examples are
        unknown.
    center : Center, optional
        The encoder's, for scores without a background.
    negatives : ndarray of shape (m, d), optional
        Of no class: these then serve as unknown ones, each left out in turn, and add ``nearer_negative`` to all scores.
    random_state : int, default 0
        Samples 2,000 unknown and 500 known examples where there are more.

    Raises
    ------
    TooFewExamples : for one class and neither background nor negatives.
    ValueError : for a centre of another size.
    """
    array = np.asarray(vectors)
    array = check_vectors(array, array.shape[1] if array.ndim == 2 else 0)
    codes = np.asarray(labels, np.int64)
    counts = np.bincount(codes)
    if background is None and negatives is None and len(counts) == 1:
        raise TooFewExamples(
            "with one class and no background or negatives there is nothing unknown to estimate a threshold from: add "
            "negatives, examples that are not of the class (fewshot add --negative), or register more classes"
        )
    rng = np.random.default_rng(random_state)
    with torch.inference_mode():
        known = KnownClasses.of(
            torch.from_numpy(array)[None], Membership(torch.from_numpy(codes)[None], len(counts)), background, center
        )
        held = np.sort(rng.permutation(np.flatnonzero(counts[codes] > 1))[:MAX_KNOWN_EXAMPLES])
        left = without_example if background is None else without_example_around
        inliers = left(known, codes, held)
        if negatives is not None:
            groups = np.arange(len(negatives))
            asked, others = stratified_sample(groups, rng), normalize(torch.from_numpy(negatives), dim=-1)
            unknown = without_negative(known, others, asked)
            inliers = inliers + nearer_negative_without(known, codes, held, others)
        elif background is not None:
            groups, asked = background.groups, stratified_sample(background.groups, rng)
            unknown = without_group(known, background, asked)
        else:
            groups, asked = codes, stratified_sample(codes, rng)
            unknown = without_class(known, codes, asked)
    return LeaveOneOutScores(
        np.asarray(unknown.numpy(), np.float64),
        groups[asked],
        np.asarray(inliers.numpy(), np.float64),
        "negatives" if negatives is not None else "classes" if background is None else "background",
        known.center.n_classes if known.center is not None else None,
    )


def estimate_threshold(
    vectors: ArrayLike,
    labels: ArrayLike,
    *,
    max_false_accept: float,
    background: Background | None = None,
    center: Center | None = None,
    random_state: int = 0,
) -> Threshold:
    """Estimate one threshold: ``leave_one_out_scores`` and ``LeaveOneOutScores.threshold``."""
    scores = leave_one_out_scores(vectors, labels, background=background, center=center, random_state=random_state)
    return scores.threshold(max_false_accept)
