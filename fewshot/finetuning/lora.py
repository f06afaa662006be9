"""Low-rank adapters beside a network's weights.

Not peft's: it requires transformers, accelerate, tokenizers and others for what is some 40 lines here.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

from fewshot.encoders import replace


class Adapter(nn.Module):
    """A linear layer or convolution plus a product of two low-rank matrices, the second of them zero at first.

    Parameters
    ----------
    layer : nn.Linear or nn.Conv2d
        Stays as it is; a convolution's groups must be 1.
    rank : int
        Of the product; at most the layer's own smaller side.

    References
    ----------
    Hu et al. 2021, arXiv:2106.09685, eq. 3, with alpha = rank, so that the product is added as it is; departs from it
    in adapting convolutions too: one of ``rank`` channels and the same window, then one of 1 x 1.
    """

    def __init__(self, layer: nn.Linear | nn.Conv2d, rank: int) -> None:
        super().__init__()
        self.layer = layer
        out, *shape = layer.weight.shape
        rank = min(rank, out, math.prod(shape))
        self.down = nn.Parameter(torch.empty(rank, *shape))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))
        self.up = nn.Parameter(torch.zeros(out, rank))

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output with the sum of both weights."""
        return with_weights(self.layer, x, self.weight, self.layer.bias)

    @property
    def weight(self) -> Tensor:
        """The sum, of the layer's shape."""
        return self.layer.weight + (self.up @ self.down.flatten(1)).view_as(self.layer.weight)


def with_weights(layer: nn.Module, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return a layer's output for another weight and bias, in the input's precision."""
    if not torch.is_autocast_enabled(x.device.type):  # which would do it
        weight, bias = weight.to(x.dtype), None if bias is None else bias.to(x.dtype)
    # The layer's own forward pads as it does; its hooks are called.
    given = {"weight": weight} if bias is None else {"weight": weight, "bias": bias}
    return cast(Tensor, torch.func.functional_call(layer, given, (x,)))


def add_adapters(network: nn.Module, rank: int) -> None:
    """Put an adapter beside each linear layer and ungrouped convolution of a network, and freeze all else."""
    network.requires_grad_(False)
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1):
            replace(network, name, Adapter(module, rank))


def merge_adapters(network: nn.Module) -> None:
    """Add each adapter's product to its layer's weight, and take the adapter away."""
    for name, module in list(network.named_modules()):
        if isinstance(module, Adapter):
            with torch.no_grad():
                module.layer.weight.copy_(module.weight)
            replace(network, name, module.layer)
