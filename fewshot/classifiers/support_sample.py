"""A bounded sample of the support set, from which features of the task are computed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from fewshot.calibration import TaskFeatures
from fewshot.classifiers.membership import Membership

_MAX_CLASSES, _MAX_SHOTS = 20, 5


@dataclass(frozen=True)
class SupportSample:
    """The first five examples of every class; where there are over 20 classes, of every n-th.

    Attributes
    ----------
    indices : Tensor of shape (e, n), int64
        Positions in the support; shorter episodes are padded.
    labels : Tensor of shape (e, n), int64
        -1 for padding.
    shots : Tensor of shape (e,)
        Mean number of examples of all classes.
    n_classes : int
        c, of all.
    """

    indices: Tensor
    labels: Tensor
    shots: Tensor
    n_classes: int

    @classmethod
    def choose(cls, labels: Tensor, n_classes: int) -> SupportSample:
        """Choose from a support's classes (e, s), where -1 is padding."""
        step = _step(n_classes)
        # First the classes: numbering the examples of all would take s times c numbers.
        indices, sampled = _of_classes(
            torch.arange(labels.shape[1], device=labels.device).expand_as(labels), labels, step
        )
        early = Membership(sampled, _n_sampled(n_classes)).numbered() < _MAX_SHOTS
        indices, sampled = _of_classes(indices, sampled.masked_fill(~early, -1), 1)
        shots = Membership(labels, n_classes).shots()
        return cls(indices, torch.where(sampled < 0, -1, sampled * step), shots, n_classes)

    def gather(self, support: Tensor) -> Tensor:
        """Return the sampled rows (e, n, d) of a support (e, s, d)."""
        return support.gather(1, self.indices.unsqueeze(-1).expand(-1, -1, support.shape[2]))

    def features(self, support: Tensor) -> TaskFeatures:
        """Compute the features of the task.

        Parameters
        ----------
        support : Tensor of shape (e, n, d)
            The sampled vectors, prepared by the method; their norms do not matter.
        """
        labels = torch.where(self.labels < 0, -1, self.labels // _step(self.n_classes))
        classes = Membership(labels, _n_sampled(self.n_classes))
        units = normalize(support, dim=-1) * (labels >= 0).unsqueeze(-1)
        sums, counts = classes.sums(units), classes.counts()
        means = normalize(sums, dim=-1)
        n = (counts > 0).sum(1)
        # The squared norm of a sum of n unit vectors is n plus twice the cosine of each pair.
        class_similarity = (means.sum(1).square().sum(-1) - n) / (n * (n - 1)).clamp_min(1)
        at = labels.clamp_min(0)
        of = at.unsqueeze(-1).expand_as(units)
        own = (units * means.gather(1, of)).sum(-1)
        others = (units @ means.sum(1).unsqueeze(-1)).squeeze(-1).sub(own) / (n - 1).clamp_min(1).unsqueeze(1)
        left_out = (units * normalize(sums.gather(1, of) - units, dim=-1)).sum(-1)
        able = (labels >= 0) & (counts.gather(1, at) > 1)
        margin = ((own - others) * able).sum(1)
        loo_margin = ((left_out - others) * able).sum(1) / margin
        defined = able.any(1) & (margin > 1e-6 * able.sum(1))
        n_examples = (labels >= 0).sum(1).clamp_min(1)
        density = units.abs().sum(2).sum(1) / n_examples / math.sqrt(units.shape[2])
        loo_margin = torch.where(defined, loo_margin, torch.nan)
        return TaskFeatures(self.n_classes, self.shots, class_similarity, loo_margin, density)


def _step(n_classes: int) -> int:
    return -(-n_classes // _MAX_CLASSES)


def _n_sampled(n_classes: int) -> int:
    """Return the number of classes that are sampled."""
    return -(-n_classes // _step(n_classes))


def _of_classes(indices: Tensor, labels: Tensor, step: int) -> tuple[Tensor, Tensor]:
    """Indices (e, m) of the examples of every n-th class, in order, and their classes among these; -1 is padding."""
    chosen = (labels >= 0) & (labels % step == 0)
    if len(labels) == 1 and labels.device.type == "cpu":
        order = chosen[0].nonzero().mT
    else:
        order = (~chosen).to(torch.uint8).argsort(dim=1, stable=True)[:, : int(chosen.sum(1).max())]
    return indices.gather(1, order), torch.where(chosen, labels // step, -1).gather(1, order)
