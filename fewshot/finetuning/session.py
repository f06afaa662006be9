"""One support set, from pixels to an adapted network: parts, cut, views, choice, and the final tuning."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fewshot.encoders import TimmEncoder
from fewshot.finetuning.choice import Verdict, choose, folds
from fewshot.finetuning.cut import cut, quick
from fewshot.finetuning.folding import norms_folded
from fewshot.finetuning.frozen import Answer
from fewshot.finetuning.lora import merge_adapters
from fewshot.finetuning.parts import choose_parts
from fewshot.finetuning.strided import strided_in_float32
from fewshot.finetuning.support import portions, support_maps
from fewshot.finetuning.tuning import Method, Support, Tuner
from fewshot.progress import Progress
from fewshot.training.steps import Lens
from fewshot.training.workers import Workers, worker_count

# Candidates: the path at each rate is looked at after so many steps.
_RATES = (3e-4, 2e-3)
_STOPS = (10, 20, 40)
_LEAST_OF_A_WORKER = 8


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


def tune(
    encoder: TimmEncoder, pixels: Tensor, labels: Tensor, settings: Settings, frozen: Answer | None = None
) -> Tuned:
    """Tune a copy of an encoder's network on a support set.

    Parameters
    ----------
    encoder : TimmEncoder
    pixels : Tensor of shape (s, 3, h, w), uint8
        As the encoder prepares pictures.
    labels : Tensor of shape (s,), int64
        0 to c - 1, each at least once.
    settings : Settings
    frozen : Answer, optional
        The untouched encoder's, which tuning must beat; by default its prototypes'.

    Raises
    ------
    ValueError : for a choice of parameters that the network does not have, too little memory, or a learning rate at
        which nothing finite is left.
    """
    loaded = encoder._loaded()
    network = encoder.exact_network()
    with torch.random.fork_rng(devices=[]):  # nobody else's draws change
        torch.manual_seed(settings.seed)
        parts = choose_parts(network, settings.trainable, settings.rank)
    example = torch.rand(1, *pixels.shape[1:], generator=torch.Generator().manual_seed(0))
    trunk, top = cut(network, encoder.pool, example)
    lens = Lens(loaded.mean.tolist(), loaded.std.tolist(), loaded.device, loaded.precision)
    named = dict(network.named_parameters())
    with torch.no_grad():
        maps = trunk(example)
    trunk = quick(trunk, example, loaded.device, loaded.precision)
    n_workers = worker_count(loaded.device, len(pixels), least=_LEAST_OF_A_WORKER)
    with norms_folded(top, maps), strided_in_float32(top.to(loaded.device)), Workers(top, n_workers) as workers:
        support = support_maps(
            trunk,
            pixels,
            labels,
            views=settings.views,
            flip=settings.flip,
            lens=lens,
            workers=workers,
            batch=loaded.cpu_batch,
            memory=settings.memory,
            seed=settings.seed,
        )
        tuner = Tuner(
            top,
            [[named[name] for name in group] for group in parts.groups],
            Method(settings.loss, settings.schedule, settings.seed),
            lens,
            workers,
            portions(top, support.plain, lens, len(workers.twins), settings.memory),
        )
        verdict = _chosen(tuner, support, settings, frozen)
    merge_adapters(network)
    return Tuned(network.cpu() if verdict.steps else None, verdict, parts.count)


def _chosen(tuner: Tuner, support: Support, settings: Settings, frozen: Answer | None) -> Verdict:
    """Choose steps and rate, unless both are given, and tune on everything."""
    rates, stops = settings.rates, settings.stops
    everything, views = torch.arange(len(support.labels)), torch.arange(len(support.views[0]))
    kind, parts = folds(support, settings.seed)
    total = stops[-1] * ((len(rates) + len(parts) - 1) * settings.judged + 1)
    with Progress(total, "tune", unit="step") as bar:
        if settings.judged:
            verdict = choose(tuner, support, kind, parts, rates, stops, bar, frozen)
        else:
            verdict = Verdict(stops[-1], rates[0], None, None, None)
        path = list(tuner.path(support, everything, views, verdict.learning_rate, (verdict.steps,), bar))
    if not path or not bool(torch.isfinite(path[-1][1]).all()):
        raise ValueError(
            f"tuning diverged at a learning rate of {verdict.learning_rate:g}: give a lower one, or leave it out"
        )
    return verdict
