"""One path of gradient steps: what it learns from, how large its steps are, and what is seen where it stops."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from fewshot.classifiers import Membership

LOSSES = ("cross-entropy", "prototypical")
SCHEDULES = ("together", "progressive")
SCALE = 10.0
# ULMFiT: each block learns so many times slower than the one after it; one more joins after so many steps.
_SLOWER, _UNFREEZE = 2.6, 5
_WARM = 5
_DECAY = 0.01
_CLIP = 5.0
# Pictures of a step, at most; for the prototypical loss, of more than two classes.
SHOWN = 32


@dataclass(frozen=True)
class Support:
    """The support at the cut.

    Attributes
    ----------
    plain : tuple of Tensor of shape (s, ...)
        Maps of the pictures as they are.
    views : tuple of Tensor of shape (v, s, ...)
        Maps of v views of each.
    labels : Tensor of shape (s,), int64
    n_classes : int
        c.
    """

    plain: tuple[Tensor, ...]
    views: tuple[Tensor, ...]
    labels: Tensor
    n_classes: int


@dataclass(frozen=True)
class Method:
    """How the top is tuned: ``FineTuneClassifier``'s parameters of these names, and a seed."""

    loss: str
    schedule: str
    seed: int


@dataclass(frozen=True)
class Job:
    """A path that somebody wants walked from the untouched top.

    Attributes
    ----------
    support : Support
    learn : Tensor of shape (n,)
        Positions of the support to learn from.
    views : Tensor
        Numbers of the views to learn from.
    rate : float
        Learning rate of the last block.
    stops : sequence of int
        Steps after which to look, rising; 0 is the untouched top.
    asked : iterable of tuples of Tensor of shape (m, ...)
        Batches of maps whose features are wanted at each stop; gone through anew at each.
    """

    support: Support
    learn: Tensor
    views: Tensor
    rate: float
    stops: Sequence[int]
    asked: Iterable[tuple[Tensor, ...]]


@dataclass(frozen=True)
class Seen:
    """What a path shows at a stop.

    Attributes
    ----------
    directions : Tensor of shape (c, d)
        Prototypes of what is learned from.
    features : Tensor of shape (m, d), float32
        Of what was asked for.
    """

    directions: Tensor
    features: Tensor


