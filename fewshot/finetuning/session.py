"""Support sets, from pixels to adapted networks: parts, cut, views, choice, and the final tuning."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fewshot.encoders import TimmEncoder
from fewshot.finetuning.choice import Fold, Verdict, choose, folds
from fewshot.finetuning.cut import cut, quick
from fewshot.finetuning.folding import norms_folded
from fewshot.finetuning.frozen import Answer
from fewshot.finetuning.gradient_steps import Plan, Steps, Tuner
from fewshot.finetuning.lora import merge_adapters
from fewshot.finetuning.parts import Parts, choose_parts
from fewshot.finetuning.strided import strided_in_float32
from fewshot.finetuning.support import Viewer, portions
from fewshot.finetuning.together import Together
from fewshot.finetuning.views import GIB
from fewshot.finetuning.walk import SHOWN, Job, Method, Support
from fewshot.progress import Progress
from fewshot.training import Lens, Workers, worker_count

# Candidates: the path at each rate is looked at after so many steps.
_RATES = (3e-4, 2e-3)
_STOPS = (10, 20, 40)
_LEAST_OF_A_WORKER = 8
# Tasks tuned together on a GPU where nobody says how many, at most; not measured.
_MOST_AT_ONCE = 32


@dataclass(frozen=True)
class Settings:
    """``FineTuneClassifier``'s parameters, but for the encoder; ``seed`` is its ``random_state``."""

    trainable: str
    loss: str
    schedule: str
    steps: int | None
    learning_rate: float | None
    views: int
    flip: bool
    head: str | None
    mirror: bool | None
    rank: int
    memory: float
    seed: int

    @property
    def rates(self) -> tuple[float, ...]:
        """Learning rates to try."""
        return _RATES if self.learning_rate is None else (self.learning_rate,)

    @property
    def judged(self) -> bool:
        """Whether anything is left to choose."""
        return self.steps is None or self.learning_rate is None

    @property
    def stops(self) -> tuple[int, ...]:
        """Numbers of steps to try, rising."""
        return _STOPS if self.steps is None else (self.steps,)


@dataclass(frozen=True)
class Tuned:
    """What a tuning leaves.

    Attributes
    ----------
    network : nn.Module or None
        Adapted, float32, on the CPU; None where the encoder stays as it is.
    verdict : Verdict
    parameters : int
        Numbers that train.
    """

    network: nn.Module | None
    verdict: Verdict
    parameters: int


@dataclass(frozen=True)
class Task:
    """A support set to tune on.

    Attributes
    ----------
    pixels : Tensor of shape (s, 3, h, w), uint8
        As the encoder prepares pictures.
    labels : Tensor of shape (s,), int64
        0 to c - 1, each at least once.
    frozen : Answer or None
        The untouched encoder's, which tuning must beat; without it, its prototypes'.
    asked : iterable of Tensor of shape (m, 3, h, w), uint8
        Batches of up to 32 pictures whose features are wanted of the tuned network; not gone through where nothing is
        tuned.
    name : str
        Of the task, for an error.
    """

    pixels: Tensor
    labels: Tensor
    frozen: Answer | None = None
    asked: Iterable[Tensor] = ()
    name: str = "tuning"


@dataclass(frozen=True)
class Session:
    """A copy of an encoder's network, cut, on which one support set after the other is tuned: see ``opened``.

    Attributes
    ----------
    network : nn.Module
        Not the encoder's own.
    parts : Parts
    viewer : Viewer
    steps : Steps
        They say how many tasks are tuned together.
    settings : Settings
    """

    network: nn.Module
    parts: Parts
    viewer: Viewer
    steps: Steps
    settings: Settings

    def tune(self, tasks: Sequence[Task]) -> list[tuple[Verdict, Tensor | None]]:
        """Tune on each of a few tasks beside each other, from the untouched network.

        Returns
        -------
        list of (Verdict, Tensor of shape (m, d) or None)
            With the features of what was asked for; None where nothing was tuned.

        Raises
        ------
        ValueError : for too little memory, or a learning rate at which nothing finite is left.
        """
        settings = self.settings
        plans, total = [], 0
        for task in tasks:
            room = settings.memory / 2 * GIB / len(tasks)
            support = self.viewer.support(task.pixels, task.labels, settings.views, room)
            kind, parts = folds(support, settings.seed)
            plans.append(_plan(support, kind, parts, settings, task, _Asked(self.viewer, task.asked)))
            total += settings.stops[-1] * ((len(settings.rates) + len(parts) - 1) * settings.judged + 1)
        with Progress(total, "tune", unit="step") as bar:
            return self.steps.follow(plans, bar)


@dataclass(frozen=True)
class _Asked:
    """Maps of pictures, made batch by batch when somebody goes through them."""

    viewer: Viewer
    pixels: Iterable[Tensor]

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        return map(self.viewer.plain, self.pixels)


