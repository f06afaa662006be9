"""A network to be trained, from scratch or from pretrained weights, at a given image size."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fewshot.encoders.bundled_network import POCKET
from fewshot.encoders.timm_network import first_line, load_network
from fewshot.errors import EncoderNotFound

SHORT_NAMES = {"resnet12": "fewshot_resnet12", "conv4": "fewshot_conv4"}


@dataclass(frozen=True)
class Trainable:
    """A network without classifier, float32, on the CPU, and its preprocessing.

    Attributes
    ----------
    network : nn.Module
    from_weights : bool
        Whether it is pretrained.
    size : int
        Pixels a side.
    mean, std : tuple of 3 floats
    dim : int
        d, the number of its features.
    settings : dict
        Further arguments that the network was built with: "model_args" of its folder's config.json.
    """

    network: nn.Module
    from_weights: bool
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    dim: int
    settings: dict[str, Any]


def trainable_network(arch: str, size: int | None, *, seed: int) -> Trainable:
    """Make a network to train.

    Parameters
    ----------
    arch : str
        "resnet12" or "conv4", from scratch; "pocket", the bundled weights; a folder of weights; or a timm
        name: pretrained with a tag ("resnet18.a1_in1k"), "hf-hub:" or "local-dir:", else from scratch.
    size : int, optional
        By default the network's own.
    seed : int
        Of new weights.

    Raises
    ------
    EncoderNotFound : if there is no such network.
    ValueError : if it does not take images of that size, or does not give one vector for each.
    """
    name = SHORT_NAMES.get(arch, arch)
    if name == "pocket":
        name = f"local-dir:{POCKET}"
    elif os.path.isdir(name):
        name = f"local-dir:{name}"
    from_weights = ":" in name or "." in name
    network = _made(name, seed, from_weights)
    config: dict[str, Any] = dict(getattr(network, "pretrained_cfg", {}))
    own = int(config["input_size"][-1])
    if size is not None and size != own and config.get("fixed_input_size"):
        try:
            network = _made(name, seed, from_weights, img_size=size)
        except EncoderNotFound as error:  # but it was found at its own size
            reason = first_line(error.__cause__ if isinstance(error.__cause__, Exception) else error)
            raise ValueError(f"{arch} does not take images of {size} x {size} pixels: {reason}") from error
    size = size or own
    dim = _dim(network, arch, size)
    network.requires_grad_(True)
    if from_weights:
        for module in network.modules():
            if isinstance(module, _BatchNorm) and _folded(module):
                module.folded = True  # type: ignore[assignment]
    mean, std = tuple(config["mean"]), tuple(config["std"])
    return Trainable(network, from_weights, size, mean, std, dim, _settings(name))


def set_train_mode(network: nn.Module) -> None:
    """Put a network in training mode, except for batch norms that were folded into its weights."""
    network.train()
    for module in network.modules():
        if getattr(module, "folded", False):
            module.eval()


def _folded(norm: _BatchNorm) -> bool:
    """Whether a trained batch norm has become an identity, as in converted weights."""
    mean, var, bias = norm.running_mean, norm.running_var, norm.bias
    if mean is None or var is None or bias is None:
        return False
    # One that was never trained has no bias.
    return not bool(mean.any()) and bool((var == var[0]).all()) and bool(bias.any())


def _settings(name: str) -> dict[str, Any]:
    """What a folder says that its network is built with; the network itself does not keep it."""
    if not name.startswith("local-dir:"):
        return {}
    return dict(json.loads(Path(name.partition(":")[2], "config.json").read_text()).get("model_args") or {})


def check_sizes(net: Trainable, arch: str, sizes: Iterable[int]) -> None:
    """Refuse a network that does not take images of all these sizes, with the same number of features.

    Raises
    ------
    ValueError : naming the size, or the numbers of features.
    """
    dims = {_dim(net.network, arch, side) for side in sizes}
    if len(dims) > 1:
        raise ValueError(f"{arch} gives {min(dims)} to {max(dims)} features by image size, so images cannot grow")


def _dim(network: nn.Module, arch: str, side: int) -> int:
    """How many features the network makes of images of ``side`` pixels."""
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
        raise ValueError(f"{arch} does not take images of {side} x {side} pixels: {reason}") from error
    finally:
        for hook in hooks:
            hook.remove()
    if starved:  # and in torch 2.15 its gradient in bfloat16 is whatever lay in memory
        raise ValueError(
            f"images of {side} x {side} pixels are too small for {arch}: its layer {starved[0]} would halve a map of "
            "one pixel. Raise --size, or take a smaller network"
        )
    if out.ndim != 2:
        raise ValueError(f"{arch} gives features of shape {tuple(out.shape)}, not one vector per image")
    return int(out.shape[1])


def _made(name: str, seed: int, pretrained: bool, **settings: Any) -> nn.Module:
    with torch.random.fork_rng(devices=[]):  # nobody else's draws change
        torch.manual_seed(seed)
        return load_network(name, pretrained=pretrained, **settings)
