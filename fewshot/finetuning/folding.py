"""Batch norms computed inside the convolutions before them while both train: same function, same parameters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fewshot.encoders import activation, agree, norms_of, replace
from fewshot.finetuning.lora import Adapter, lent


class Folded(nn.Module):
    """A convolution and the batch norm after it, whose statistics stay as they are, as one convolution.

    Its weight is made anew at each pass, so that gradients reach the parameters of both. Maps are written and read once
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
        """Return what the norm makes of what the convolution makes of maps (n, c, h, w)."""
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
        return lent(layer, x, self.conv.weight * scale.view(-1, 1, 1, 1), shift)


@contextmanager
def norms_folded(top: nn.Module, maps: Sequence[Tensor]) -> Iterator[None]:
    """While this lasts, batch norms of a network that read a convolution's output are computed inside it.

    Which convolution that is, is seen by running the network, in evaluation mode, on ``maps``, its inputs of one
    picture; the result is compared with the original's, and where they differ nothing is folded. Parameters stay the
    same objects; of what is copied meanwhile, the copies stay folded.
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
        replace(top, names[conv], Folded(conv, norm))

    def put_back() -> None:
        for name, module in undo:
            replace(top, name, module)

    if not agree(before, read()):
        put_back()
    try:
        yield
    finally:
        put_back()
