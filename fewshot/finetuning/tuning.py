"""Gradient steps on the top of a network, from views of the support whose maps at the cut are computed once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from fewshot.classifiers.membership import Membership
from fewshot.finetuning.cut import Top
from fewshot.progress import Progress
from fewshot.training.steps import Lens
from fewshot.training.workers import Workers

R = TypeVar("R")

LOSSES = ("cross-entropy", "prototypical")
SCHEDULES = ("together", "progressive")
SCALE = 10.0
# ULMFiT: each block learns so many times slower than the one after it; one more joins after so many steps.
_SLOWER, _UNFREEZE = 2.6, 5
_WARM = 5
_DECAY = 0.01
_CLIP = 5.0
# Pictures of a step, at most.
_SHOWN = 32


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
class Portions:
    """How many pictures a worker may keep the graph of at once, and how many of them it computes together."""

    kept: int
    together: int


@dataclass(frozen=True)
class Method:
    """How the top is tuned: ``FineTuneClassifier``'s parameters of these names, and a seed."""

    loss: str
    schedule: str
    seed: int


class Tuner:
    """Tunes one top, again and again from the same start.

    Parameters
    ----------
    top : Top
    groups : sequence of sequences of Parameter
        What trains, block by block from the last backwards.
    method : Method
    lens : Lens
        Says in which precision to compute, and where.
    workers : Workers
        Of ``top``, entered.
    portions : Portions
        What a worker may hold at once.
    """

    def __init__(
        self,
        top: Top,
        groups: Sequence[Sequence[nn.Parameter]],
        method: Method,
        lens: Lens,
        workers: Workers,
        portions: Portions,
    ) -> None:
        self._groups, self._method, self._lens = groups, method, lens
        self._workers, self._portions = workers, portions
        self._start = [parameter.detach().clone() for group in groups for parameter in group]
        for twin in workers.twins:
            twin.eval()  # batch norms too: a handful of pictures says little about the mean of all

    def embed(self, maps: Sequence[Tensor]) -> Tensor:
        """Features (n, d), float32, of maps at the cut, by the top as it stands."""

        def forward(share: Tensor, twin: nn.Module) -> Tensor:
            with torch.no_grad(), self._lens.autocast():
                features: Tensor = twin(*_some(maps, share))
                return features.float()

        shares = self._shares(len(maps[0]))
        return torch.cat(self._in_turn(forward, shares, self._each_twin(shares)))

    def path(
        self, support: Support, chosen: Tensor, views: Tensor, rate: float, stops: Sequence[int], bar: Progress
    ) -> Iterator[tuple[int, Tensor]]:
        """Tune from the start, and stop at some steps with the top as it then stands.

        Parameters
        ----------
        support : Support
        chosen : Tensor of shape (n,)
            Positions of the support to learn from.
        views : Tensor
            Numbers of the views to learn from.
        rate : float
            Learning rate of the last block.
        stops : sequence of int
            Rising; 0 is the untouched top.
        bar : Progress

        Yields
        ------
        (step, class directions (c, d))
            The prototypes of what was learned from.
        """
        self.restore()
        generator = torch.Generator().manual_seed(self._method.seed)
        labels = support.labels[chosen]
        own = tuple(each[chosen] for each in support.plain)
        head = None
        if self._method.loss == "cross-entropy":
            head = functional.normalize(prototypes(self.embed(own), labels, support.n_classes)).requires_grad_()
        optimiser = self._optimiser(head, rate)
        for step in range(stops[-1] + 1):
            if step in stops:
                yield step, prototypes(self.embed(own), labels, support.n_classes)
            if step == stops[-1]:
                return
            self._set_rates(optimiser, step)
            shown = self._shown(labels, generator)
            drawn = views[torch.randint(len(views), (len(shown),), generator=generator)]
            maps = [each[drawn, chosen[shown]] for each in support.views]
            if head is None:
                maps = [torch.cat([both, each[shown]]) for both, each in zip(maps, own, strict=True)]
            optimiser.zero_grad(set_to_none=True)
            loss = self._gradients(maps, labels[shown], head)
            if not torch.isfinite(loss):
                return  # what was seen so far stays; a rate this high does not win
            parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
            nn.utils.clip_grad_norm_(parameters, _CLIP)
            optimiser.step()
            bar.advance(1)
            bar.note(f"loss {loss:.3f}")

    def restore(self) -> None:
        """Put the top back to its start."""
        with torch.no_grad():
            for parameter, start in zip((p for group in self._groups for p in group), self._start, strict=True):
                parameter.copy_(start)

    def _optimiser(self, head: Tensor | None, rate: float) -> torch.optim.Optimizer:
        slower = _SLOWER if self._method.schedule == "progressive" else 1.0
        groups = [{"params": list(group), "lr": rate / slower**i} for i, group in enumerate(self._groups)]
        if head is not None:
            groups.append({"params": [head], "lr": rate})
        for group in groups:
            group["full"] = group["lr"]
        return torch.optim.AdamW(groups, weight_decay=_DECAY)

    def _set_rates(self, optimiser: torch.optim.Optimizer, step: int) -> None:
        """Warm up, and let blocks that have not joined yet rest."""
        progressive = self._method.schedule == "progressive"
        for i, group in enumerate(optimiser.param_groups):
            joined = i * _UNFREEZE if progressive and i < len(self._groups) else 0
            group["lr"] = group["full"] * min(1.0, max(0, step + 1 - joined) / _WARM)

    def _shown(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Positions of a step's pictures: all, or some; for the prototypical loss all of some classes."""
        if len(labels) <= _SHOWN:
            return torch.arange(len(labels))
        if self._method.loss == "cross-entropy":
            return torch.randperm(len(labels), generator=generator)[:_SHOWN]
        order = torch.randperm(int(labels.max()) + 1, generator=generator)
        sizes = torch.bincount(labels)[order].cumsum(0)
        some = order[: max(2, int((sizes <= _SHOWN).sum()))]
        return torch.isin(labels, some).nonzero().squeeze(1)

    def _gradients(self, maps: Sequence[Tensor], labels: Tensor, head: Tensor | None) -> Tensor:
        """Leave a step's gradients in the parameters; return its loss.

        All features are judged together. Where the graphs of all pictures fit the chunks of all workers, they are kept;
        else each chunk is computed once more when its features' gradients are known.

        References
        ----------
        Gao et al. 2021, arXiv:2101.06983, section 3.2 (the features' gradients are kept, the graphs are not).
        """
        shares = self._shares(len(maps[0]))
        twins = self._each_twin(shares)

        def forward(share: Tensor, twin: nn.Module) -> Tensor:
            with self._lens.autocast():
                features: Tensor = twin(*_some(maps, share))
            return features.float()

        def backward(output: Tensor, gradient: Tensor) -> None:
            torch.autograd.backward(output, gradient)

        def both(share: Tensor, twin: nn.Module, gradient: Tensor) -> None:
            backward(forward(share, twin), gradient)

        fits = len(maps[0]) <= self._portions.kept * len(self._workers.twins)
        kept = self._in_turn(forward, shares, twins) if fits else None
        features = self.embed(maps) if kept is None else torch.cat([output.detach() for output in kept])
        features.requires_grad_()
        loss = self._loss(features, labels, head)
        loss.backward()  # type: ignore[no-untyped-call]
        assert features.grad is not None
        gradients = torch.split(features.grad, len(shares[0]))
        if kept is None:
            self._in_turn(both, shares, twins, gradients)
        else:
            self._in_turn(backward, kept, gradients)
        self._workers.gather()
        return loss.detach()

    def _shares(self, n: int) -> Sequence[Tensor]:
        """Positions of n pictures, parted so that all workers are busy in as few turns as a worker's portion allows."""
        workers = len(self._workers.twins)
        turns = -(-n // (workers * self._portions.together))
        return torch.split(torch.arange(n), -(-n // (workers * turns)))

    def _each_twin(self, shares: Sequence[Tensor]) -> list[nn.Module]:
        twins = self._workers.twins
        return [twins[i % len(twins)] for i in range(len(shares))]

    def _in_turn(self, function: Callable[..., R], *lists: Sequence[Any]) -> list[R]:
        """Call ``function`` with each set of arguments, as many at once as there are workers."""
        n = len(self._workers.twins)
        turns = range(0, len(lists[0]), n)
        return [found for at in turns for found in self._workers.map(function, *(each[at : at + n] for each in lists))]

    def _loss(self, features: Tensor, labels: Tensor, head: Tensor | None) -> Tensor:
        labels = labels.to(features.device)
        if head is not None:
            return functional.cross_entropy(class_scores(features, head), labels)
        query, own = torch.split(features, len(labels))
        _, labels = torch.unique(labels, return_inverse=True)
        means = prototypes(own, labels, int(labels.max()) + 1)
        return functional.cross_entropy(class_scores(query, means), labels)


def _some(maps: Sequence[Tensor], share: Tensor) -> list[Tensor]:
    """Copies, for the top may change its input in place, with channels last in memory where they are maps."""
    some = [each[share] for each in maps]
    return [each.contiguous(memory_format=torch.channels_last) if each.ndim == 4 else each for each in some]


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
