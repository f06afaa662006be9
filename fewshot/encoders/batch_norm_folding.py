"""Folding batch norms into the convolutions before them: the same function, fewer passes over memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

# Of the largest feature; float32 rounding alone gives 1e-6 to 1e-5 over some 50 layers.
_TOLERANCE = 1e-3


def fuse_batch_norms(network: nn.Module, example: Tensor, read: Callable[[Tensor], Tensor] | None = None) -> int:
    """Fold, in place, each batch norm that reads a convolution's output into that convolution.

    Which convolution feeds which norm is seen by running the network on ``example`` (1, 3, h, w), not guessed from
    the order of definition. The result is then compared with the original's on the example; where they differ, as
    when something else reads a convolution's output, everything is put back. ``read`` gives what is wanted of the
    network, where that is not its output: an inner layer may be read between a convolution and its norm.

    Returns
    -------
    int
        How many norms were folded; 0 when put back.
    """
    with torch.no_grad():  # not inference_mode: the new weights must be ordinary tensors
        read = network if read is None else read
        before, pairs = norms_of(network, lambda: read(example), (nn.Conv2d,))
        undo = [_fold(network, name, norm, conv) for name, norm, conv in pairs]
        if undo and not agree(before, read(example)):
            # Backwards: of a convolution folded twice, what the first fold kept is the original.
            for (name, norm, conv), (weight, bias) in zip(reversed(pairs), reversed(undo), strict=True):
                conv.weight, conv.bias = nn.Parameter(weight), None if bias is None else nn.Parameter(bias)
                replace(network, name, norm)
            return 0
    return len(undo)


def norms_of(
    network: nn.Module, read: Callable[[], Tensor], kinds: tuple[type[nn.Module], ...]
) -> tuple[Tensor, list[tuple[str, nn.BatchNorm2d, Any]]]:
    """Run a network, and see which module of these kinds each batch norm's input comes from.

    Returns
    -------
    Tensor
        What ``read``, which runs the network, gives.
    list of (str, nn.BatchNorm2d, nn.Module)
        A norm's name, the norm, and the module, the outermost where several give the same; both are called once.
    """
    made_by: dict[int, nn.Module] = {}
    alive: list[Tensor] = []  # keeps outputs, so that no id is used twice
    calls: dict[nn.Module, int] = {}
    pairs: dict[nn.BatchNorm2d, nn.Module | None] = {}

    def after_module(module: nn.Module, _: object, output: Tensor) -> None:
        alive.append(output)
        made_by[id(output)] = module
        calls[module] = calls.get(module, 0) + 1

    def before_norm(module: nn.BatchNorm2d, inputs: tuple[Tensor, ...]) -> None:
        pairs[module] = None if module in pairs else made_by.get(id(inputs[0]))

    hooks = []
    for module in network.modules():
        if isinstance(module, kinds):
            hooks.append(module.register_forward_hook(after_module))
        elif isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            hooks.append(module.register_forward_pre_hook(before_norm))
    try:
        output = read()
    finally:
        for hook in hooks:
            hook.remove()
    names = {module: name for name, module in network.named_modules()}
    found = [(names[norm], norm, made) for norm, made in pairs.items() if made is not None and calls[made] == 1]
    return output, found


def _fold(network: nn.Module, name: str, norm: nn.BatchNorm2d, conv: nn.Conv2d) -> tuple[Tensor, Tensor | None]:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    kept = (conv.weight, conv.bias)
    conv.weight, conv.bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    replace(network, name, activation(norm))
    return kept


def activation(norm: nn.BatchNorm2d) -> nn.Module:
    """Return what is left of a norm once it is folded: timm's may carry the activation."""
    found = getattr(norm, "act", None)
    return found if isinstance(found, nn.Module) else nn.Identity()


def replace(network: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module in the place of the one of this name."""
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, module)


def agree(before: Tensor, after: Tensor) -> bool:
    """Whether two runs differ by no more than rounding."""
    error = (before - after).abs().max()
    return bool(error <= _TOLERANCE * before.abs().max().clamp_min(1e-12))
