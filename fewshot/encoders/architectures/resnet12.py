"""The residual network of few-shot papers: ``fewshot_resnet12``."""

from __future__ import annotations

from itertools import pairwise
from typing import cast

from torch import Tensor, nn

from fewshot.encoders.architectures.staged import StagedNet, drawn_for_relu

_SLOPE = 0.1  # of the leaky ReLUs, below zero


class _Block(nn.Module):
    """Three 3x3 convolutions added to a projected shortcut, then a max pooling that halves the map."""

    def __init__(self, in_chans: int, out_chans: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_chans, out_chans, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_chans)
        self.act1 = nn.LeakyReLU(_SLOPE, inplace=True)
        self.conv2 = nn.Conv2d(out_chans, out_chans, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_chans)
        self.act2 = nn.LeakyReLU(_SLOPE, inplace=True)
        self.conv3 = nn.Conv2d(out_chans, out_chans, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_chans)
        self.shortcut = nn.Sequential(nn.Conv2d(in_chans, out_chans, 1, bias=False), nn.BatchNorm2d(out_chans))
        self.act3 = nn.LeakyReLU(_SLOPE, inplace=True)
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, in_chans, h, w) to (n, out_chans, h // 2, w // 2)."""
        residual = self.act1(self.bn1(self.conv1(x)))
        residual = self.act2(self.bn2(self.conv2(residual)))
        residual = self.bn3(self.conv3(residual))
        return cast(Tensor, self.pool(self.act3(residual + self.shortcut(x))))


class ResNet12(StagedNet):
    """Four residual blocks of three convolutions, each block halving the map; averaged.

    Parameters
    ----------
    num_classes : int
        Outputs of the linear classifier; 0 leaves it out, and the network returns its pooled features.
    in_chans : int
        Channels of the image.
    global_pool : str
        timm's name of the pooling before the classifier; "" keeps the map.
    drop_rate : float
        Share of the pooled features dropped while training.
    channels : tuple of int
        Width of each block.

    References
    ----------
    Oreshkin et al. 2018, arXiv:1805.10123 (the network); Lee et al. 2019, arXiv:1904.03758, section 4.1 (64-160-320-640
    channels, leaky ReLU of 0.1, max pooling); it departs in that no DropBlock drops parts of the maps.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        channels: tuple[int, ...] = (64, 160, 320, 640),
    ) -> None:
        super().__init__(in_chans, drop_rate)
        self.stem = nn.Identity()
        widths = (in_chans, *channels)
        self.stages = nn.Sequential(*(_Block(*pair) for pair in pairwise(widths)))
        self._complete(list(channels), [2 ** (i + 1) for i in range(len(channels))], num_classes, global_pool)
        drawn_for_relu(self)
