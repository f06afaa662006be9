"""The loop over epochs and steps, with validation, log and checkpoints."""

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

from fewshot.encoders import Trainable, set_train_mode
from fewshot.errors import FewShotError
from fewshot.files import replacing
from fewshot.progress import Progress
from fewshot.training import checkpoint
from fewshot.training.checkpoint import Header, TrainingState
from fewshot.training.encoder_folder import write_weights
from fewshot.training.maml import Adaptation, AdaptationStep, recompute_norm_statistics
from fewshot.training.objectives import Classical, Prototypical, TrainingSet
from fewshot.training.recipe import Recipe
from fewshot.training.steps import FeatureStep, Preprocessor, augmented_batch
from fewshot.training.validation_episodes import ValidationSet, adapted_accuracy, prototype_accuracy
from fewshot.training.workers import Workers

CHECKPOINT, ENCODER, LOG = "checkpoint.safetensors", "encoder", "training.jsonl"
# Between checkpoints: the most that a kill can lose.
_SAVE_SECONDS = 120.0
_DECAY, _MOMENTUM, _CLIP, _WARM = 5e-4, 0.9, 5.0, 0.1
_AVERAGE_DECAY = 0.998
_NORM_BATCHES = 20


@dataclass(frozen=True)
class Machine:
    """Where training computes; a resumed run keeps the number of workers, on which its batch norms depend."""

    device: torch.device
    precision: str
    workers: int

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {"device": self.device.type, "precision": self.precision, "workers": self.workers}


class _Step(Protocol):
    def plan(self, epoch: int) -> list[Tensor]: ...

    def __call__(
        self, workers: Workers, positions: Sequence[Tensor], number: int, size: int
    ) -> tuple[Tensor, Tensor]: ...


