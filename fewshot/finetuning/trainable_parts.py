"""What trains of a network, by a short name, and how fast each of its blocks learns."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from timm.models import group_parameters
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fewshot.finetuning.lora import add_adapters


@dataclass(frozen=True)
class Schedule:
    """How blocks join and how fast they learn, counted from the last block backwards.

    Attributes
    ----------
    decay : float
        Each block's learning rate is that of the block after it, divided by this.
    interval : int
        Steps until one more block trains; 0: all train from the start.
    """

    decay: float
    interval: int


# "progressive" as Howard & Ruder 2018, arXiv:1801.06146, sections 3.2 and 3.3, but by steps instead of epochs.
SCHEDULES = {"together": Schedule(decay=1.0, interval=0), "progressive": Schedule(decay=2.6, interval=5)}

_LAST = re.compile(r"last(?:-([1-9]\d*))?")


def check_trainable(trainable: object) -> None:
    """Raise ValueError for what names no parts of any network."""
    if trainable not in ("head", *_PARTS) and not (isinstance(trainable, str) and _LAST.fullmatch(trainable)):
        raise ValueError(
            f"trainable must be 'head', 'last', 'last-N' (the last N blocks), 'all', 'norms' or 'lora', not "
            f"{trainable!r}"
        )


def trainable_blocks(network: nn.Module, trainable: str, rank: int) -> list[dict[str, nn.Parameter]]:
    """Choose what trains, set ``requires_grad`` of all parameters accordingly, and return those that train.

    Parameters
    ----------
    network : nn.Module
        A timm network without classifier. "lora" puts adapters into it; nothing else changes its modules.
    trainable : {"last", "last-N", "all", "norms", "lora"}
        The last block, the last N, everything, scale and shift of every norm, or adapters of every linear layer and
        ungrouped convolution.
    rank : int
        Of the adapters.

    Returns
    -------
    list of dict of str to Parameter
        A dict per block, from the last block backwards.

    Raises
    ------
    ValueError : for another name, or more blocks than there are, naming the choices.
    """
    wanted = _PARTS[trainable](network, rank) if trainable in _PARTS else _last(network, trainable)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name in wanted)
    blocks = [
        {name: network.get_parameter(name) for name in block if name in wanted}
        for block in reversed(network_blocks(network))
    ]
    if not any(blocks):
        raise ValueError(f"nothing to train: {type(network).__name__} has no parameters for trainable={trainable!r}")
    return [block for block in blocks if block]


def network_blocks(network: nn.Module) -> list[list[str]]:
    """Return the names of a timm network's parameters, block by block from the input on, as timm groups them.

    Norms that timm has as a group of their own, as ConvNeXt's last, belong to the block before them.

    Raises
    ------
    ValueError : if timm has no groups for it.
    """
    matcher = getattr(network, "group_matcher", None)
    if matcher is None:
        raise ValueError(f"timm has no parameter groups for {type(network).__name__}, so its blocks cannot be chosen")
    norms = _norms(network, 0)
    blocks: list[list[str]] = []
    for _, names in sorted(group_parameters(network, matcher(coarse=False)).items()):
        if blocks and norms.issuperset(names):
            blocks[-1] += names
        else:
            blocks.append(list(names))
    return blocks


def _last(network: nn.Module, trainable: str) -> set[str]:
    blocks = network_blocks(network)
    found = _LAST.fullmatch(trainable) if isinstance(trainable, str) else None
    count = int(found[1] or 1) if found else 0
    if not 1 <= count <= len(blocks):
        raise ValueError(
            f"trainable must be 'head', 'last', 'last-N' with N from 1 to {len(blocks)} (the blocks of "
            f"{type(network).__name__}), 'all', 'norms' or 'lora', not {trainable!r}"
        )
    return {name for block in blocks[-count:] for name in block}


def _all(network: nn.Module, rank: int) -> set[str]:
    return {name for name, _ in network.named_parameters()}


def _norms(network: nn.Module, rank: int) -> set[str]:
    import timm.layers

    kinds: tuple[type[nn.Module], ...] = (_BatchNorm, nn.LayerNorm, nn.GroupNorm, timm.layers.RmsNorm)
    return {
        f"{where}.{name}" if where else name
        for where, module in network.named_modules()
        if isinstance(module, kinds)
        for name, _ in module.named_parameters(recurse=False)
    }


def _lora(network: nn.Module, rank: int) -> set[str]:
    network_blocks(network)  # refuses a network without groups before it is changed
    add_adapters(network, rank)
    return {name for name, parameter in network.named_parameters() if parameter.requires_grad}


# Each returns the names of the parameters that train.
_PARTS: dict[str, Callable[[nn.Module, int], set[str]]] = {"all": _all, "norms": _norms, "lora": _lora}
