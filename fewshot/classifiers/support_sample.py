"""Examples of the support set that tell how sure a classifier may be."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from fewshot.calibration import Signs
from fewshot.classifiers.membership import Membership

# Classes and examples of each that are enough to tell.
_CLASSES, _EACH = 20, 5


@dataclass(frozen=True)
class Witnesses:
    """The first five examples of every class; where there are over 20 classes, of every n-th.

    Attributes
    ----------
    where : Tensor of shape (e, w), int64
        Their positions in the support; an episode with fewer is filled up.
    labels : Tensor of shape (e, w), int64
        -1 where filled up.
    shots : Tensor of shape (e,)
        Mean number of examples of all classes.
    n_classes : int
        c, of all.
    """

    where: Tensor
    labels: Tensor
    shots: Tensor
    n_classes: int

    @classmethod
    def among(cls, labels: Tensor, n_classes: int) -> Witnesses:
        """Choose them from a support's classes (e, s), where -1 is padding."""
        step = _step(n_classes)
        # First the classes: numbering the examples of all would take s times c numbers.
        where, near = _kept(torch.arange(labels.shape[1], device=labels.device).expand_as(labels), labels, step)
        early = Membership(near, _few(n_classes)).numbered() < _EACH
        near = near.masked_fill(~early, -1)
        some, near = _kept(where, near, 1)
        shots = Membership(labels, n_classes).shots()
        return cls(some, torch.where(near < 0, -1, near * step), shots, n_classes)

    def gathered(self, support: Tensor) -> Tensor:
        """Return the witnesses (e, w, d) of a support (e, s, d)."""
        return support.gather(1, self.where.unsqueeze(-1).expand(-1, -1, support.shape[2]))

    def signs(self, support: Tensor) -> Signs:
        """Read how alike the classes are, how well examples are told that are left out of their class, and how broad.

        Parameters
        ----------
        support : Tensor of shape (e, w, d)
            The witnesses' vectors, as the method prepares them; their lengths do not count.
        """
        labels = torch.where(self.labels < 0, -1, self.labels // _step(self.n_classes))
        classes = Membership(labels, _few(self.n_classes))
        units = normalize(support, dim=-1) * (labels >= 0).unsqueeze(-1)
        sums, counts = classes.sums(units), classes.counts()
        means = normalize(sums, dim=-1)
        n = (counts > 0).sum(1)
        # The squared length of a sum of n unit vectors is n, and twice the cosine of each pair.
        alike = (means.sum(1).square().sum(-1) - n) / (n * (n - 1)).clamp_min(1)
        at = labels.clamp_min(0)
        of = at.unsqueeze(-1).expand_as(units)
        own = (units * means.gather(1, of)).sum(-1)
        others = (units @ means.sum(1).unsqueeze(-1)).squeeze(-1).sub(own) / (n - 1).clamp_min(1).unsqueeze(1)
        left_out = (units * normalize(sums.gather(1, of) - units, dim=-1)).sum(-1)
        able = (labels >= 0) & (counts.gather(1, at) > 1)
        margin = ((own - others) * able).sum(1)
        kept = ((left_out - others) * able).sum(1) / margin
        told = able.any(1) & (margin > 1e-6 * able.sum(1))
        there = (labels >= 0).sum(1).clamp_min(1)
        broad = units.abs().sum(2).sum(1) / there / math.sqrt(units.shape[2])
        return Signs(self.n_classes, self.shots, alike, torch.where(told, kept, torch.nan), broad)


def _step(n_classes: int) -> int:
    return -(-n_classes // _CLASSES)


def _few(n_classes: int) -> int:
    """How many classes remain of which only every n-th is kept."""
    return -(-n_classes // _step(n_classes))


def _kept(where: Tensor, labels: Tensor, step: int) -> tuple[Tensor, Tensor]:
    """Positions (e, m) of the examples of every n-th class, in order, and their classes among these; -1 fills."""
    chosen = (labels >= 0) & (labels % step == 0)
    order = (~chosen).to(torch.uint8).argsort(dim=1, stable=True)[:, : int(chosen.sum(1).max())]
    kept = torch.where(chosen, labels // step, -1).gather(1, order)
    return where.gather(1, order), kept
