"""Classes whose examples are all alike, so that they show one side of the class."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_DEVIATIONS = 3.0
# Examples from which a class is judged, and such classes from which there is a rule.
_ENOUGH, _FEWEST_CLASSES = 3, 5


def one_sided(vectors: NDArray[np.float32], codes: NDArray[np.int64], shots: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which classes (c,) have examples that are far more alike than those of the others.

    That are those whose examples are all near-duplicates of one; and of classes of three examples or more those where
    the logarithm of the mean distance (1 - cosine) to the mean of the others lies three deviations (of the median
    absolute one) below the median of such classes.

    Parameters
    ----------
    vectors : ndarray of shape (n, d), float32
    codes : ndarray of shape (n,), int64
    shots : ndarray of shape (c,), int64
        Groups of near-duplicates of each class.
    """
    counts = np.bincount(codes, minlength=len(shots))
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-12)
    sums = np.zeros((len(shots), vectors.shape[1]), np.float32)
    np.add.at(sums, codes, units)
    rest = sums[codes] - units
    cosines = (rest * units).sum(axis=1) / np.linalg.norm(rest, axis=1).clip(1e-12)
    spread = np.bincount(codes, 1.0 - cosines, minlength=len(shots)) / counts.clip(1)
    judged = counts >= _ENOUGH
    alike = (counts > 1) & (shots == 1)
    if judged.sum() >= _FEWEST_CLASSES:
        depth = np.log(spread.clip(1e-9))
        middle = np.median(depth[judged])
        deviation = 1.4826 * np.median(np.abs(depth[judged] - middle))
        alike |= judged & (depth < middle - _DEVIATIONS * deviation)
    return np.asarray(alike)
