"""Batch norms fused into the convolutions before them while both train: same function, same parameters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fewshot.encoders import activation, agree, norms_of, replace
from fewshot.finetuning.lora import Adapter, with_weights


class FusedConvNorm(nn.Module):
    """A convolution and the batch norm after it, with fixed statistics, as one convolution.

    Its weight is computed at each pass, so that gradients reach the parameters of both. Maps are written and read once
    instead of twice, forwards and backwards, and fewer of them are kept.

    Parameters
    ----------
    conv : nn.Conv2d or Adapter
        An adapter is one of a convolution.
    norm : nn.BatchNorm2d
    """

    def __init__(self, conv: nn.Conv2d | Adapter, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.conv, self.norm = conv, norm

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised output of the convolution for maps (n, c, h, w)."""
        norm, layer = self.norm, self.conv.layer if isinstance(self.conv, Adapter) else self.conv
        mean, variance = norm.running_mean, norm.running_var
        assert mean is not None
        assert variance is not None
        scale = (variance + norm.eps).rsqrt()
        if norm.affine:
            scale = scale * norm.weight
        shift = (-mean if layer.bias is None else layer.bias - mean) * scale
        if norm.affine:
            shift = shift + norm.bias
        return with_weights(layer, x, self.conv.weight * scale.view(-1, 1, 1, 1), shift)


@contextmanager
def fused_norms(top: nn.Module, maps: Sequence[Tensor]) -> Iterator[None]:
    """Within this context, batch norms of a network that read a convolution's output are fused into it.

    Which convolution that is, is found by running the network, in eval mode, on ``maps``, its inputs of one image; the
    result is compared with the original's, and where they differ nothing is fused. Parameters stay the same objects;
    copies made within the context stay fused.
    """

    def read() -> Tensor:
        with torch.no_grad():
            out: Tensor = top(*(each.clone() for each in maps))  # the network may change its input in place
            return out

    top.eval()
    before, pairs = norms_of(top, read, (nn.Conv2d, Adapter))
    undo: list[tuple[str, nn.Module]] = []
    names = {module: name for name, module in top.named_modules()}
    for name, norm, conv in pairs:
        undo += [(name, norm), (names[conv], conv)]
        replace(top, name, activation(norm))
        replace(top, names[conv], FusedConvNorm(conv, norm))

    def put_back() -> None:
        for name, module in undo:
            replace(top, name, module)

    if not agree(before, read()):
        put_back()
    try:
        yield
    finally:
        put_back()
