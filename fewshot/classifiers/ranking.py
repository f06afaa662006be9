"""The closest classes of some queries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


class Beside(Protocol):
    """Whoever wants the products of q vectors with the means of the classes' unit vectors, too.

    Attributes
    ----------
    vectors : ndarray of shape (q, d), float32
    """

    vectors: NDArray[np.float32]

    def take(self, rows: slice, products: Tensor) -> None:
        """Receive the products (n, c) of some of the vectors, to keep or overwrite."""


@dataclass(frozen=True)
class Ranking:
    """The closest classes of q queries.

    Attributes
    ----------
    classes : ndarray of shape (q, k), int64
        Positions in ``classes_``, closest first; of equal ones the first comes first.
    scores : ndarray of shape (q, k), float32
    probability : ndarray of shape (q,), float32
        Calibrated, of the closest class.
    """

    classes: NDArray[np.int64]
    scores: NDArray[np.float32]
    probability: NDArray[np.float32]
