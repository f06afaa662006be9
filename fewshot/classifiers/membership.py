"""Which class each support vector belongs to, and padding."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot

# Up to this many entries the dense matrix product beats the scatter; above it, it would not fit memory.
_DENSE_LIMIT = 2**22
# Of one episode, from some hundred examples on, adding row by row is faster.
_DENSE_LIMIT_OF_ONE = 2**14


@dataclass(frozen=True)
class Membership:
    """Which class each support vector belongs to.

    Attributes
    ----------
    labels : Tensor of shape (e, s), int64
        Class numbers below ``n_classes``; -1 marks padding, which belongs to none.
    n_classes : int
        c, the same for all episodes.
    """

    labels: Tensor
    n_classes: int

    def one_hot(self) -> Tensor:
        """Return membership as a float tensor of shape (e, s, c); a row of zeros where padded."""
        return one_hot(self.labels + 1, self.n_classes + 1)[..., 1:].to(torch.float32)

    def counts(self) -> Tensor:
        """Return how many examples each class has, float32 of shape (e, c)."""
        if len(self.labels) == 1 and self.labels.device.type == "cpu":
            return torch.bincount(self.labels[0] + 1, minlength=self.n_classes + 1)[None, 1:].to(torch.float32)
        return self.sums(torch.ones_like(self.labels, dtype=torch.float32).unsqueeze(-1)).squeeze(-1)

    def shots(self) -> Tensor:
        """Return the mean number of examples (e,) of the classes that have any."""
        counts = self.counts()
        return counts.sum(1) / (counts > 0).sum(1).clamp_min(1)

    def balanced(self) -> Tensor:
        """Return weights (e, s) of mean 1 by which every class weighs the same; 0 where padded."""
        counts = self.counts()
        real = self.labels >= 0
        each = real.sum(1, keepdim=True) / (counts > 0).sum(1, keepdim=True).clamp_min(1)
        return torch.where(real, each / counts.gather(1, self.labels.clamp_min(0)).clamp_min(1.0), 0.0)

    def numbered(self) -> Tensor:
        """Return each example's index within its class, int64 of shape (e, s); -1 where padded."""
        one_hot = self.one_hot()
        return (one_hot * one_hot.cumsum(1)).sum(-1).to(torch.int64) - 1

    def sums(self, support: Tensor) -> Tensor:
        """Sum the support (e, s, d) within each class: (e, c, d)."""
        e, s, d = support.shape
        if e * s * self.n_classes <= (_DENSE_LIMIT if e > 1 else _DENSE_LIMIT_OF_ONE):
            return self.one_hot().mT @ support
        totals = support.new_zeros(e, self.n_classes + 1, d)
        where = torch.where(self.labels < 0, self.n_classes, self.labels)
        if e == 1:
            return totals.index_add_(1, where[0], support)[:, :-1]
        return totals.scatter_add_(1, where.unsqueeze(-1).expand(e, s, d), support)[:, :-1]


@dataclass(frozen=True)
class LabelledSupport:
    """Support vectors (e, s, d) and the class of each: what methods that compare with every example remember."""

    support: Tensor
    membership: Membership


def harmless(support: Tensor, labels: Tensor) -> Tensor:
    """Replace padding by its episode's first example, so that it neither shifts a mean nor spreads NaN."""
    padded = labels < 0
    if not bool(padded.any()):
        return support
    first = (~padded).to(torch.uint8).argmax(dim=1)
    stand_in = support[torch.arange(len(support), device=support.device), first].unsqueeze(1)
    return torch.where(padded.unsqueeze(-1), stand_in, support)
