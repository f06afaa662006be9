"""The state of a training in one file, which appears whole or not at all; no pickle."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from fewshot.errors import FewShotError
from fewshot.files import replacing


@dataclass
class State:
    """Where a training stands.

    Attributes
    ----------
    epoch, step : int
        What comes next; steps count from 0 in each epoch.
    sums : list of float
        Of the loss and of each domain's share of right answers, over the epoch's steps so far.
    seconds : float
        Spent so far, reading and validating included.
    best : dict, optional
        The log's line of the epoch whose weights are the best so far.
    log : list of dict
        A line for each finished epoch.
    """

    epoch: int = 0
    step: int = 0
    sums: list[float] = field(default_factory=list)
    seconds: float = 0.0
    best: dict[str, Any] | None = None
    log: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class About:
    """What a resumed training must agree with, and the machine it was begun on."""

    identity: dict[str, Any]
    machine: dict[str, Any]


def save(
    path: Path,
    told: About,
    state: State,
    learner: nn.Module,
    average: nn.Module,
    optimiser: torch.optim.Optimizer,
) -> None:
    """Write all that a resumed training needs, and what it must agree with."""
    tensors: dict[str, Tensor] = {}
    for prefix, module in (("learner", learner), ("average", average)):
        tensors |= {f"{prefix}.{name}": tensor for name, tensor in module.state_dict().items()}
    for number, slots in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{number}.{name}": tensor for name, tensor in slots.items()}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {"about": json.dumps(asdict(told)), "state": json.dumps(asdict(state))}
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata=metadata)


def about(path: Path) -> About:
    """What a checkpoint is of.

    Raises
    ------
    FewShotError : if it cannot be read.
    """
    with _opened(path) as opened:
        return About(**json.loads(opened.metadata()["about"]))


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, "pt") as opened:
            yield opened
    except SafetensorError as error:
        raise FewShotError(f"{path} cannot be read ({error}): remove {path.parent} and begin anew") from error


def load(path: Path, learner: nn.Module, average: nn.Module, optimiser: torch.optim.Optimizer) -> State:
    """Put the modules and the optimiser into the saved state, and return where the training stands."""
    parts: dict[str, dict[str, Tensor]] = {"learner": {}, "average": {}, "optimiser": {}}
    with _opened(path) as opened:
        for key in opened.keys():
            part, _, name = key.partition(".")
            parts[part][name] = opened.get_tensor(key)
        state = State(**json.loads(opened.metadata()["state"]))
    learner.load_state_dict(parts["learner"])
    average.load_state_dict(parts["average"])
    slots: dict[int, dict[str, Tensor]] = {}
    for name, tensor in parts["optimiser"].items():
        number, _, slot = name.partition(".")
        slots.setdefault(int(number), {})[slot] = tensor
    optimiser.load_state_dict({"state": slots, "param_groups": optimiser.state_dict()["param_groups"]})
    return state


def check_same(asked: dict[str, Any], found: dict[str, Any], place: Path) -> None:
    """Refuse to go on with a training of other settings.

    Raises
    ------
    ValueError : naming each setting that differs, with both values.
    """
    asked, found = ({**identity, **identity["recipe"], "recipe": None} for identity in (asked, found))
    names = [name for name in {**asked, **found} if asked.get(name) != found.get(name)]
    if names:
        told = "; ".join(f"{name} was {found.get(name)!r} and is now {asked.get(name)!r}" for name in names)
        raise ValueError(
            f"{place} holds a training of other settings: {told}. Repeat it with the old ones, or give another --out, "
            "or remove that folder"
        )
