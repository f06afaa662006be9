"""Maps after which some vectors vary alike in all directions, and what they would be without a few of those vectors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

ENOUGH = 64
"""From so many vectors on, their covariance is of use; that of 30 is of none (Tiny ImageNet's training classes)."""
STRENGTH = 64.0
"""The best, at 5 to 50 ways there, of 16 to 256 for the examples of 19 classes or more and for a background of 600."""

# Where there are fewer vectors, their own directions are all that the map changes: cheaper, and batched.
_FEW = 257
_TINY = 1e-6  # what the squared lengths of n residuals of unit vectors sum to, where they are but rounding


@dataclass(frozen=True)
class Whitening:
    """x -> (x - m) W, with W W' the inverse of I + k sum_i r_i r_i', for the residuals r_i = x_i - m of n vectors.

    That is a covariance shrunk to a multiple of the identity; the map keeps the length of what lies across all r_i.

    Attributes
    ----------
    center : Tensor of shape (..., 1, d)
        m, the mean of the vectors.
    axes : Tensor of shape (..., d, r)
    factors : Tensor of shape (..., 1, r), or None
        W is I + axes diag(factors) axes', or without factors axes itself.
    strength : Tensor of shape (..., 1, 1)
        k.
    n : Tensor of shape (..., 1, 1)
    """

    center: Tensor
    axes: Tensor
    factors: Tensor | None
    strength: Tensor
    n: Tensor

    @classmethod
    def of(
        cls, vectors: Tensor, strength: float | Tensor, *, real: Tensor | None = None, directions: int | None = None
    ) -> Whitening:
        """Make it from vectors (..., n, d); those that are not ``real`` (..., n) are left out.

        With ``directions`` only so many, those of the largest variance, are scaled, where n is 256 or less.

        The strength is k sum_i |r_i|^2: a direction with a share v of all variance is scaled by
        1 / sqrt(1 + strength v); with 0 vectors are only centred.

        References
        ----------
        Ledoit & Wolf 2004, doi:10.1016/S0047-259X(03)00096-4, section 2; how much it shrinks is given, not
        estimated.
        """
        weights = torch.ones_like(vectors[..., :1]) if real is None else real.unsqueeze(-1).to(vectors)
        n = weights.sum(dim=-2, keepdim=True)
        center = (weights * vectors).sum(dim=-2, keepdim=True) / n
        residuals = weights * (vectors - center)
        spread = residuals.square().sum(dim=(-2, -1), keepdim=True).clamp_min(_TINY)
        k = strength / spread
        if vectors.shape[-2] < _FEW:
            variances, turns = torch.linalg.eigh(residuals @ residuals.mT)  # rising
            if directions is not None:
                variances, turns = variances[..., -directions:], turns[..., -directions:]
            variances = variances.unsqueeze(-2).clamp_min(_TINY / vectors.shape[-2])
            axes = residuals.mT @ turns * variances.rsqrt()
            return cls(center, axes, (1.0 + k * variances).rsqrt() - 1.0, k, n)
        identity = torch.eye(vectors.shape[-1]).to(vectors)
        root = torch.linalg.cholesky(identity + k * (residuals.mT @ residuals))
        return cls(center, torch.linalg.solve_triangular(root, identity, upper=False).mT, None, k, n)

    def __call__(self, vectors: Tensor) -> Tensor:
        """Map vectors (..., q, d)."""
        return self.turned(vectors - self.center)

    def turned(self, moved: Tensor) -> Tensor:
        """Return x W of x (..., q, d), of which a centre has been taken."""
        if self.factors is None:
            return moved @ self.axes
        return moved + (moved @ self.axes * self.factors) @ self.axes.mT

    def turned_back(self, mapped: Tensor) -> Tensor:
        """Return y W' of y (..., q, d)."""
        return mapped @ self.axes.mT if self.factors is None else self.turned(mapped)

    def squares(self, moved: Tensor) -> Tensor:
        """Return |x W|^2 of x (..., q, d): (..., q)."""
        if self.factors is None:
            return (moved @ self.axes).square().sum(dim=-1)
        # W W' - I is of the axes alone, which are orthonormal.
        more = self.factors * (2.0 + self.factors)
        own: Tensor = torch.linalg.vector_norm(moved, dim=-1)
        return own.square_() + ((moved @ self.axes).square_() @ more.mT).squeeze(-1)

    def without(self, mapped: Tensor) -> Tensor:
        """Return what g of the n vectors, mapped (g, d), have made of the map: U (g, d), or (0, d) where nothing.

        Without them, their mean and covariance (the shrinkage's strength staying k), the product of two mapped vectors
        would be x y' + (x U') (y U') instead of x y'.

        Notes
        -----
        Their share of the scatter is R' (I + 1 1' / (n - g)) R for R their residuals, the second term by the mean's
        move; then Woodbury's identity.
        """
        if not float(self.strength):
            return mapped[:0]
        rows = mapped.double()
        left = torch.eye(len(rows)).to(rows) - 1.0 / self.n.double().reshape(())
        inner = left / self.strength.double().reshape(()) - rows @ rows.mT
        root = torch.linalg.cholesky(inner)
        return torch.as_tensor(torch.linalg.solve_triangular(root, rows, upper=False)).to(mapped)

    def to(self, like: Tensor) -> Whitening:
        """Return it on a tensor's device."""
        return Whitening(
            self.center.to(like),
            self.axes.to(like),
            None if self.factors is None else self.factors.to(like),
            self.strength.to(like),
            self.n.to(like),
        )
