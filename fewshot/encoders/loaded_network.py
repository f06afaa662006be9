"""A network as an encoder computes with it, together with its preprocessing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fewshot.encoders.batch_norm_folding import fuse_batch_norms
from fewshot.encoders.bfloat16 import to_bfloat16
from fewshot.encoders.device import Precision
from fewshot.media import ImageSource


@dataclass(frozen=True)
class LoadedNetwork:
    """The network of a ``TimmEncoder``, converted to its device and precision; frozen, and shared by clones.

    Attributes
    ----------
    network : nn.Module
        In eval mode; on a CPU its batch norms are folded into the convolutions.
    prepare : callable
        From an image source to the uint8 pixels (h, w, 3) that the network reads, resized and cropped.
    mean, std : Tensor of shape (3,), float32
        Of the normalisation, on the device.
    device : torch.device
    precision : {"float32", "bfloat16"}
    parts : tuple of int
        The sizes of the parts of an embedding, whose sum is its size d; the first is the network's own.
    fingerprint : str
        Of the network before its conversion.
    cpu_batch : int
        Images per forward pass on a CPU, where ``batch_size`` is not given.
    """

    network: nn.Module
    prepare: Callable[[ImageSource], NDArray[np.uint8]]
    mean: Tensor
    std: Tensor
    device: torch.device
    precision: Precision
    parts: tuple[int, ...]
    fingerprint: str
    cpu_batch: int

    @property
    def dim(self) -> int:
        """The embedding size d."""
        return sum(self.parts)


def converted(
    network: nn.Module,
    example: Tensor,
    device: torch.device,
    precision: Precision,
    read: Callable[[nn.Module, Tensor], Tensor],
) -> nn.Module:
    """Convert a network to a device and precision, with channels last in memory; the network given is changed.

    On a CPU, batch norms are folded where what is ``read`` of ``example`` (1, 3, h, w) stays the same.
    """
    if device.type == "cpu":  # elsewhere norms cost little, and keeping them keeps their float32 biases
        fuse_batch_norms(network, example, lambda x: read(network, x))
    network = to_bfloat16(network, device) if precision == "bfloat16" else network.to(device)
    for weight in network.parameters():
        if weight.ndim == 4:  # Module.to(memory_format=...) fails where a network has other convolutions too
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)
    return network
