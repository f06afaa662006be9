"""The mean of vectors, and powers of their shrunk covariance: whitening is the power -1/2, colouring 1/2."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize


def check_shrinkage(value: float) -> None:
    """Raise ValueError unless ``value`` is above 0 and at most 1."""
    if not 0.0 < value <= 1.0:
        raise ValueError(
            f"shrinkage must be above 0 and at most 1, not {value!r}: at 0, directions in which the vectors do not "
            "vary would be divided by zero"
        )


def mean_of(vectors: Tensor, real: Tensor) -> Tensor:
    """Return the mean (e, 1, d) of vectors (e, n, d), of those only that are ``real`` (e, n)."""
    weights = real.to(vectors.dtype).unsqueeze(-1)
    return (vectors * weights).sum(1, keepdim=True) / weights.sum(1, keepdim=True)


@dataclass(frozen=True)
class Covariance:
    """The covariance (1 - a) S + a m I of each of e sets of vectors, and their mean.

    S is the sample covariance (divided by n, as scikit-learn's), m its mean eigenvalue, a the shrinkage. With n < d
    no matrix (d, d) is made: in the directions in which the vectors do not vary it is a m I.

    Attributes
    ----------
    mean : Tensor of shape (e, 1, d)
    basis : Tensor of shape (e, r, d)
        Orthonormal eigenvectors of S; r is d, or n where that is less.
    values : Tensor of shape (e, r)
        The eigenvalues of the shrunk covariance that belong to them.
    floor : Tensor of shape (e, 1)
        a m, the eigenvalue of every other direction.

    References
    ----------
    Ledoit & Wolf 2004, doi:10.1016/S0047-259X(03)00096-4, theorem 2.1: the form; a is given here, not estimated.
    """

    mean: Tensor
    basis: Tensor
    values: Tensor
    floor: Tensor

    @classmethod
    def of(cls, vectors: Tensor, real: Tensor, shrinkage: float) -> Covariance:
        """Estimate it from vectors (e, n, d), of those only that are ``real`` (e, n)."""
        mean = mean_of(vectors, real)
        apart = (vectors - mean) * real.unsqueeze(-1)
        number = real.sum(1, keepdim=True).to(vectors.dtype)
        n, d = vectors.shape[1:]
        if n < d:
            # From the Gram matrix, several times faster than a singular value decomposition. Rows without variance are
            # any direction, and harmless: their eigenvalue is the floor's.
            spread, columns = torch.linalg.eigh(apart @ apart.mT / number.unsqueeze(-1))
            basis = normalize(columns.mT @ apart, dim=-1)
        else:
            spread, columns = torch.linalg.eigh(apart.mT @ apart / number.unsqueeze(-1))
            basis = columns.mT
        spread = spread.clamp_min(0.0)
        # Of vectors that are all the same nothing varies, and anything above zero serves.
        floor = (shrinkage * spread.sum(-1, keepdim=True) / d).clamp_min(torch.finfo(spread.dtype).tiny)
        return cls(mean, basis, (1.0 - shrinkage) * spread + floor, floor)

    def times(self, vectors: Tensor, power: float) -> Tensor:
        """Multiply vectors (e, m, d) by this power of the covariance, a symmetric matrix."""
        elsewhere = self.floor**power
        gains = self.values**power - elsewhere
        return elsewhere.unsqueeze(-1) * vectors + ((vectors @ self.basis.mT) * gains.unsqueeze(1)) @ self.basis

    def whitened(self, vectors: Tensor) -> Tensor:
        """Return vectors (e, m, d) as they lie around the mean, with equal variance in every direction (ZCA).

        References
        ----------
        Kessy, Lewin & Strimmer 2018, arXiv:1512.00809, section 3: of all whitenings, ZCA changes the vectors least.
        """
        return self.times(vectors - self.mean, -0.5)

    def coloured(self, white: Tensor) -> Tensor:
        """Give white vectors (e, m, d) this covariance and mean: the inverse of ``whitened``."""
        return self.times(white, 0.5) + self.mean
