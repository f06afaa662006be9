"""The gradients of one step: augmentation, forward pass, objective, backward pass."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from fewshot.encoders import autocast
from fewshot.training.augmentation import Augment, resized
from fewshot.training.objectives import Objective, TrainingSet
from fewshot.training.workers import Workers


class Preprocessor:
    """Prepare pixels as a network's input: normalisation, memory layout and precision.

    Parameters
    ----------
    mean, std : sequence of 3 floats
    device : torch.device
    precision : {"bfloat16", "float32"}
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], device: torch.device, precision: str) -> None:
        self.device, self.precision = device, precision
        self._mean = torch.tensor(mean, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(std, device=device).view(1, 3, 1, 1)

    def __call__(self, x: Tensor) -> Tensor:
        """Normalise images (n, 3, h, w) in [0, 1]."""
        return ((x - self._mean) / self._std).contiguous(memory_format=torch.channels_last)

    def autocast(self) -> AbstractContextManager[Any]:
        """Compute in this precision."""
        return autocast(self.device, self.precision)


class FeatureStep:
    """The gradients of an objective on features.

    Workers compute the features of their shares of the batch; the objective is computed once on all of them, so that
    images of different shares are compared; then each worker backpropagates its features' gradients.

    Parameters
    ----------
    training_sets : sequence of TrainingSet
    objective : Objective
    preprocess : Preprocessor
    seed : int
        Of the augmentation, together with the step's number.
    """

    def __init__(
        self, training_sets: Sequence[TrainingSet], objective: Objective, preprocess: Preprocessor, seed: int
    ) -> None:
        self._training_sets, self._objective, self._preprocess, self._seed = training_sets, objective, preprocess, seed

    def plan(self, epoch: int) -> list[Tensor]:
        """Return the indices of each training set, (steps, images)."""
        return self._objective.plan(epoch)

    def __call__(self, workers: Workers, positions: Sequence[Tensor], number: int, size: int) -> tuple[Tensor, Tensor]:
        """Leave the gradients of one step in the parameters; return its loss and each training set's accuracy."""
        n = len(workers.replicas)

        def forward(trunk: nn.Module, worker: int) -> Tensor:
            shares = [chosen[worker::n] for chosen in positions]
            with torch.no_grad():
                x = augmented_batch(self._training_sets, shares, size, self._preprocess, (self._seed, number, worker))
            with self._preprocess.autocast():
                features: Tensor = trunk(x)
            return features.float()

        outputs = workers.map(forward, workers.replicas, range(n))
        gathered = []
        for i, chosen in enumerate(positions):
            features = outputs[0].new_empty(len(chosen), outputs[0].shape[1])
            for worker, output in enumerate(outputs):
                features[worker::n] = self._parts(output.detach(), positions, worker, n)[i]
            gathered.append(features.requires_grad_())
        loss, accuracy = self._objective(gathered, positions)
        if not torch.isfinite(loss):
            return loss.detach(), accuracy
        torch.autograd.backward(loss)
        gradients = [x.grad for x in gathered]

        def backward(output: Tensor, worker: int) -> None:
            torch.autograd.backward(output, torch.cat([g[worker::n] for g in gradients if g is not None]))

        workers.map(backward, outputs, range(n))
        workers.gather()
        return loss.detach(), accuracy

    @staticmethod
    def _parts(output: Tensor, positions: Sequence[Tensor], worker: int, n: int) -> tuple[Tensor, ...]:
        """One worker's features of each training set."""
        return torch.split(output, [len(chosen[worker::n]) for chosen in positions])


def augmented_batch(
    training_sets: Sequence[TrainingSet],
    positions: Sequence[Tensor],
    size: int,
    preprocess: Preprocessor,
    random_key: tuple[int, int, int],
) -> Tensor:
    """Return augmented, normalised images of each training set, one set after the other.

    ``random_key`` is a seed, the step's number and the worker's: each step has a generator of its own, so that a
    resumed training draws the same.
    """
    seed, number, worker = random_key
    generator = torch.Generator(preprocess.device).manual_seed((seed * 10_000_019 + number) * 64 + worker)
    augment = Augment(generator)
    made = []
    for training_set, chosen in zip(training_sets, positions, strict=True):
        pixels, turns = training_set.pixels_of(chosen)
        made.append(augment(training_set.augment, pixels, turns, size))
    return preprocess(torch.cat(made))


def embedded(
    trunk: nn.Module, pixels: Tensor, size: int, preprocess: Preprocessor, workers: Workers, batch: int = 128
) -> Tensor:
    """Embed uint8 images without augmentation: (n, d), float32, on the CPU. Leaves the trunk in eval mode."""
    trunk.eval()

    def embed(part: Tensor) -> Tensor:
        with torch.inference_mode(), preprocess.autocast():
            out: Tensor = trunk(preprocess(resized(part.to(preprocess.device), size)))
            return out.float().cpu()

    return torch.cat(workers.map(embed, torch.split(pixels, batch)))