class Learner(nn.Module):
    """All parameters: of the trunk and of the objective."""

    def __init__(self, trunk: nn.Module, objective: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk
        self.objective = objective


class Training:
    """A training run.

    Parameters
    ----------
    recipe : Recipe
    net : Trainable
        Its network is trained in place.
    training_sets : sequence of TrainingSet
    validation_sets : sequence of ValidationSet
        Empty for no validation: the last weights are then the best.
    machine : Machine
    folder : Path
        Holds "encoder" with the best weights so far, and the checkpoint.
    identity : dict
        The settings that a resumed training must repeat.
    note : callable
        Called with one line of text after each epoch.
    """

    def __init__(
        self,
        recipe: Recipe,
        net: Trainable,
        training_sets: Sequence[TrainingSet],
        validation_sets: Sequence[ValidationSet],
        machine: Machine,
        folder: Path,
        identity: dict[str, Any],
        note: Callable[[str], None],
    ) -> None:
        self._recipe, self._net, self._machine = recipe, net, machine
        self._training_sets, self._validation_sets = training_sets, validation_sets
        self._folder, self._identity, self._note = folder, identity, note
        self._preprocess = Preprocessor(net.mean, net.std, machine.device, machine.precision)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            objective = _OBJECTIVES[recipe.method](training_sets, net.dim, recipe)
        self._learner = Learner(net.network, objective).to(machine.device)
        for weight in self._learner.parameters():
            if weight.ndim == 4:
                weight.data = weight.data.contiguous(memory_format=torch.channels_last)
        self._average = copy.deepcopy(self._learner)
        self._rate = recipe.rate(net.from_weights)
        self._optimiser = _optimiser(self._learner, recipe.method, self._rate)
        self._step: _Step
        if isinstance(objective, Adaptation):
            self._step, shared = AdaptationStep(training_sets, recipe, self._preprocess), cast(nn.Module, self._learner)
        else:
            self._step, shared = (
                FeatureStep(training_sets, objective, self._preprocess, recipe.seed),
                self._learner.trunk,
            )
        self._shared = shared
        self.state = TrainingState()

    def resume(self) -> TrainingState:
        """Continue from the checkpoint."""
        self.state = checkpoint.load(self._folder / CHECKPOINT, self._learner, self._average, self._optimiser)
        return self.state

    def run(self) -> TrainingState:
        """Train to the last epoch, from the current state.

        Raises
        ------
        FewShotError : if the loss is no longer finite, or memory runs out; the checkpoint remains.
        """
        steps = len(self._step.plan(0)[0])
        left = steps * (self._recipe.epochs - self.state.epoch) - self.state.step
        with Workers(self._shared, self._machine.workers) as workers, Progress(left, "train", unit="step") as bar:
            if self._net.from_weights and (self.state.epoch, self.state.step) == (0, 0):
                self._report_start(workers)
            while self.state.epoch < self._recipe.epochs:
                self._epoch(workers, bar)
        return self.state

    def _epoch(self, workers: Workers, bar: Progress) -> None:
        state, start = self.state, time.monotonic()
        before, resumed_at = state.seconds, state.step
        size = self._recipe.size_in(state.epoch, self._net.size)
        plan = self._step.plan(state.epoch)
        steps = len(plan[0])
        state.sums = state.sums or [0.0] * (1 + len(self._training_sets))
        for replica in workers.replicas:
            set_train_mode(replica)
        saved = start
        while state.step < steps:
            self._learn(workers, [positions[state.step] for positions in plan], steps, size)
            bar.advance(1)
            now = time.monotonic()
            if now - saved >= _SAVE_SECONDS and state.step < steps:
                state.seconds, saved = before + now - start, now
                self._save()
        line = self._line(steps, size)
        trained = time.monotonic() - start
        share = (steps - resumed_at) / steps  # below 1 in an epoch that was resumed
        images = sum(positions.numel() for positions in plan)
        line["images_per_second"] = round(share * images / trained, 1)
        line["validation"] = self._validated(workers, plan)
        state.seconds = before + time.monotonic() - start
        line["seconds"] = round(state.seconds, 1)
        best = state.best is None or not self._validation_sets or _score(line) > _score(state.best)
        if best:
            state.best = line
            write_weights(self._average.trunk, self._folder / ENCODER)
        state.log.append(line)
        state.epoch, state.step, state.sums = state.epoch + 1, 0, []
        with replacing(self._folder / ENCODER / LOG) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in state.log), encoding="utf-8")
        self._save()
        self._report_epoch(line, best, (time.monotonic() - start) / share)

    def _learn(self, workers: Workers, positions: list[Tensor], steps: int, size: int) -> None:
        """Take one step."""
        state = self.state
        number, total = state.epoch * steps + state.step, self._recipe.epochs * steps
        for group in self._optimiser.param_groups:
            group["lr"] = self._rate * _schedule(number, total)
        self._optimiser.zero_grad(set_to_none=True)
        with self._explain_out_of_memory(size):
            loss, accuracies = self._step(workers, positions, number, size)
        measured = torch.cat([loss.reshape(1), accuracies]).tolist()
        length = float(nn.utils.clip_grad_norm_(self._learner.parameters(), _CLIP))
        for name, value in (("loss", measured[0]), ("gradient", length)):
            if not math.isfinite(value):
                raise FewShotError(
                    f"the {name} became {value} in epoch {state.epoch + 1}, step {state.step + 1} of {steps}, with a "
                    f"learning rate of up to {self._rate:g}: train again with a lower --learning-rate and another "
                    f"--out. {self._weights_so_far()}"
                )
        self._optimiser.step()
        _update_average(self._average, self._learner, min(_AVERAGE_DECAY, (number + 1) / (number + 10)))
        state.step += 1
        state.sums = [a + b for a, b in zip(state.sums, measured, strict=True)]

    def _line(self, steps: int, size: int) -> dict[str, Any]:
        loss, *accuracies = (total / steps for total in self.state.sums)
        names = [training_set.images.name for training_set in self._training_sets]
        return {
            "epoch": self.state.epoch + 1,
            "size": size,
            "loss": round(loss, 5),
            "accuracy": {name: round(share, 5) for name, share in zip(names, accuracies, strict=True)},
        }

    def _validated(self, workers: Workers, plan: list[Tensor]) -> list[dict[str, Any]]:
        size, trunk, objective = self._net.size, self._average.trunk, self._average.objective
        adapting = isinstance(objective, Adaptation)
        if adapting:
            recompute_norm_statistics(
                trunk, [self._batch(plan, step) for step in range(min(_NORM_BATCHES, len(plan[0])))]
            )
        if not self._validation_sets:
            return []
        found = []
        if isinstance(objective, Adaptation):
            norms = copy.deepcopy(trunk.state_dict())
            found = adapted_accuracy(self._validation_sets, trunk, objective, size, self._preprocess, workers)
            trunk.load_state_dict(norms)  # ANIL's trunk is not cloned, so its statistics have moved
        return found + prototype_accuracy(self._validation_sets, trunk, self._recipe, size, self._preprocess, workers)

    def _batch(self, plan: list[Tensor], step: int) -> Tensor:
        random_key = (self._recipe.seed, self.state.epoch * len(plan[0]) + step, 63)
        with torch.no_grad():
            return augmented_batch(
                self._training_sets,
                [positions[step].flatten() for positions in plan],
                self._net.size,
                self._preprocess,
                random_key,
            )

    def _save(self) -> None:
        checkpoint.save(
            self._folder / CHECKPOINT,
            Header(self._identity, self._machine.as_json()),
            self.state,
            self._learner,
            self._average,
            self._optimiser,
        )

    def _report_start(self, workers: Workers) -> None:
        """Report the validation accuracy of pretrained weights: training may lower it."""
        if self._validation_sets:
            found = prototype_accuracy(
                self._validation_sets, self._average.trunk, self._recipe, self._net.size, self._preprocess, workers
            )
            self._note(f"before training: validation accuracy: {_accuracies(found)}")

    def _report_epoch(self, line: dict[str, Any], best: bool, seconds: float) -> None:
        accuracy = ", ".join(f"{name} {100 * share:.1f} %" for name, share in line["accuracy"].items())
        validation = _accuracies(line["validation"])
        left = seconds * (self._recipe.epochs - line["epoch"])
        self._note(
            f"epoch {line['epoch']} of {self._recipe.epochs}: loss {line['loss']:.3f}, training accuracy: {accuracy}"
            + (f"; validation accuracy: {validation}{' (best)' if best else ''}" if validation else "")
            + f"; {line['images_per_second']:,.0f} images/s, {_duration(left)} left"
        )

    def _weights_so_far(self) -> str:
        best = self.state.best
        if best is None:
            return "No epoch was finished yet"
        return (
            f"The weights after epoch {best['epoch']} are in {self._folder / 'encoder'}: use them as an encoder, or "
            f"train them further with --arch local-dir:{self._folder / 'encoder'}"
        )

    @contextmanager
    def _explain_out_of_memory(self, size: int) -> Iterator[None]:
        try:
            yield
        except (MemoryError, RuntimeError) as error:
            out_of_memory = isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "allocate memory" in str(error)
            if not out_of_memory:
                raise
            batch = ", ".join(str(training_set.batch) for training_set in self._training_sets)
            smaller = "--ways, --queries or --size" if self._recipe.episodic else "--batch-size or --size"
            raise FewShotError(
                f"memory ran out on {self._machine.device} with images of {size} pixels a side and a batch of "
                f"{batch} {'episodes' if self._recipe.episodic else 'images'}: lower {smaller}, and give another "
                f"--out. {self._weights_so_far()}"
            ) from error


