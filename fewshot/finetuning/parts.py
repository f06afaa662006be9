"""Which parameters train, chosen by a short name: timm's own groups of a network, never its parameters' names."""

from __future__ import annotations

import re
from dataclasses import dataclass

from timm.models import group_parameters
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fewshot.finetuning.lora import add_adapters

_LAST = re.compile(r"last(?:-([1-9]\d*))?")


@dataclass(frozen=True)
class Parts:
    """What trains of a network.

    Attributes
    ----------
    groups : tuple of tuple of str
        Names of the parameters, block by block, from the last backwards.
    count : int
        How many numbers they hold.
    """

    groups: tuple[tuple[str, ...], ...]
    count: int


def choose_parts(network: nn.Module, trainable: str, rank: int) -> Parts:
    """Say what trains, let its parameters have gradients, and freeze the others.

    Parameters
    ----------
    network : nn.Module
        A timm network without classifier. "lora" puts adapters into it; nothing else changes it.
    trainable : str
        "last", the last block, and "last-N", the last N. "all". "norms": scale and shift of every norm. "lora":
        adapters of every linear and ungrouped convolution.
    rank : int
        Of the adapters.

    Raises
    ------
    ValueError : for another name, or more blocks than there are, naming the choices.
    """
    blocks = network_blocks(network)
    if trainable == "lora":
        add_adapters(network, rank)
        wanted = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
        blocks = network_blocks(network)
    else:
        wanted = _wanted(network, blocks, trainable)
    groups = tuple(kept for block in reversed(blocks) if (kept := tuple(name for name in block if name in wanted)))
    if not groups:
        raise ValueError(f"nothing to train: {type(network).__name__} has no parameters for trainable={trainable!r}")
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name in wanted)
    return Parts(groups, sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad))


def check_trainable(trainable: object) -> None:
    """Raise ValueError for what is no name of parts in any network, so that nothing is computed before."""
    if trainable not in ("head", "all", "norms", "lora") and not (
        isinstance(trainable, str) and _LAST.fullmatch(trainable)
    ):
        raise ValueError(
            f"trainable must be 'head', 'last', 'last-N' (the last N blocks), 'all', 'norms' or 'lora', not "
            f"{trainable!r}"
        )


def network_blocks(network: nn.Module) -> list[list[str]]:
    """Names of a timm network's parameters, block by block from the picture on, as timm groups them.

    Norms that timm has as a group of their own, as ConvNeXt's last, belong to the block before them.

    Raises
    ------
    ValueError : if timm has no groups for it.
    """
    matcher = getattr(network, "group_matcher", None)
    if matcher is None:
        raise ValueError(f"timm has no parameter groups for {type(network).__name__}, so its blocks cannot be chosen")
    norms = _norm_parameters(network)
    blocks: list[list[str]] = []
    for _, names in sorted(group_parameters(network, matcher(coarse=False)).items()):
        if blocks and norms.issuperset(names):
            blocks[-1] += names
        else:
            blocks.append(list(names))
    return blocks


def _wanted(network: nn.Module, blocks: list[list[str]], trainable: str) -> set[str]:
    if trainable == "all":
        return {name for block in blocks for name in block}
    if trainable == "norms":
        return _norm_parameters(network)
    found = _LAST.fullmatch(trainable) if isinstance(trainable, str) else None
    count = int(found[1] or 1) if found else 0
    if not 1 <= count <= len(blocks):
        raise ValueError(
            f"trainable must be 'head', 'last', 'last-N' with N from 1 to {len(blocks)} (the blocks of "
            f"{type(network).__name__}), 'all', 'norms' or 'lora', not {trainable!r}"
        )
    return {name for block in blocks[-count:] for name in block}


def _norm_parameters(network: nn.Module) -> set[str]:
    """Scale and shift of every norm: a layer that normalises, by its class."""
    import timm.layers

    kinds: tuple[type[nn.Module], ...] = (_BatchNorm, nn.LayerNorm, nn.GroupNorm, timm.layers.RmsNorm)
    return {
        f"{where}.{name}" if where else name
        for where, module in network.named_modules()
        if isinstance(module, kinds)
        for name, _ in module.named_parameters(recurse=False)
    }
