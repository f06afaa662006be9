"""Pairs of classes that will be confused."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fewshot.diagnosis.left_out_examples import LeftOut


@dataclass(frozen=True)
class ConfusedPairs:
    """Pairs of classes, the most confused first.

    Attributes
    ----------
    pairs : ndarray of shape (p, 2), int64
        Classes; examples of the first are taken for the second more often than the reverse.
    rate : ndarray of shape (p,), float64
        The share of the queries of the two that are to be expected to be taken for each other.
    counted : ndarray of shape (p,), int64
        How many of the examples that were left out were.
    """

    pairs: NDArray[np.int64]
    rate: NDArray[np.float64]
    counted: NDArray[np.int64]


def confused_pairs(found: LeftOut, codes: NDArray[np.int64], *, least: float) -> ConfusedPairs:
    """Find pairs whose rate is at least ``least``, or of which two examples or more were taken for each other.

    The rate is the mean of the calibrated probability that the left-out examples of each have of the other, where
    that is among the three closest: so few examples as there are seldom show by counts what is to come.
    """
    own = codes[found.positions]
    c = len(found.mistaken_for)
    ends = np.stack([np.repeat(own, found.rivals.shape[1]), found.rivals.ravel()])
    counts = np.bincount(own, minlength=c).clip(1)
    keys, at = np.unique(ends[0] * c + ends[1], return_inverse=True)
    at = at.reshape(-1)
    first = np.zeros(found.rivals.shape, bool)
    first[:, 0] = ~found.correct
    one, other = keys // c, keys % c
    rates = np.bincount(at, found.rival_probabilities.ravel().astype(np.float64)) / counts[one]
    taken = np.bincount(at, first.ravel().astype(np.float64)).astype(np.int64)
    back = np.searchsorted(keys, other * c + one).clip(max=len(keys) - 1)
    there = keys[back] == other * c + one
    reverse, returned = np.where(there, rates[back], 0.0), np.where(there, taken[back], 0)
    leads = (rates > reverse) | ((rates == reverse) & (~there | (one < other)))
    rate, counted = (rates + reverse) / 2.0, taken + returned
    chosen = np.flatnonzero(leads & ((rate >= least) | (counted > 1)))
    chosen = chosen[np.lexsort((keys[chosen], -rate[chosen]))]
    return ConfusedPairs(np.stack([one, other], axis=1)[chosen], rate[chosen], counted[chosen])
