"""Gradient steps on the top of a network, from maps at the cut that are computed once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from fewshot.finetuning.cut import Top
from fewshot.finetuning.walk import Job, Method, Seen, Walk
from fewshot.progress import Progress
from fewshot.training import Lens, Workers

R = TypeVar("R")
# Asks for paths, is sent what each showed at its stops, and returns what it concludes.
Plan = Generator[Sequence[Job], Sequence[dict[int, Seen]], R]


@dataclass(frozen=True)
class Portions:
    """How many pictures a worker may keep the graph of at once, and how many of them it computes together."""

    kept: int
    together: int


class Steps(ABC):
    """Walks paths, all from the same start.

    Parameters
    ----------
    groups : sequence of sequences of Parameter
        What trains, block by block from the last backwards.
    method : Method
    at_once : int
        Paths that are walked together.
    """

    def __init__(self, groups: Sequence[Sequence[nn.Parameter]], method: Method, at_once: int) -> None:
        self._groups, self._method, self.at_once = groups, method, at_once

    def follow(self, plans: Sequence[Plan[R]], bar: Progress) -> list[R]:
        """Carry out plans beside each other: what all of them ask for at a time is walked together."""
        found: dict[int, R] = {}
        answers: dict[int, Sequence[dict[int, Seen]] | None] = dict.fromkeys(range(len(plans)))
        while True:
            asked: dict[int, Sequence[Job]] = {}
            for number, answer in answers.items():
                try:
                    asked[number] = plans[number].send(answer)  # type: ignore[arg-type]
                except StopIteration as end:
                    found[number] = end.value
            if not asked:
                return [found[number] for number in range(len(plans))]
            walked = iter(self.run([job for jobs in asked.values() for job in jobs], bar))
            answers = {number: [next(walked) for _ in jobs] for number, jobs in asked.items()}

    def run(self, jobs: Sequence[Job], bar: Progress) -> list[dict[int, Seen]]:
        """Walk paths, and say what each showed at its stops; a path whose loss is not finite ends before."""
        found = []
        for at in range(0, len(jobs), self.at_once):
            some = jobs[at : at + self.at_once]
            walks = [Walk(job, self._method, groups) for job, groups in zip(some, self._starts(len(some)), strict=True)]
            self._walk(walks, bar)
            found += [walk.seen for walk in walks]
        return found

    def _walk(self, walks: Sequence[Walk], bar: Progress) -> None:
        heads = self._method.loss == "cross-entropy"
        starts = self._embed(walks, [walk.own for walk in walks]) if heads else [None] * len(walks)
        for walk, start in zip(walks, starts, strict=True):
            walk.begin(start)
        while walks:
            stopped = [walk for walk in walks if walk.at_stop]
            own = self._embed(stopped, [walk.own for walk in stopped])
            for walk, features, asked in zip(stopped, own, self._asked(stopped), strict=True):
                walk.see(features, torch.cat([features[:0], *asked]))
            walks = [walk for walk in walks if not walk.over]
            if not walks:
                return
            losses = self._gradients(walks, *zip(*(walk.draw() for walk in walks), strict=True))
            # What was seen so far stays; a rate this high does not win.
            walks = [walk for walk, finite in zip(walks, torch.isfinite(losses).tolist(), strict=True) if finite]
            for walk in walks:
                walk.move()
            bar.advance(len(walks))
            bar.note(f"loss {losses.mean():.3f}")

    def _asked(self, walks: Sequence[Walk]) -> list[list[Tensor]]:
        """Features of the batches that each walk is asked about."""
        found: list[list[Tensor]] = [[] for _ in walks]
        for batches in zip_longest(*(walk.job.asked for walk in walks)):
            some = [i for i, maps in enumerate(batches) if maps is not None]
            features = self._embed([walks[i] for i in some], [batches[i] for i in some])
            for i, each in zip(some, features, strict=True):
                found[i].append(each)
        return found

    @abstractmethod
    def _starts(self, n: int) -> list[Sequence[Sequence[Tensor]]]:
        """Parameters of n paths, as at the start."""

    @abstractmethod
    def _embed(self, walks: Sequence[Walk], maps: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        """Features (n, d), float32, of maps (n, ...) of each walk, by the top as it has it."""

    @abstractmethod
    def _gradients(self, walks: Sequence[Walk], maps: Sequence[Sequence[Tensor]], labels: Sequence[Tensor]) -> Tensor:
        """Leave a step's gradients in the parameters of each walk; return the losses, one a walk."""


class Tuner(Steps):
    """Walks one path after the other, by the top itself: it stays as the last one leaves it.

    Parameters
    ----------
    top : Top
    groups, method
        As of ``Steps``; the groups are of ``top``.
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
        super().__init__(groups, method, at_once=1)
        self._lens, self._workers, self._portions = lens, workers, portions
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

    def restore(self) -> None:
        """Put the top back to its start."""
        with torch.no_grad():
            for parameter, start in zip((p for group in self._groups for p in group), self._start, strict=True):
                parameter.copy_(start)

    def _starts(self, n: int) -> list[Sequence[Sequence[Tensor]]]:
        self.restore()
        return [self._groups] * n

    def _embed(self, walks: Sequence[Walk], maps: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        return [self.embed(each) for each in maps]

    def _gradients(self, walks: Sequence[Walk], maps: Sequence[Sequence[Tensor]], labels: Sequence[Tensor]) -> Tensor:
        """Leave a step's gradients in the parameters; return its loss.

        All features are judged together. Where the graphs of all pictures fit the chunks of all workers, they are kept;
        else each chunk is computed once more when its features' gradients are known.

        References
        ----------
        Gao et al. 2021, arXiv:2101.06983, section 3.2 (the features' gradients are kept, the graphs are not).
        """
        (walk,), (shown,), (wanted,) = walks, maps, labels
        shares = self._shares(len(shown[0]))
        twins = self._each_twin(shares)

        def forward(share: Tensor, twin: nn.Module) -> Tensor:
            with self._lens.autocast():
                features: Tensor = twin(*_some(shown, share))
            return features.float()

        def backward(output: Tensor, gradient: Tensor) -> None:
            torch.autograd.backward(output, gradient)

        def both(share: Tensor, twin: nn.Module, gradient: Tensor) -> None:
            backward(forward(share, twin), gradient)

        fits = len(shown[0]) <= self._portions.kept * len(self._workers.twins)
        kept = self._in_turn(forward, shares, twins) if fits else None
        features = self.embed(shown) if kept is None else torch.cat([output.detach() for output in kept])
        features.requires_grad_()
        loss = walk.loss(features, wanted)
        loss.backward()  # type: ignore[no-untyped-call]
        assert features.grad is not None
        gradients = torch.split(features.grad, len(shares[0]))
        if kept is None:
            self._in_turn(both, shares, twins, gradients)
        else:
            self._in_turn(backward, kept, gradients)
        self._workers.gather()
        return loss.detach()[None]

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


def _some(maps: Sequence[Tensor], share: Tensor) -> list[Tensor]:
    """Copies, for the top may change its input in place, with channels last in memory where they are maps."""
    some = [each[share] for each in maps]
    return [each.contiguous(memory_format=torch.channels_last) if each.ndim == 4 else each for each in some]
