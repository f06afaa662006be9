"""Strided depthwise convolutions in float32, where their backward pass in bfloat16 is slow: on a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

_LEFT = "_left_autocast"


@contextmanager
def strided_in_float32(top: nn.Module) -> Iterator[None]:
    """Within this context, strided depthwise convolutions leave CPU autocast where gradients are enabled.

    PyTorch's CPU kernels take 3 to 30 times longer for their backward pass in bfloat16 than in float32. Copies made
    within the context do the same. On other devices nothing changes.
    """
    strided = [
        module
        for module in top.modules()
        if isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1 and max(module.stride) > 1
    ]
    handles = [module.register_forward_pre_hook(_leave) for module in strided]
    handles += [module.register_forward_hook(_enter_again, always_call=True) for module in strided]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for module in strided:
            module.__dict__.pop(_LEFT, None)


def _leave(module: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
    left = torch.is_grad_enabled() and given[0].device.type == "cpu" and torch.is_autocast_enabled("cpu")
    module.__dict__[_LEFT] = left  # a replica is used by one thread only
    if not left:
        return None
    torch.set_autocast_enabled("cpu", False)
    return tuple(each.float() for each in given)


def _enter_again(module: nn.Module, given: Any, output: Tensor | None) -> Tensor | None:
    if not module.__dict__[_LEFT]:
        return None
    torch.set_autocast_enabled("cpu", True)
    return None if output is None else output.to(torch.get_autocast_dtype("cpu"))
