"""Support sets, from pixels to adapted networks: parts, cut, views, choice, and the final tuning."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fewshot.encoders import TimmEncoder
from fewshot.finetuning.choice import Fold, Verdict, choose, folds
from fewshot.finetuning.cut import cut, quick
from fewshot.finetuning.folding import norms_folded
from fewshot.finetuning.frozen import Answer
from fewshot.finetuning.lora import merge_adapters
from fewshot.finetuning.parts import Parts, choose_parts
from fewshot.finetuning.strided import strided_in_float32
from fewshot.finetuning.support import Viewer, graph_bytes, portions
from fewshot.finetuning.together import Together, walk_bytes
from fewshot.finetuning.tuning import Plan, Steps, Tuner
from fewshot.finetuning.views import GIB
from fewshot.finetuning.walk import SHOWN, Job, Method, Support
from fewshot.progress import Progress
from fewshot.training.steps import Lens
from fewshot.training.workers import Workers, worker_count

# Candidates: the path at each rate is looked at after so many steps.
_RATES = (3e-4, 2e-3)
_STOPS = (10, 20, 40)
_LEAST_OF_A_WORKER = 8
# Tasks tuned together where nobody says how many: more leave a GPU no less to wait for.
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
    asked : Tensor of shape (m, 3, h, w), uint8, or None
        Pictures whose features are wanted of the tuned network.
    """

    pixels: Tensor
    labels: Tensor
    frozen: Answer | None = None
    asked: Tensor | None = None


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
            asked = () if task.asked is None else self.viewer.plain(task.asked)
            room = settings.memory / 2 * GIB / len(tasks) - sum(each.nbytes for each in asked)
            support = self.viewer.support(task.pixels, task.labels, settings.views, room)
            kind, parts = folds(support, settings.seed)
            plans.append(_plan(support, kind, parts, settings, task.frozen, asked))
            total += settings.stops[-1] * ((len(settings.rates) + len(parts) - 1) * settings.judged + 1)
        with Progress(total, "tune", unit="step") as bar:
            return self.steps.follow(plans, bar)


@contextmanager
def opened(
    encoder: TimmEncoder, settings: Settings, shape: Sequence[int], *, support: int, asked: int = 0,
    at_once: int | None = 1,
) -> Iterator[Session]:  # fmt: skip
    """Copy an encoder's network, and cut it before the first thing that trains.

    Parameters
    ----------
    encoder : TimmEncoder
    settings : Settings
    shape : (3, h, w)
        Of a picture.
    support, asked : int
        Pictures of a task, at most.
    at_once : int, optional
        Tasks to tune together, at most; fewer where ``settings.memory`` does not hold so many. None: one on a CPU; on
        other devices, where the network can be batched, as many as it holds.

    Raises
    ------
    ValueError : for a choice of parameters that the network does not have, and if it cannot be batched but shall be.
    """
    loaded = encoder._loaded()
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
    wanted = (1 if loaded.device.type == "cpu" else _MOST_AT_ONCE) if at_once is None else at_once
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
        shown = min(support, SHOWN) if settings.loss == "cross-entropy" else 2 * support
        room, a_walk = settings.memory / 2 * GIB, walk_bytes(groups, graph_bytes(top, pair, lens), shown)
        a_task = sum(each[0].nbytes for each in pair) * (support * (1 + settings.views) + asked)
        a_task += asked * math.prod(shape)  # pixels
        if (fitting := min(wanted, int(room / a_walk), int(room / a_task))) > 1:
            several = Together(groups, method, fitting, lens, workers, max(1, int(room / a_walk * shown)))
            if several.agrees(pair):
                steps = several
            elif at_once is not None:
                raise ValueError(
                    f"{type(network).__name__} cannot be tuned on several episodes in one pass with "
                    f"trainable={settings.trainable!r}: set at_once=1"
                )
        yield Session(network, parts, viewer, steps, settings)


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
    frozen: Answer | None,
    asked: tuple[Tensor, ...],
) -> Plan[tuple[Verdict, Tensor | None]]:
    """Choose steps and rate, unless both are given, and tune on everything."""
    if settings.judged:
        verdict = yield from choose(support, kind, parts, settings.rates, settings.stops, frozen)
    else:
        verdict = Verdict(settings.stops[-1], settings.rates[0], None, None, None)
    if not verdict.steps:
        return verdict, None
    everything, views = torch.arange(len(support.labels)), torch.arange(len(support.views[0]))
    (path,) = yield [Job(support, everything, views, verdict.learning_rate, (verdict.steps,), asked)]
    if verdict.steps not in path or not bool(torch.isfinite(path[verdict.steps].directions).all()):
        raise ValueError(
            f"tuning diverged at a learning rate of {verdict.learning_rate:g}: give a lower one, or leave it out"
        )
    return verdict, path[verdict.steps].features
