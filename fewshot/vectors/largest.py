"""The largest entries of each row."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Numbers of a row whose maximum is looked at first.
_BLOCK = 64


def top_k(scores: NDArray[np.float32], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the places and values of the k largest scores of each row, largest first; of equal ones the first first.

    Parameters
    ----------
    scores : ndarray of shape (q, n)
    k : int
        Of fewer, all are returned.

    Returns
    -------
    places, values : ndarray of shape (q, min(k, n)), int64 and float32
    """
    k = min(k, scores.shape[1])
    places = np.empty((len(scores), k), np.int64)
    for row, found in zip(scores, places, strict=True):
        some = np.arange(len(row))
        if 0 < k < len(row) // (8 * _BLOCK):
            # As many blocks as k hold a number that is not below the k-th largest of the blocks' maxima.
            whole = len(row) // _BLOCK * _BLOCK
            largest = row[:whole].reshape(-1, _BLOCK).max(axis=1)
            some = np.flatnonzero(row >= np.partition(largest, -k)[-k])
        elif 0 < k < len(row) // 8:
            some = np.flatnonzero(row >= np.partition(row, -k)[-k])
        found[:] = some[np.argsort(-row[some], kind="stable")[:k]]
    return places, np.take_along_axis(scores, places, axis=1)