class Walk:
    """A path on its way, by gradients that somebody else puts into its parameters.

    Parameters
    ----------
    job : Job
    method : Method
    groups : sequence of sequences of Tensor
        What trains, block by block from the last backwards, as at the start.

    Attributes
    ----------
    parameters : list of Tensor
        All of ``groups``.
    head : Tensor of shape (c, d) or None
        Class directions that train too, for cross-entropy.
    own : tuple of Tensor of shape (n, ...)
        Maps of what is learned from.
    step : int
        How many were taken.
    seen : dict of int to Seen
        At each stop that was reached.
    """

    def __init__(self, job: Job, method: Method, groups: Sequence[Sequence[Tensor]]) -> None:
        self.job, self._method, self._groups = job, method, groups
        self.parameters = [parameter for group in groups for parameter in group]
        self.own = tuple(each[job.learn] for each in job.support.plain)
        self.head: Tensor | None = None
        self.step = 0
        self.seen: dict[int, Seen] = {}
        self._labels = job.support.labels[job.learn]
        self._generator = torch.Generator().manual_seed(method.seed)

    @property
    def at_stop(self) -> bool:
        """Whether the path is to be looked at now."""
        return self.step in self.job.stops

    @property
    def over(self) -> bool:
        """Whether the last stop is reached."""
        return self.step >= self.job.stops[-1]

    def begin(self, own: Tensor | None) -> None:
        """Take the untouched features (n, d) of what is learned from, which cross-entropy starts its head at."""
        if own is not None:
            self.head = functional.normalize(self._prototypes(own)).requires_grad_()
        slower = _SLOWER if self._method.schedule == "progressive" else 1.0
        groups = [{"params": list(group), "lr": self.job.rate / slower**i} for i, group in enumerate(self._groups)]
        if self.head is not None:
            groups.append({"params": [self.head], "lr": self.job.rate})
        for group in groups:
            group["full"] = group["lr"]
        self._optimiser = torch.optim.AdamW(groups, weight_decay=_DECAY)

    def see(self, own: Tensor, features: Tensor) -> None:
        """Note the features, at this stop, of what is learned from and of what was asked for."""
        self.seen[self.step] = Seen(self._prototypes(own), features)

    def draw(self) -> tuple[list[Tensor], Tensor]:
        """Say which maps the next step shows, and their labels; for the prototypical loss each view, then each plain.

        Gradients are cleared.
        """
        self._set_rates()
        shown = self._shown()
        views = self.job.views
        drawn = views[torch.randint(len(views), (len(shown),), generator=self._generator)]
        maps = [each[drawn, self.job.learn[shown]] for each in self.job.support.views]
        if self.head is None:
            maps = [torch.cat([both, each[shown]]) for both, each in zip(maps, self.own, strict=True)]
        self._optimiser.zero_grad(set_to_none=True)
        return maps, self._labels[shown]

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of the features of what ``draw`` gave."""
        labels = labels.to(features.device)
        if self.head is not None:
            return functional.cross_entropy(class_scores(features, self.head), labels)
        query, own = torch.split(features, len(labels))
        _, labels = torch.unique(labels, return_inverse=True)
        means = prototypes(own, labels, int(labels.max()) + 1)
        return functional.cross_entropy(class_scores(query, means), labels)

    def move(self) -> None:
        """Take a step along the gradients."""
        parameters = [parameter for group in self._optimiser.param_groups for parameter in group["params"]]
        nn.utils.clip_grad_norm_(parameters, _CLIP)
        self._optimiser.step()
        self.step += 1

    def _prototypes(self, own: Tensor) -> Tensor:
        return prototypes(own, self._labels, self.job.support.n_classes)

    def _set_rates(self) -> None:
        """Warm up, and let blocks that have not joined yet rest."""
        progressive = self._method.schedule == "progressive"
        for i, group in enumerate(self._optimiser.param_groups):
            joined = i * _UNFREEZE if progressive and i < len(self._groups) else 0
            group["lr"] = group["full"] * min(1.0, max(0, self.step + 1 - joined) / _WARM)

    def _shown(self) -> Tensor:
        """Positions of a step's pictures: all, or some; for the prototypical loss all of some classes."""
        labels = self._labels
        if len(labels) <= SHOWN:
            return torch.arange(len(labels))
        if self._method.loss == "cross-entropy":
            return torch.randperm(len(labels), generator=self._generator)[:SHOWN]
        order = torch.randperm(int(labels.max()) + 1, generator=self._generator)
        sizes = torch.bincount(labels)[order].cumsum(0)
        some = order[: max(2, int((sizes <= SHOWN).sum()))]
        return torch.isin(labels, some).nonzero().squeeze(1)


def class_scores(features: Tensor, directions: Tensor) -> Tensor:
    """Cosines (n, c) of features (n, d) and classes' directions (c, d), times 10.

    References
    ----------
    Hu et al. 2022, arXiv:2204.07305, section 3.2 (a learned scale of about 10); Chen et al. 2019, arXiv:1904.04232,
    section 3.2 (a cosine head).
    """
    return SCALE * functional.normalize(features, dim=-1) @ functional.normalize(directions, dim=-1).mT


def prototypes(features: Tensor, labels: Tensor, n_classes: int) -> Tensor:
    """Class means (c, d) of the directions of features (n, d).

    References
    ----------
    Wang et al. 2019, arXiv:1911.04623, section 2.2 (L2N).
    """
    membership = Membership(labels[None].to(features.device), n_classes)
    sums = membership.sums(functional.normalize(features, dim=-1)[None])
    return (sums / membership.counts().unsqueeze(-1).clamp_min(1))[0]