_OBJECTIVES: dict[str, Callable[[Sequence[TrainingSet], int, Recipe], Any]] = {
    "classical": Classical,
    "prototypical": Prototypical,
    "maml": Adaptation,
    "anil": Adaptation,
}


def _accuracies(found: Sequence[dict[str, Any]]) -> str:
    return ", ".join(f"{one['data']} {100 * one['accuracy']:.1f} %" for one in found)


def _score(line: dict[str, Any]) -> float:
    """Return the accuracy that selects the best epoch: the mean over validation sets, after adaptation if any."""
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


def _schedule(number: int, total: int) -> float:
    """Share of the highest learning rate: linear warm-up over a tenth of the steps, then cosine decay."""
    warm = _WARM * total
    return (
        (number + 1) / (warm + 1) if number < warm else 0.5 * (1 + math.cos(math.pi * (number - warm) / (total - warm)))
    )


@torch.no_grad()
def _update_average(average: nn.Module, learner: nn.Module, decay: float) -> None:
    """Update the exponential moving average of weights and batch norm statistics."""
    for mean, now in zip(average.state_dict().values(), learner.state_dict().values(), strict=True):
        if mean.dtype.is_floating_point:
            mean.lerp_(now, 1 - decay)
        else:
            mean.copy_(now)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
