"""Class means that grow in place as examples are added."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from fewshot.classifiers.membership import Membership

# Beside more classes than these, the margin of the support is that over so many of them, at equal distances.
_MOST_CLASSES = 2_000
_ROWS_AT_ONCE = 2**13


@dataclass(frozen=True)
class ClassMeans:
    """The mean of each class's support.

    Attributes
    ----------
    means : Tensor of shape (e, c, d)
    counts : Tensor of shape (e, c)
        How many examples each is the mean of.
    """

    means: Tensor
    counts: Tensor

    @classmethod
    def of(cls, support: Tensor, membership: Membership) -> ClassMeans:
        """Average support (e, s, d) within classes; a class without examples has zeros."""
        counts = membership.counts()
        return cls(membership.sums(support).div_(counts.clamp_min(1.0).unsqueeze(-1)), counts)

    @classmethod
    def of_one(cls, support: Tensor, membership: Membership) -> ClassMeans:
        """As ``of``, for one episode; where each class has one example, in order, the support itself, not a copy."""
        if one_of_each(membership):
            return cls(support, membership.counts())
        return cls.of(support, membership)

    def extended(self, support: Tensor, membership: Membership, *, shared: bool) -> tuple[ClassMeans, Tensor]:
        """Return the means after more support (1, n, d), and the classes that changed.

        Parameters
        ----------
        shared : bool
            Whether the means are somebody else's memory, which must not be changed.
        """
        known, c = self.means.shape[1], membership.n_classes
        means = _with_room(self.means, c, shared)
        counts = pad(self.counts, (0, c - known))
        touched = torch.unique(membership.labels[0])
        local = Membership(torch.searchsorted(touched, membership.labels), len(touched))
        total = counts[:, touched] + local.counts()
        sums = means[:, touched] * counts[:, touched].unsqueeze(-1) + local.sums(support)
        means[:, touched], counts[:, touched] = sums / total.unsqueeze(-1), total
        return ClassMeans(means, counts), touched

    def exchanged(self, support: Tensor, membership: Membership, before: Tensor) -> tuple[ClassMeans, Tensor]:
        """Return the means of other classes, in the memory of these, and the classes that are new or changed.

        Parameters
        ----------
        support : Tensor of shape (1, n, d)
            All examples of the new and the changed classes.
        membership : Membership
            Of the support, among all classes.
        before : Tensor of shape (c,), int64
            The position of each class among these; -1 where it is new or changed.
        """
        c, own = len(before), torch.arange(len(before))
        means = _with_room(self.means, c, shared=False)
        if bool(((before >= 0) & (before < own)).any()):
            means = self.means[:, before.clamp_min(0)]
        else:  # a class moves only to where none is that still moves
            for start in range(0, c, _ROWS_AT_ONCE):
                rows = before[start : start + _ROWS_AT_ONCE]
                here = slice(start, start + len(rows))
                if not torch.equal(rows, own[here]):
                    means[0, here] = self.means[
                        0, torch.where(rows < 0, own[here], rows).clamp_max(self.means.shape[1] - 1)
                    ]
        counts = self.counts[:, before.clamp_min(0)]
        touched = torch.unique(membership.labels[0])
        local = Membership(torch.searchsorted(touched, membership.labels), len(touched))
        counts[:, touched] = local.counts()
        means[:, touched] = local.sums(support) / local.counts().unsqueeze(-1)
        return ClassMeans(means, counts), touched


def one_of_each(membership: Membership, known: int = 0) -> bool:
    """Whether each class from ``known`` on has one example, in order, and no other has any."""
    own = torch.arange(known, membership.n_classes, device=membership.labels.device)
    return membership.labels.shape == (1, len(own)) and bool((membership.labels[0] == own).all())


def some_classes(n_classes: int, labels: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return at most some thousands of classes, those of ``labels`` (e, n) among them, and the labels among these.

    None where all are few enough.
    """
    if n_classes <= _MOST_CLASSES:
        return None
    spread = torch.linspace(0, n_classes - 1, _MOST_CLASSES, dtype=torch.float64, device=labels.device).round().long()
    some = torch.unique(torch.cat([spread, labels[labels >= 0]]))
    return some, torch.where(labels < 0, -1, torch.searchsorted(some, labels.clamp_min(0)))


def _with_room(means: Tensor, c: int, shared: bool) -> Tensor:
    """Return a tensor (1, c, d) of ``means``, then zeros: in their own memory where that has room, else in new."""
    _, known, d = means.shape
    if shared or means.untyped_storage().nbytes() < c * d * means.element_size():
        grown = means.new_empty(1, c + c // 4, d)
        grown[:, :known] = means
        means = grown
    grown = means.as_strided((1, c, d), (c * d, d, 1), 0)
    grown[:, known:] = 0.0
    return grown
