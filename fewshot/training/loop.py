"""The loop over epochs and steps: what is learned, kept, logged and resumed."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from fewshot.encoders import Trainable, learning
from fewshot.errors import FewShotError
from fewshot.files import replacing
from fewshot.progress import Progress
from fewshot.training import checkpoint
from fewshot.training.checkpoint import About, State
from fewshot.training.encoder_folder import write_weights
from fewshot.training.maml import Adaptation, AdaptationStep, settle_norms
from fewshot.training.objectives import Classical, Domain, Prototypical
from fewshot.training.recipe import Recipe
from fewshot.training.steps import FeatureStep, Lens, shown_pictures
from fewshot.training.validation_episodes import Watch, watched, watched_adapting
from fewshot.training.workers import Workers

CHECKPOINT, ENCODER, LOG = "checkpoint.safetensors", "encoder", "training.jsonl"
# Longest time that a kill can cost.
_SAVE_SECONDS = 120.0
_DECAY, _MOMENTUM, _CLIP, _WARM = 5e-4, 0.9, 5.0, 0.1
_AVERAGE_OVER = 0.998
_SETTLING = 20


@dataclass(frozen=True)
class Machine:
    """Where a training computes; a resumed one keeps the numbers of workers, on which its batch norms depend."""

    device: torch.device
    precision: str
    workers: int

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return {"device": self.device.type, "precision": self.precision, "workers": self.workers}


class _Step(Protocol):
    def plan(self, epoch: int) -> list[Tensor]: ...

    def __call__(
        self, workers: Workers, positions: Sequence[Tensor], number: int, size: int
    ) -> tuple[Tensor, Tensor]: ...


class Learner(nn.Module):
    """The trunk, and what is learned beside it."""

    def __init__(self, trunk: nn.Module, objective: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk
        self.objective = objective


class Training:
    """A training in progress.

    Parameters
    ----------
    recipe : Recipe
    net : Trainable
        Its network is trained in place.
    domains : sequence of Domain
    watches : sequence of Watch
        Empty where nothing is validated: the last weights are then the best.
    machine : Machine
    folder : Path
        Holds "encoder" with the best weights so far, and the checkpoint.
    identity : dict
        What a resumed training must agree with.
    note : callable
        Told of each finished epoch in one line.
    """

    def __init__(
        self,
        recipe: Recipe,
        net: Trainable,
        domains: Sequence[Domain],
        watches: Sequence[Watch],
        machine: Machine,
        folder: Path,
        identity: dict[str, Any],
        note: Callable[[str], None],
    ) -> None:
        self._recipe, self._net, self._machine = recipe, net, machine
        self._domains, self._watches = domains, watches
        self._folder, self._identity, self._note = folder, identity, note
        self._lens = Lens(net.mean, net.std, machine.device, machine.precision)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            objective = _OBJECTIVES[recipe.method](domains, net.dim, recipe)
        self._learner = Learner(net.network, objective).to(machine.device)
        for weight in self._learner.parameters():
            if weight.ndim == 4:
                weight.data = weight.data.contiguous(memory_format=torch.channels_last)
        self._average = copy.deepcopy(self._learner)
        self._rate = recipe.rate(net.from_weights)
        self._optimiser = _optimiser(self._learner, recipe.method, self._rate)
        self._step: _Step
        if isinstance(objective, Adaptation):
            self._step, shared = AdaptationStep(domains, recipe, self._lens), cast(nn.Module, self._learner)
        else:
            self._step, shared = FeatureStep(domains, objective, self._lens, recipe.seed), self._learner.trunk
        self._shared = shared
        self.state = State()

    def resume(self) -> State:
        """Go on from the checkpoint."""
        self.state = checkpoint.load(self._folder / CHECKPOINT, self._learner, self._average, self._optimiser)
        return self.state

    def run(self) -> State:
        """Train to the end, from wherever the state stands.

        Raises
        ------
        FewShotError : if the loss is no longer finite, or memory runs out; the checkpoint stays.
        """
        steps = len(self._step.plan(0)[0])
        left = steps * (self._recipe.epochs - self.state.epoch) - self.state.step
        with Workers(self._shared, self._machine.workers) as workers, Progress(left, "train", unit="step") as bar:
            if self._net.from_weights and (self.state.epoch, self.state.step) == (0, 0):
                self._tell_start(workers)
            while self.state.epoch < self._recipe.epochs:
                self._epoch(workers, bar)
        return self.state

    def _epoch(self, workers: Workers, bar: Progress) -> None:
        state, begun = self.state, time.monotonic()
        before, taken = state.seconds, -state.step
        size = self._recipe.size_in(state.epoch, self._net.size)
        plan = self._step.plan(state.epoch)
        steps = len(plan[0])
        state.sums = state.sums or [0.0] * (1 + len(self._domains))
        for twin in workers.twins:
            learning(twin)
        saved = begun
        while state.step < steps:
            self._learn(workers, [positions[state.step] for positions in plan], steps, size)
            bar.advance(1)
            now = time.monotonic()
            if now - saved >= _SAVE_SECONDS and state.step < steps:
                state.seconds, saved = before + now - begun, now
                self._save()
        line = self._line(steps, size)
        trained = time.monotonic() - begun
        share = (steps + taken) / steps  # less than one of an epoch that was resumed
        shown = sum(positions.numel() for positions in plan)
        line["pictures_per_second"] = round(share * shown / trained, 1)
        line["validation"] = self._validated(workers, plan)
        state.seconds = before + time.monotonic() - begun
        line["seconds"] = round(state.seconds, 1)
        best = state.best is None or not self._watches or _score(line) > _score(state.best)
        if best:
            state.best = line
            write_weights(self._average.trunk, self._folder / ENCODER)
        state.log.append(line)
        state.epoch, state.step, state.sums = state.epoch + 1, 0, []
        with replacing(self._folder / ENCODER / LOG) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in state.log), encoding="utf-8")
        self._save()
        self._tell(line, best, (time.monotonic() - begun) / share)

    def _learn(self, workers: Workers, positions: list[Tensor], steps: int, size: int) -> None:
        """Take one step."""
        state = self.state
        number, total = state.epoch * steps + state.step, self._recipe.epochs * steps
        for group in self._optimiser.param_groups:
            group["lr"] = self._rate * _share_of_rate(number, total)
        self._optimiser.zero_grad(set_to_none=True)
        with self._memory_explained(size):
            loss, right = self._step(workers, positions, number, size)
        measured = torch.cat([loss.reshape(1), right]).tolist()
        length = float(nn.utils.clip_grad_norm_(self._learner.parameters(), _CLIP))
        for what, value in (("loss", measured[0]), ("gradient", length)):
            if not math.isfinite(value):
                raise FewShotError(
                    f"the {what} became {value} in epoch {state.epoch + 1}, step {state.step + 1} of {steps}, with a "
                    f"learning rate of up to {self._rate:g}: train again with a lower --learning-rate and another "
                    f"--out. {self._kept()}"
                )
        self._optimiser.step()
        _follow(self._average, self._learner, min(_AVERAGE_OVER, (number + 1) / (number + 10)))
        state.step += 1
        state.sums = [a + b for a, b in zip(state.sums, measured, strict=True)]

    def _line(self, steps: int, size: int) -> dict[str, Any]:
        loss, *right = (total / steps for total in self.state.sums)
        names = [domain.pictures.name for domain in self._domains]
        return {
            "epoch": self.state.epoch + 1,
            "size": size,
            "loss": round(loss, 5),
            "accuracy": {name: round(share, 5) for name, share in zip(names, right, strict=True)},
        }

    def _validated(self, workers: Workers, plan: list[Tensor]) -> list[dict[str, Any]]:
        size, trunk, objective = self._net.size, self._average.trunk, self._average.objective
        adapting = isinstance(objective, Adaptation)
        if adapting:
            settle_norms(trunk, [self._shown(plan, step) for step in range(min(_SETTLING, len(plan[0])))])
        if not self._watches:
            return []
        found = []
        if isinstance(objective, Adaptation):
            norms = copy.deepcopy(trunk.state_dict())
            found = watched_adapting(self._watches, trunk, objective, size, self._lens, workers)
            trunk.load_state_dict(norms)  # ANIL's trunk is not cloned, so its statistics have moved
        return found + watched(self._watches, trunk, self._recipe, size, self._lens, workers)

    def _shown(self, plan: list[Tensor], step: int) -> Tensor:
        chance = (self._recipe.seed, self.state.epoch * len(plan[0]) + step, 63)
        with torch.no_grad():
            return shown_pictures(
                self._domains, [positions[step].flatten() for positions in plan], self._net.size, self._lens, chance
            )

    def _save(self) -> None:
        checkpoint.save(
            self._folder / CHECKPOINT,
            About(self._identity, self._machine.plain()),
            self.state,
            self._learner,
            self._average,
            self._optimiser,
        )

    def _tell_start(self, workers: Workers) -> None:
        """Tell how well weights do that already know something: training may spoil them."""
        if self._watches:
            found = watched(self._watches, self._average.trunk, self._recipe, self._net.size, self._lens, workers)
            self._note(f"before training: held out: {_accuracies(found)}")

    def _tell(self, line: dict[str, Any], best: bool, seconds: float) -> None:
        accuracy = ", ".join(f"{name} {100 * share:.1f} %" for name, share in line["accuracy"].items())
        held_out = _accuracies(line["validation"])
        left = seconds * (self._recipe.epochs - line["epoch"])
        self._note(
            f"epoch {line['epoch']} of {self._recipe.epochs}: loss {line['loss']:.3f}, right: {accuracy}"
            + (f"; held out: {held_out}{' (best)' if best else ''}" if held_out else "")
            + f"; {line['pictures_per_second']:,.0f} pictures/s, {_duration(left)} left"
        )

    def _kept(self) -> str:
        best = self.state.best
        if best is None:
            return "Nothing was learned yet"
        return (
            f"The weights after epoch {best['epoch']} are in {self._folder / 'encoder'}: they can be used, and trained "
            f"on with --arch local-dir:{self._folder / 'encoder'}"
        )

    @contextmanager
    def _memory_explained(self, size: int) -> Iterator[None]:
        try:
            yield
        except (MemoryError, RuntimeError) as error:
            lacking = isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "allocate memory" in str(error)
            if not lacking:
                raise
            batch = ", ".join(str(domain.batch) for domain in self._domains)
            smaller = "--ways, --queries or --size" if self._recipe.episodic else "--batch-size or --size"
            raise FewShotError(
                f"memory ran out on {self._machine.device} with pictures of {size} pixels a side and a batch of "
                f"{batch} {'episodes' if self._recipe.episodic else 'pictures'}: lower {smaller}, and give another "
                f"--out. {self._kept()}"
            ) from error


_OBJECTIVES: dict[str, Callable[[Sequence[Domain], int, Recipe], Any]] = {
    "classical": Classical,
    "prototypical": Prototypical,
    "maml": Adaptation,
    "anil": Adaptation,
}


def _accuracies(found: Sequence[dict[str, Any]]) -> str:
    return ", ".join(f"{one['data']} {100 * one['accuracy']:.1f} %" for one in found)


def _score(line: dict[str, Any]) -> float:
    """What the best weights are best at: the mean over the sets, of adaptation where there is such."""
    adapted = [found["accuracy"] for found in line["validation"] if "adapted" in found["measure"]]
    accuracies = adapted or [found["accuracy"] for found in line["validation"]]
    return float(sum(accuracies) / len(accuracies))


def _optimiser(learner: nn.Module, method: str, rate: float) -> torch.optim.Optimizer:
    decayed = [p for p in learner.parameters() if p.ndim > 1]
    others = [p for p in learner.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": _DECAY}, {"params": others, "weight_decay": 0.0}]
    if method == "classical":
        return torch.optim.SGD(groups, lr=rate, momentum=_MOMENTUM, nesterov=True)
    return torch.optim.AdamW(groups, lr=rate)


def _share_of_rate(number: int, total: int) -> float:
    """Share of the highest learning rate: up in a tenth of the steps, then down along a cosine."""
    warm = _WARM * total
    return (
        (number + 1) / (warm + 1) if number < warm else 0.5 * (1 + math.cos(math.pi * (number - warm) / (total - warm)))
    )


@torch.no_grad()
def _follow(average: nn.Module, learner: nn.Module, decay: float) -> None:
    """Move the running average of weights and statistics towards the learner's."""
    for mean, now in zip(average.state_dict().values(), learner.state_dict().values(), strict=True):
        if mean.dtype.is_floating_point:
            mean.lerp_(now, 1 - decay)
        else:
            mean.copy_(now)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
