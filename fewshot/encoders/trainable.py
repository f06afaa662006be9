"""A network to be trained: from scratch, or from weights; at the picture size asked for."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fewshot.encoders.network import first_line, load_network

SHORT_NAMES = {"resnet12": "fewshot_resnet12", "conv4": "fewshot_conv4", "glyph": "fewshot_glyph"}
_POCKET = Path(__file__).with_name("pocket")


@dataclass(frozen=True)
class Trainable:
    """A network without classifier, float32, on the CPU, and how pictures become its input.

    Attributes
    ----------
    network : nn.Module
    from_weights : bool
        Whether it knows something already.
    size : int
        Pixels a side.
    mean, std : tuple of 3 floats
    dim : int
        d, the number of its features.
    """

    network: nn.Module
    from_weights: bool
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    dim: int


def trainable(arch: str, size: int | None, *, seed: int) -> Trainable:
    """Make a network to train.

    Parameters
    ----------
    arch : str
        "resnet12", "conv4" or "glyph", from scratch; "pocket", the bundled weights; a folder of weights; or a timm
        name, with its weights where it has a tag ("resnet18.a1_in1k"), "hf-hub:" or "local-dir:", else from scratch.
    size : int, optional
        By default the network's own.
    seed : int
        Of new weights.

    Raises
    ------
    EncoderNotFound : if there is no such network.
    ValueError : if it does not take pictures of that size, or does not give one vector for each.
    """
    name = SHORT_NAMES.get(arch, arch)
    if name == "pocket":
        name = f"local-dir:{_POCKET}"
    elif os.path.isdir(name):
        name = f"local-dir:{name}"
    from_weights = ":" in name or "." in name
    network = _made(name, seed, from_weights)
    config: dict[str, Any] = dict(getattr(network, "pretrained_cfg", {}))
    own = int(config["input_size"][-1])
    if size is not None and size != own and config.get("fixed_input_size"):
        network = _made(name, seed, from_weights, img_size=size)
    size = size or own
    dim = _dim(network, arch, size)
    network.requires_grad_(True)
    return Trainable(network, from_weights, size, tuple(config["mean"]), tuple(config["std"]), dim)


def check_sizes(net: Trainable, arch: str, sizes: Iterable[int]) -> None:
    """Refuse a network that does not take pictures of all these sizes, giving as many features of each.

    Raises
    ------
    ValueError : naming the size, or the numbers of features.
    """
    dims = {_dim(net.network, arch, side) for side in sizes}
    if len(dims) > 1:
        raise ValueError(f"{arch} gives {min(dims)} to {max(dims)} features by picture size, so pictures cannot grow")


def _dim(network: nn.Module, arch: str, side: int) -> int:
    """How many features the network makes of pictures of ``side`` pixels."""
    starved: list[str] = []

    def look(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def before(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            assert isinstance(module, nn.Conv2d)
            if max(module.stride) > 1 and max(module.kernel_size) > 1 and min(inputs[0].shape[-2:]) == 1:
                starved.append(name)

        return before

    hooks = [m.register_forward_pre_hook(look(n)) for n, m in network.named_modules() if isinstance(m, nn.Conv2d)]
    try:
        with torch.no_grad():
            out = network(torch.zeros(1, 3, side, side))
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = first_line(error)
        raise ValueError(f"{arch} does not take pictures of {side} x {side} pixels: {reason}") from error
    finally:
        for hook in hooks:
            hook.remove()
    if starved:  # and in torch 2.15 its gradient in bfloat16 is whatever lay in memory
        raise ValueError(
            f"pictures of {side} x {side} pixels are too small for {arch}: its layer {starved[0]} would halve a map of "
            "one pixel. Raise --size, or take a smaller network"
        )
    if out.ndim != 2:
        raise ValueError(f"{arch} gives features of shape {tuple(out.shape)}, not one vector a picture")
    return int(out.shape[1])


def _made(name: str, seed: int, pretrained: bool, **settings: Any) -> nn.Module:
    with torch.random.fork_rng(devices=[]):  # nobody else's draws change
        torch.manual_seed(seed)
        return load_network(name, pretrained=pretrained, **settings)
