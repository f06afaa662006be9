"""The state of a training run in one file, written atomically; no pickle."""

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
class TrainingState:
    """The progress of a training run.

    Attributes
    ----------
    epoch, step : int
        The next ones; steps count from 0 in each epoch.
    sums : list of float
        The loss and each training set's accuracy, summed over the epoch's steps so far.
    seconds : float
        Spent so far, reading and validation included.
    best : dict, optional
        The log entry of the epoch with the best weights so far.
    log : list of dict
        An entry for each finished epoch.
    """

    epoch: int = 0
    step: int = 0
    sums: list[float] = field(default_factory=list)
    seconds: float = 0.0
    best: dict[str, Any] | None = None
    log: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Header:
    """The settings that a resumed training must repeat, and the machine it was started on."""

    identity: dict[str, Any]
    machine: dict[str, Any]


def save(
    path: Path,
    header: Header,
    state: TrainingState,
    learner: nn.Module,
    average: nn.Module,
    optimiser: torch.optim.Optimizer,
) -> None:
    """Write all that a resumed training needs, and the settings that it must repeat."""
    tensors: dict[str, Tensor] = {}
    for prefix, module in (("learner", learner), ("average", average)):
        tensors |= {f"{prefix}.{name}": tensor for name, tensor in module.state_dict().items()}
    for number, slots in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{number}.{name}": tensor for name, tensor in slots.items()}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {"header": json.dumps(asdict(header)), "state": json.dumps(asdict(state))}
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata=metadata)


def read_header(path: Path) -> Header:
    """Read a checkpoint's header.

    Raises
    ------
    FewShotError : if it cannot be read.
    """
    with _opened(path) as opened:
        return Header(**json.loads(opened.metadata()["header"]))


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, "pt") as opened:
            yield opened
    except SafetensorError as error:
        raise FewShotError(f"{path} cannot be read ({error}): remove {path.parent} and start again") from error


def load(path: Path, learner: nn.Module, average: nn.Module, optimiser: torch.optim.Optimizer) -> TrainingState:
    """Restore the modules and the optimiser, and return the training state."""
    parts: dict[str, dict[str, Tensor]] = {"learner": {}, "average": {}, "optimiser": {}}
    with _opened(path) as opened:
        for key in opened.keys():
            part, _, name = key.partition(".")
            parts[part][name] = opened.get_tensor(key)
        state = TrainingState(**json.loads(opened.metadata()["state"]))
    learner.load_state_dict(parts["learner"])
    average.load_state_dict(parts["average"])
    slots: dict[int, dict[str, Tensor]] = {}
    for name, tensor in parts["optimiser"].items():
        number, _, slot = name.partition(".")
        slots.setdefault(int(number), {})[slot] = tensor
    optimiser.load_state_dict({"state": slots, "param_groups": optimiser.state_dict()["param_groups"]})
    return state


def check_same(asked: dict[str, Any], found: dict[str, Any], place: Path) -> None:
    """Refuse to resume a training of other settings.

    Raises
    ------
    ValueError : naming each setting that differs, with both values.
    """
    asked, found = ({**identity, **identity["recipe"], "recipe": None} for identity in (asked, found))
    names = [name for name in {**asked, **found} if asked.get(name) != found.get(name)]
    if names:
        differences = "; ".join(f"{name} was {found.get(name)!r} and is now {asked.get(name)!r}" for name in names)
        raise ValueError(
            f"{place} holds a training of other settings: {differences}. Repeat it with the old ones, or give another "
            "--out, or remove that folder"
        )
