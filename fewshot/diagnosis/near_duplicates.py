"""Pairs of examples that are nearly the same: closer than examples are to each other as a rule."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

_CLOSEST = 5
"""So many closest others of each example are compared."""
# From so many examples on, candidates are found by the cosines of so many random projections.
_MANY, _DIRECTIONS = 5_000, 128
_ROWS_AT_ONCE = 2**10
_SMALLEST = 1e-6  # of 1 - cosine: what rounding leaves of equal vectors
# The limit lies so many deviations below the median of log(1 - cosine), and in this range.
_DEVIATIONS, _LOWEST, _HIGHEST = 4.0, 0.5, 0.999
_FEWEST = 8  # examples; of fewer nothing is estimated


@dataclass(frozen=True)
class NearPairs:
    """Pairs of near-duplicates, closest first.

    Attributes
    ----------
    limit : float
        The cosine from which a pair is one.
    pairs : ndarray of shape (p, 2), int64
        Positions; the first is the smaller.
    cosines : ndarray of shape (p,), float32
    groups : ndarray of shape (n,), int64
        Examples of one class that are near-duplicates, also by way of others, have the same number.
    """

    limit: float
    pairs: NDArray[np.int64]
    cosines: NDArray[np.float32]
    groups: NDArray[np.int64]


def near_pairs(vectors: NDArray[np.float32], codes: NDArray[np.int64]) -> NearPairs:
    """Find near-duplicates by the cosine of vectors (n, d), of classes (n,).

    The limit is set from the data: log(1 - cosine) of each example to its closest other has a median and, between it
    and the 84th percentile, which duplicates do not reach, a deviation; what lies four deviations below the median is a
    near-duplicate. The limit is between 0.5 and 0.999, and 0.999 with fewer than eight examples. The five closest of
    each example are looked at; of more than 5,000 these are found by 128 random projections, which keep cosines close
    to 1 to within thousandths, and compared exactly.

    References
    ----------
    Achlioptas 2003, doi:10.1016/S0022-0000(03)00025-4 (random projections keep distances).
    """
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-12)
    places, cosines = _closest(vectors, lengths)
    limit = _limit(cosines[:, 0]) if len(codes) >= _FEWEST else _HIGHEST
    rows, columns = np.nonzero(cosines >= limit)
    ends = np.sort(np.stack([rows, places[rows, columns]], axis=1), axis=1)
    pairs, first = np.unique(ends, axis=0, return_index=True)
    values = cosines[rows, columns][first]
    order = np.argsort(-values, kind="stable")
    pairs = pairs[order]
    within = pairs[codes[pairs[:, 0]] == codes[pairs[:, 1]]]
    return NearPairs(limit, pairs, values[order], _joined(within, len(codes)))


def _closest(
    vectors: NDArray[np.float32], lengths: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Positions of the closest others of each and their cosines, closest first: (n, k) each."""
    n, d = vectors.shape
    units = torch.from_numpy(vectors / lengths)
    compared = units
    if n > _MANY and d > _DIRECTIONS:
        directions = torch.randn(d, _DIRECTIONS, generator=torch.Generator().manual_seed(0))
        compared = torch.nn.functional.normalize(units @ directions, dim=1)
    k = min(_CLOSEST, n - 1)
    places = torch.empty(n, k, dtype=torch.int64)
    cosines = torch.empty(n, k)
    for start in range(0, n, _ROWS_AT_ONCE):
        rows = torch.arange(start, min(start + _ROWS_AT_ONCE, n))
        close = compared[rows] @ compared.mT
        close[rows - start, rows] = -torch.inf
        found = close.topk(k, dim=1).indices
        exact = (units[found] * units[rows].unsqueeze(1)).sum(-1)
        cosines[rows], order = exact.sort(dim=1, descending=True)
        places[rows] = found.gather(1, order)
    return places.numpy(), cosines.numpy()


def _limit(closest: NDArray[np.float32]) -> float:
    distance = np.log((1.0 - closest.astype(np.float64)).clip(_SMALLEST))
    middle, above = np.quantile(distance, [0.5, 0.8413])
    return float(np.clip(1.0 - np.exp(middle - _DEVIATIONS * (above - middle)), _LOWEST, _HIGHEST))


def _joined(pairs: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """Numbers (n,) that are the same for what pairs (p, 2) connect: the smallest position of each."""
    groups = np.arange(n)
    while len(pairs):
        smallest = np.minimum(groups[pairs[:, 0]], groups[pairs[:, 1]])
        before = groups.copy()
        for end in (0, 1):
            np.minimum.at(groups, pairs[:, end], smallest)
        if np.array_equal(before, groups):
            break
    return groups
