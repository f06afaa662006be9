"""Computing in bfloat16 without shifting the features.

Rounding a network's weights one by one shifts its features: activations after a ReLU are positive, so the rounding
errors of a filter add up instead of cancelling, and a folded bias, often far larger than the outputs, loses the most.
On mobilenetv2 with folded batch norms that alone takes the mean cosine to the float32 features to 0.988; rounded as
here it is 0.999. Rounding the activations costs less than 0.001.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from fewshot.encoders.batch_norm_folding import replace


def to_bfloat16(network: nn.Module, device: torch.device) -> nn.Module:
    """Convert a frozen float32 network in place: weights rounded with their errors cancelled, batch norms kept float32.

    On a CPU the convolutions keep float32 biases too.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data = round_cancelling(module.weight.data)
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    exact = _float_bias_convolutions(network) if device.type == "cpu" else []
    network.to(device, torch.bfloat16)
    for norm in norms:
        norm.float()
    for module, bias in exact:
        module.bias = bias
    return network


def round_cancelling(weight: Tensor) -> Tensor:
    """Round to bfloat16 values so that each filter's rounding errors sum to almost nothing.

    Error diffusion from the largest weight to the smallest: what one weight loses is added to the next.

    Parameters
    ----------
    weight : Tensor of shape (o, ...), float32

    Returns
    -------
    Tensor of the same shape, float32, whose values are bfloat16 numbers.
    """
    flat = weight.reshape(weight.shape[0], -1)
    sizes = -flat.abs().cpu().numpy()
    order = torch.from_numpy(np.argsort(sizes, axis=1)).to(weight.device)  # in half the time of torch's on a CPU
    columns = flat.gather(1, order).T.contiguous()
    carried = torch.zeros_like(columns[0])
    for column in columns:
        wanted = column + carried
        torch.sub(wanted, column.copy_(wanted.bfloat16()), out=carried)
    return torch.empty_like(flat).scatter_(1, order, columns.T).reshape(weight.shape)


class _FloatBiasConv2d(nn.Module):
    """A bfloat16 convolution whose bias stays float32, which nn.Conv2d does not allow."""

    def __init__(self, conv: nn.Conv2d, pad: Callable[[Tensor], Tensor] | None) -> None:
        super().__init__()
        for setting in nn.Conv2d.__constants__:  # some networks read them: DaViT its kernel_size
            setattr(self, setting, getattr(conv, setting))
        self.weight = conv.weight
        self.bias: Tensor | None = None
        self._pad = pad
        padding = (0, 0) if pad is not None else conv.padding
        self._settings = (padding, conv.stride, conv.dilation, conv.groups)

    def forward(self, x: Tensor) -> Tensor:
        if self._pad is not None:
            x = self._pad(x)
        out: Tensor = torch.mkldnn_convolution(x, self.weight, self.bias, *self._settings)  # type: ignore[arg-type]
        return out


def _float_bias_convolutions(network: nn.Module) -> list[tuple[_FloatBiasConv2d, Tensor]]:
    if not hasattr(torch, "mkldnn_convolution"):
        return []
    replaced = []
    for name, conv in list(network.named_modules()):
        if not isinstance(conv, nn.Conv2d) or conv.bias is None:
            continue
        known, pad = _padding_of(conv)
        if known:
            new = _FloatBiasConv2d(conv, pad)
            replace(network, name, new)
            replaced.append((new, conv.bias.data))
    return replaced


def _padding_of(conv: nn.Conv2d) -> tuple[bool, Callable[[Tensor], Tensor] | None]:
    """Whether we know how a convolution pads, and the function that does where it is TensorFlow's "same"."""
    if type(conv) is nn.Conv2d:
        return conv.padding_mode == "zeros" and not isinstance(conv.padding, str), None
    from timm.layers import Conv2dSame, pad_same

    if type(conv) is Conv2dSame:
        kernel, stride, dilation = conv.kernel_size, conv.stride, conv.dilation
        return True, lambda x: pad_same(x, kernel, stride, dilation)
    return False, None