@contextmanager
def opened(
    encoder: TimmEncoder, settings: Settings, shape: Sequence[int], *, support: int,
    tasks: int = 1, at_once: int | None = None,
) -> Iterator[Session]:  # fmt: skip
    """Copy an encoder's network, and cut it before the first thing that trains.

    Parameters
    ----------
    encoder : TimmEncoder
    settings : Settings
    shape : (3, h, w)
        Of a picture.
    support : int
        Pictures that a task learns from, at most.
    tasks : int
        How many there are.
    at_once : int, optional
        Tasks to tune together, at most; fewer where ``settings.memory`` does not hold so many. None: one on a CPU; on
        other devices, where the network can be batched, as many as it holds.

    Raises
    ------
    ValueError : for a choice of parameters that the network does not have, and if it cannot be batched but shall be.
    """
    loaded = encoder.loaded
    network = encoder.exact_network()
    with torch.random.fork_rng(devices=[]):  # nobody else's draws change
        torch.manual_seed(settings.seed)
        parts = choose_parts(network, settings.trainable, settings.rank)
    example = torch.rand(1, *shape, generator=torch.Generator().manual_seed(0))
    trunk, top = cut(network, encoder.pool, example)
    lens = Lens(loaded.mean.tolist(), loaded.std.tolist(), loaded.device, loaded.precision)
    named = dict(network.named_parameters())
    groups = [[named[name] for name in group] for group in parts.groups]
    with torch.no_grad():
        maps = trunk(example)
    trunk = quick(trunk, example, loaded.device, loaded.precision)
    wanted = min(tasks, most_at_once(loaded.device) if at_once is None else at_once)
    # Paths share the convolutions that do not train in a batched pass, unless norms that do are inside.
    folded = nullcontext() if wanted > 1 and settings.trainable == "norms" else norms_folded(top, maps)
    n_workers = worker_count(loaded.device, support * wanted, least=_LEAST_OF_A_WORKER)
    with folded, strided_in_float32(top.to(loaded.device)), Workers(top, n_workers) as workers:
        viewer = Viewer(trunk, lens, workers, loaded.cpu_batch, settings.flip, settings.seed)
        method = Method(settings.loss, settings.schedule, settings.seed)
        pair = viewer.plain((255 * torch.cat([example, 1 - example])).byte())
        steps: Steps = Tuner(
            top, groups, method, lens, workers, portions(top, pair, lens, len(workers.twins), settings.memory)
        )
        if wanted > 1:
            shown = min(support, SHOWN) if settings.loss == "cross-entropy" else 2 * support
            several = Together(groups, method, wanted, lens, workers, shown)
            if several.agrees(pair):
                a_picture = sum(each[0].nbytes for each in pair)
                a_task = a_picture * (support * (1 + settings.views) + SHOWN) + support * math.prod(shape)
                room = settings.memory / 2 * GIB
                several.at_once = min(wanted, int(room / several.path_bytes(pair)), int(room / a_task))
                steps = several if several.at_once > 1 else steps
            elif at_once is not None:
                raise ValueError(
                    f"{type(network).__name__} cannot be tuned on several episodes in one pass with "
                    f"trainable={settings.trainable!r}: set at_once=1"
                )
        yield Session(network, parts, viewer, steps, settings)


def most_at_once(device: torch.device) -> int:
    """How many tasks are tuned together where nobody says: one on a CPU, where more pay for small maps alone."""
    return 1 if device.type == "cpu" else _MOST_AT_ONCE


def tune(encoder: TimmEncoder, task: Task, settings: Settings) -> Tuned:
    """Tune a copy of an encoder's network on one support set.

    Raises
    ------
    ValueError : for a choice of parameters that the network does not have, too little memory, or a learning rate at
        which nothing finite is left.
    """
    with opened(encoder, settings, task.pixels.shape[1:], support=len(task.pixels)) as session:
        ((verdict, _),) = session.tune([task])
    merge_adapters(session.network)
    return Tuned(session.network.cpu() if verdict.steps else None, verdict, session.parts.count)


def _plan(
    support: Support,
    kind: str,
    parts: Sequence[Fold],
    settings: Settings,
    task: Task,
    asked: Iterable[tuple[Tensor, ...]],
) -> Plan[tuple[Verdict, Tensor | None]]:
    """Choose steps and rate, unless both are given, and tune on everything."""
    if settings.judged:
        verdict = yield from choose(support, kind, parts, settings.rates, settings.stops, task.frozen)
    else:
        verdict = Verdict(settings.stops[-1], settings.rates[0], None, None, None)
    if not verdict.steps:
        return verdict, None
    everything, views = torch.arange(len(support.labels)), torch.arange(len(support.views[0]))
    (path,) = yield [Job(support, everything, views, verdict.learning_rate, (verdict.steps,), asked)]
    if verdict.steps not in path or not bool(torch.isfinite(path[verdict.steps].directions).all()):
        raise ValueError(
            f"{task.name} diverged at a learning rate of {verdict.learning_rate:g}: give a lower one, or leave it out"
        )
    return verdict, path[verdict.steps].features
