"""One step's gradients: augmentation, trunk, objective, and back."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from fewshot.training.augmentation import Augment, resized
from fewshot.training.objectives import Domain, Objective
from fewshot.training.workers import Workers


class Lens:
    """How pictures become a network's input: its normalisation, memory layout and precision.

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
        """Normalise pictures (n, 3, h, w) in [0, 1]."""
        return ((x - self._mean) / self._std).contiguous(memory_format=torch.channels_last)

    def autocast(self) -> AbstractContextManager[Any]:
        """Compute in the lens's precision; without a cache of cast weights, for threads would share it."""
        return torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16", cache_enabled=False
        )


class FeatureStep:
    """Gradients of an objective that needs no more of the trunk than its features.

    Workers turn their shares of the batch into features; the objective judges all of them at once, so that pictures of
    different shares are compared; then each worker sends its features' gradients back.

    Parameters
    ----------
    domains : sequence of Domain
    objective : Objective
    lens : Lens
    seed : int
        Of the augmentation, together with the step's number.
    """

    def __init__(self, domains: Sequence[Domain], objective: Objective, lens: Lens, seed: int) -> None:
        self._domains, self._objective, self._lens, self._seed = domains, objective, lens, seed

    def plan(self, epoch: int) -> list[Tensor]:
        """Positions of each domain, (steps, pictures)."""
        return self._objective.plan(epoch)

    def __call__(self, workers: Workers, positions: Sequence[Tensor], number: int, size: int) -> tuple[Tensor, Tensor]:
        """Leave the gradients of one step in the parameters; return its loss and the share of right answers."""
        n = len(workers.twins)

        def forward(trunk: nn.Module, worker: int) -> Tensor:
            shares = [shown[worker::n] for shown in positions]
            with torch.no_grad():
                x = shown_pictures(self._domains, shares, size, self._lens, (self._seed, number, worker))
            with self._lens.autocast():
                features: Tensor = trunk(x)
            return features.float()

        outputs = workers.map(forward, workers.twins, range(n))
        gathered = []
        for i, shown in enumerate(positions):
            features = outputs[0].new_empty(len(shown), outputs[0].shape[1])
            for worker, output in enumerate(outputs):
                features[worker::n] = self._parts(output.detach(), positions, worker, n)[i]
            gathered.append(features.requires_grad_())
        loss, right = self._objective(gathered, positions)
        if not torch.isfinite(loss):
            return loss.detach(), right
        torch.autograd.backward(loss)
        gradients = [x.grad for x in gathered]

        def backward(output: Tensor, worker: int) -> None:
            torch.autograd.backward(output, torch.cat([g[worker::n] for g in gradients if g is not None]))

        workers.map(backward, outputs, range(n))
        workers.gather()
        return loss.detach(), right

    @staticmethod
    def _parts(output: Tensor, positions: Sequence[Tensor], worker: int, n: int) -> tuple[Tensor, ...]:
        """One worker's features, domain by domain."""
        return torch.split(output, [len(shown[worker::n]) for shown in positions])


def shown_pictures(
    domains: Sequence[Domain], positions: Sequence[Tensor], size: int, lens: Lens, chance: tuple[int, int, int]
) -> Tensor:
    """Altered, normalised pictures of each domain's positions, one domain after the other.

    ``chance`` is a seed, the step's number and the worker's: each step draws from a source of its own, so that a
    resumed training draws what it would have drawn.
    """
    seed, number, worker = chance
    generator = torch.Generator(lens.device).manual_seed((seed * 10_000_019 + number) * 64 + worker)
    augment = Augment(generator)
    made = []
    for domain, shown in zip(domains, positions, strict=True):
        pixels, turns = domain.show(shown)
        made.append(augment(domain.augment, pixels, turns, size))
    return lens(torch.cat(made))


def embedded(trunk: nn.Module, pixels: Tensor, size: int, lens: Lens, workers: Workers, batch: int = 128) -> Tensor:
    """Vectors (n, d), float32 on the CPU, of uint8 pictures as they are; leaves the trunk in eval mode."""
    trunk.eval()

    def embed(part: Tensor) -> Tensor:
        with torch.inference_mode(), lens.autocast():
            out: Tensor = trunk(lens(resized(part.to(lens.device), size)))
            return out.float().cpu()

    return torch.cat(workers.map(embed, torch.split(pixels, batch)))
