"""Gradient descent on the top of a network, from feature maps that are computed once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from fewshot.classifiers import Membership
from fewshot.encoders import LoadedNetwork, autocast
from fewshot.finetuning.frozen_baseline import head_scores
from fewshot.finetuning.graph_memory import ChunkSizes
from fewshot.finetuning.support_maps import SupportMaps
from fewshot.finetuning.trainable_parts import SCHEDULES
from fewshot.progress import Progress
from fewshot.training import Workers

if TYPE_CHECKING:
    from fewshot.classifiers import FewShotClassifier

R = TypeVar("R")
LOSSES = ("cross-entropy", "prototypical")
SCALE = 10.0
BATCH_SIZE = 32
_WARM_UP_STEPS = 5
_WEIGHT_DECAY = 0.01
_MAX_GRADIENT_NORM = 5.0


@dataclass(frozen=True)
class Fold:
    """Which of a support's examples and views the top trains on, and what it is evaluated on.

    Attributes
    ----------
    train : Tensor of shape (n,), int64
        Positions in the support.
    views : Tensor, int64
        Numbers of the views.
    held_out : tuple of Tensor of shape (m, ...)
        Maps.
    labels : Tensor of shape (m,), int64
        Of ``held_out``.
    """

    train: Tensor
    views: Tensor
    held_out: tuple[Tensor, ...]
    labels: Tensor


class TopTrainer:
    """Trains a top, each time from the same start, and leaves it as the last training did.

    Parameters
    ----------
    blocks : sequence of sequences of Parameter
        What trains, from the last block backwards.
    loaded : LoadedNetwork
        Its device and precision are computed in.
    workers : Workers
        Of the top, entered.
    chunks : ChunkSizes
        Of a worker.
    classifier : FewShotClassifier
        Scores what is held out; not changed.
    loss : {"cross-entropy", "prototypical"}
    schedule : {"together", "progressive"}
    seed : int

    Notes
    -----
    AdamW with warm-up and clipped gradients. Batch norms keep their statistics: a handful of images says little of the
    mean of all.
    """

    def __init__(
        self,
        blocks: Sequence[Sequence[nn.Parameter]],
        loaded: LoadedNetwork,
        workers: Workers,
        chunks: ChunkSizes,
        classifier: FewShotClassifier,
        *,
        loss: str,
        schedule: str,
        seed: int,
    ) -> None:
        self._blocks, self._loaded, self._workers, self._chunks = blocks, loaded, workers, chunks
        self._classifier = classifier
        self._loss, self._schedule, self._seed = loss, SCHEDULES[schedule], seed
        self._start = [[parameter.detach().clone() for parameter in block] for block in blocks]
        for replica in workers.replicas:
            replica.eval()

    def fit(
        self, support: SupportMaps, fold: Fold, learning_rate: float, stops: Sequence[int], bar: Progress
    ) -> dict[int, Tensor]:
        """Train from the start, and score what the fold holds out by the classifier, fitted to what it trains on.

        Parameters
        ----------
        support : SupportMaps
        fold : Fold
        learning_rate : float
            Of the last block.
        stops : sequence of int
            Numbers of steps, rising, after which to score; 0 is the start.
        bar : Progress
            Advances by one a step.

        Returns
        -------
        dict of int to Tensor of shape (m, c)
            Without the stops after a loss or features that are not finite, where training ends.
        """
        self.restore()
        plain = tuple(maps[fold.train] for maps in support.plain)
        labels = support.labels[fold.train]
        head: Tensor | None = None
        if self._loss == "cross-entropy":  # Hu et al. 2022: a cosine head that starts at the prototypes
            means = prototypes(self.embed(plain), labels, support.n_classes)
            head = functional.normalize(means).requires_grad_()
        optimiser = self._optimiser(head, learning_rate)
        generator = torch.Generator().manual_seed(self._seed)
        scores: dict[int, Tensor] = {}
        for step in range(stops[-1] + 1):
            if step in stops:
                known, asked = self.embed(plain), self.embed(fold.held_out)
                if not (torch.isfinite(known).all() and torch.isfinite(asked).all()):
                    break
                scores[step] = head_scores(self._classifier, known, labels, asked, support.n_classes)
            if step == stops[-1]:
                break
            self._set_learning_rates(optimiser, step)
            shown = batch_positions(labels, self._loss, generator)
            views = fold.views[torch.randint(len(fold.views), (len(shown),), generator=generator)]
            maps = [each[views, fold.train[shown]] for each in support.views]
            if head is None:  # the prototypes of a step are of the images as they are
                maps = [torch.cat([view, each[shown]]) for view, each in zip(maps, plain, strict=True)]
            optimiser.zero_grad(set_to_none=True)
            loss = self._backward(maps, labels[shown], head)
            if not torch.isfinite(loss):
                break
            parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
            nn.utils.clip_grad_norm_(parameters, _MAX_GRADIENT_NORM)
            optimiser.step()
            bar.advance(1)
            bar.note(f"loss {loss:.3f}")
        return scores

    def embed(self, maps: Sequence[Tensor]) -> Tensor:
        """Compute features (n, d), float32, of maps (n, ...), by the top as it is now."""

        def forward(share: Tensor, replica: nn.Module) -> Tensor:
            with torch.no_grad(), autocast(self._loaded.device, self._loaded.precision):
                features: Tensor = replica(*_selected(maps, share))
                return features.float()

        shares = self._shares(len(maps[0]))
        return torch.cat(self._in_parallel(forward, shares, self._replicas(shares)))

    def restore(self) -> None:
        """Put the top back to its start."""
        with torch.no_grad():
            for block, starts in zip(self._blocks, self._start, strict=True):
                for parameter, start in zip(block, starts, strict=True):
                    parameter.copy_(start)

    def _optimiser(self, head: Tensor | None, learning_rate: float) -> torch.optim.AdamW:
        decay, interval = self._schedule.decay, self._schedule.interval
        groups: list[dict[str, Any]] = [
            {"params": list(block), "full_lr": learning_rate / decay**i, "start": i * interval}
            for i, block in enumerate(self._blocks)
        ]
        if head is not None:
            groups.append({"params": [head], "full_lr": learning_rate, "start": 0})
        return torch.optim.AdamW(groups, lr=learning_rate, weight_decay=_WEIGHT_DECAY)

    def _set_learning_rates(self, optimiser: torch.optim.AdamW, step: int) -> None:
        """Warm each group up from the step at which it starts."""
        for group in optimiser.param_groups:
            group["lr"] = group["full_lr"] * min(1.0, max(0, step + 1 - group["start"]) / _WARM_UP_STEPS)

    def _backward(self, maps: Sequence[Tensor], labels: Tensor, head: Tensor | None) -> Tensor:
        """Leave a step's gradients in the parameters; return its loss.

        The loss is of all features together. Where the graphs of all images fit the chunks of all workers, they are
        kept; else each chunk is computed again once its features' gradients are known.

        References
        ----------
        Gao et al. 2021, arXiv:2101.06983, section 3.2 (the features' gradients are cached, the graphs are not).
        """
        shares = self._shares(len(maps[0]))
        replicas = self._replicas(shares)

        def forward(share: Tensor, replica: nn.Module) -> Tensor:
            with autocast(self._loaded.device, self._loaded.precision):
                features: Tensor = replica(*_selected(maps, share))
            return features.float()

        def backward(output: Tensor, gradient: Tensor) -> None:
            torch.autograd.backward(output, gradient)

        def forward_and_backward(share: Tensor, replica: nn.Module, gradient: Tensor) -> None:
            backward(forward(share, replica), gradient)

        fits = len(maps[0]) <= self._chunks.kept * len(self._workers.replicas)
        kept = self._in_parallel(forward, shares, replicas) if fits else None
        features = self.embed(maps) if kept is None else torch.cat([output.detach() for output in kept])
        features.requires_grad_()
        loss = top_loss(features, labels.to(features.device), head)
        loss.backward()  # type: ignore[no-untyped-call]
        assert features.grad is not None
        gradients = torch.split(features.grad, len(shares[0]))
        if kept is None:
            self._in_parallel(forward_and_backward, shares, replicas, gradients)
        else:
            self._in_parallel(backward, kept, gradients)
        self._workers.gather()
        return loss.detach()

    def _shares(self, n: int) -> Sequence[Tensor]:
        """Split n positions so that all workers are busy in as few turns as a worker's chunk allows."""
        workers = len(self._workers.replicas)
        turns = -(-n // (workers * self._chunks.computed))
        return torch.split(torch.arange(n), -(-n // (workers * turns)))

    def _replicas(self, shares: Sequence[Tensor]) -> list[nn.Module]:
        replicas = self._workers.replicas
        return [replicas[i % len(replicas)] for i in range(len(shares))]

    def _in_parallel(self, function: Callable[..., R], *lists: Sequence[Any]) -> list[R]:
        """Call ``function`` with each set of arguments, as many at once as there are workers."""
        n = len(self._workers.replicas)
        turns = range(0, len(lists[0]), n)
        return [found for at in turns for found in self._workers.map(function, *(each[at : at + n] for each in lists))]


def batch_positions(labels: Tensor, loss: str, generator: torch.Generator) -> Tensor:
    """Draw a step's examples, up to 32; for the prototypical loss all of some classes, at least two."""
    if len(labels) <= BATCH_SIZE:
        return torch.arange(len(labels))
    if loss == "cross-entropy":
        return torch.randperm(len(labels), generator=generator)[:BATCH_SIZE]
    order = torch.randperm(int(labels.max()) + 1, generator=generator)
    sizes = torch.bincount(labels)[order].cumsum(0)
    classes = order[: max(2, int((sizes <= BATCH_SIZE).sum()))]
    return torch.isin(labels, classes).nonzero().squeeze(1)


def top_loss(features: Tensor, labels: Tensor, head: Tensor | None) -> Tensor:
    """Cross-entropy of features (n, d): against a head (c, d); or of the first half against means of the second.

    Parameters
    ----------
    features : Tensor of shape (n, d) with a head, else (2 n, d)
        Of n views; without a head, then of the n images as they are.
    labels : Tensor of shape (n,), int64
    head : Tensor of shape (c, d), optional
    """
    if head is not None:
        return functional.cross_entropy(cosine_scores(features, head), labels)
    views, plain = torch.split(features, len(labels))
    _, labels = torch.unique(labels, return_inverse=True)
    means = prototypes(plain, labels, int(labels.max()) + 1)
    return functional.cross_entropy(cosine_scores(views, means), labels)


def cosine_scores(features: Tensor, directions: Tensor) -> Tensor:
    """Cosines (n, c) of features (n, d) and class directions (c, d), times 10.

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


def _selected(maps: Sequence[Tensor], share: Tensor) -> list[Tensor]:
    """Copies, for the top may change its input in place, with channels last in memory where they are maps."""
    some = [each[share] for each in maps]
    return [each.contiguous(memory_format=torch.channels_last) if each.ndim == 4 else each for each in some]
