"""Examples of the support set that tell how sure a classifier may be."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from fewshot.classifiers.membership import Membership

# Classes and examples of each that are enough to tell, and into how many parts they are split, each left out in turn.
_CLASSES, _EACH, _FOLDS = 30, 10, 5


@dataclass(frozen=True)
class Witnesses:
    """The first ten examples of every class; where there are over 30 classes, of every n-th.

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

    def folds(self) -> Iterator[tuple[Membership, Tensor]]:
        """Yield what is seen while others are left out, and the classes (e, w) of those left out, else -1.

        Classes are numbered among the witnesses'. A class keeps at least one example, so one of a single example is
        never left out; where no class has two, nothing is yielded.
        """
        if self.n_classes == 1:
            return
        labels = torch.where(self.labels < 0, -1, self.labels // _step(self.n_classes))
        everyone = Membership(labels, _few(self.n_classes))
        number, counts = everyone.numbered(), everyone.counts()
        able = (labels >= 0) & (counts.gather(1, labels.clamp_min(0)) > 1)
        folds = min(_FOLDS, int(counts.max()))
        for fold in range(folds if bool(able.any()) else 0):
            hidden = able & (number % folds == fold)
            seen = Membership(labels.masked_fill(hidden, -1), everyone.n_classes)
            yield seen, labels.masked_fill(~hidden, -1)


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
