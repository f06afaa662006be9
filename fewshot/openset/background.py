"""A background: vectors of other classes than the known ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from fewshot.openset.whitening import ENOUGH, STRENGTH, Whitening
from fewshot.validation import check_vectors

# Half of each covariance is the mean variance in every direction: a few hundred vectors of d = 1,000 tell no more.
_SHRINKAGE = 0.5
MAX_EXAMPLES = 2_000
"""Examples that a threshold is estimated from, at most: more would hardly move it."""


def stratified_sample(
    groups: NDArray[np.int64], rng: np.random.Generator, most: int = MAX_EXAMPLES
) -> NDArray[np.int64]:
    """Return the positions of all n examples of these classes (n,), or of ``most``, as many of each class as can be."""
    if len(groups) <= most:
        return np.arange(len(groups))
    order = rng.permutation(len(groups))
    order = order[np.argsort(groups[order], kind="stable")]
    turn = np.arange(len(order)) - np.searchsorted(groups[order], groups[order])  # the how-maniest of its class
    return np.sort(order[np.lexsort((rng.random(len(order)), turn))[:most]])


@dataclass(frozen=True)
class Background:
    """Vectors of other classes than the known ones, by the same encoder.

    Attributes
    ----------
    vectors : Tensor of shape (n, d), float32
        Of length 1; a zero vector stays zero.
    groups : ndarray of shape (n,), int64
        The class of each, by number; without labels each vector is a class of its own.

    Examples
    --------
    >>> import numpy as np
    >>> from fewshot.openset import Background
    >>> others = Background.of(np.eye(3, dtype=np.float32), ["cup", "cup", "pen"])
    >>> others.n_classes
    2
    >>> others.means.tolist()
    [[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]]
    """

    vectors: Tensor
    groups: NDArray[np.int64]

    @classmethod
    def of(cls, vectors: NDArray[np.float32], labels: Sequence[str] | NDArray[np.str_] | None = None) -> Background:
        """Make it from vectors (n, d) of any length and, where they are known, their n labels.

        Raises
        ------
        ValueError : for no vectors, NaN or infinity, or another number of labels.
        """
        array = np.asarray(vectors)
        array = check_vectors(array, array.shape[1] if array.ndim == 2 else 0)
        if not len(array):
            raise ValueError("the background has no vectors: give at least one image of another class")
        if labels is None:
            groups = np.arange(len(array))
        elif len(labels) != len(array):
            raise ValueError(f"the background has {len(array)} vectors but {len(labels)} labels; each needs one")
        else:
            groups = np.unique(np.asarray(labels, str), return_inverse=True)[1].reshape(-1)
        return cls(normalize(torch.from_numpy(array.copy()), dim=-1), groups)

    @property
    def n_classes(self) -> int:
        """How many classes there are."""
        return int(self.groups.max()) + 1

    @cached_property
    def center(self) -> Tensor:
        """The mean (d,)."""
        return self.vectors.mean(dim=0)

    @cached_property
    def means(self) -> Tensor:
        """The mean of each class: (c, d)."""
        groups = torch.from_numpy(self.groups)
        sums = torch.zeros(self.n_classes, self.vectors.shape[1]).index_add_(0, groups, self.vectors)
        return sums / torch.bincount(groups).unsqueeze(-1)

    @cached_property
    def whitening(self) -> Whitening:
        """The map around ``center`` that evens out the directions, where there are 64 vectors to tell them."""
        return Whitening.of(self.vectors, STRENGTH if len(self.vectors) >= ENOUGH else 0.0)

    @cached_property
    def overall(self) -> Tensor:
        """The (d, d) map after which the vectors around ``center`` have a covariance near the identity."""
        return _whitening(self.vectors - self.center, len(self.vectors))

    @cached_property
    def within(self) -> Tensor:
        """The same of the vectors around their class means; ``overall`` where no class has two vectors."""
        freedom = len(self.groups) - self.n_classes
        if not freedom:
            return self.overall
        return _whitening(self.vectors - self.means[torch.from_numpy(self.groups)], freedom)


def _whitening(residuals: Tensor, freedom: int) -> Tensor:
    covariance = residuals.mT @ residuals / freedom
    level = covariance.diagonal().mean().clamp_min(torch.finfo(residuals.dtype).tiny)
    covariance = (1.0 - _SHRINKAGE) * covariance
    covariance.diagonal().add_(_SHRINKAGE * level)
    variances, axes = torch.linalg.eigh(covariance)
    return torch.as_tensor(axes * variances.clamp_min(_SHRINKAGE * level * 0.5).rsqrt())
