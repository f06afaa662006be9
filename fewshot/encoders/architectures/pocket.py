"""A small residual network for small images, characters and photographs: ``fewshot_pocket``."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from fewshot.encoders.architectures.staged import StagedNet, drawn_for_relu


class _ResidualBlock(nn.Module):
    """Two 3x3 convolutions added to a shortcut; a change of size or width averages and projects the shortcut.

    Parameters
    ----------
    in_chans, out_chans : int
        Channels of the maps that go in and come out.
    stride : int
        1, or 2 to halve both sides of the map.

    References
    ----------
    He, Zhang, Ren & Sun 2016, arXiv:1512.03385, fig. 2 (the block); He et al. 2019, arXiv:1812.01187, fig. 2c (the
    shortcut that averages before it projects) and section 3.1 (the last norm starts at zero).
    """

    def __init__(self, in_chans: int, out_chans: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_chans, out_chans, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_chans)
        self.act1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(out_chans, out_chans, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_chans)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_chans != out_chans:
            self.shortcut = nn.Sequential(
                nn.AvgPool2d(stride, ceil_mode=True, count_include_pad=False) if stride != 1 else nn.Identity(),
                nn.Conv2d(in_chans, out_chans, 1, bias=False),
                nn.BatchNorm2d(out_chans),
            )
        self.act2 = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, in_chans, h, w) to (n, out_chans, ceil(h / stride), ceil(w / stride))."""
        residual = self.act1(self.bn1(self.conv1(x)))
        residual = self.bn2(self.conv2(residual))
        return cast(Tensor, self.act2(residual + self.shortcut(x)))


class PocketNet(StagedNet):
    """A small residual network for small images: 64x64 in, one vector out.

    The stem halves the image once and the first stage keeps that size, so that thin strokes of a glyph survive.

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
    channels, depths : tuple of int
        Width and number of residual blocks of each stage; every stage but the first halves the map.

    References
    ----------
    He, Zhang, Ren & Sun 2016, arXiv:1512.03385, section 4.2 (a residual net for small images); it departs in widths
    and depths, and in the block's shortcut (see ``_ResidualBlock``).
    """

    def __init__(
        self,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        channels: tuple[int, ...] = (32, 64, 160, 384),
        depths: tuple[int, ...] = (1, 1, 2, 1),
    ) -> None:
        super().__init__(in_chans, drop_rate)
        if len(channels) != len(depths):
            raise ValueError(f"channels has {len(channels)} stages and depths {len(depths)}: give one of each a stage")
        self.stem = nn.Sequential(
            nn.Conv2d(in_chans, channels[0], 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(channels[0]),
            nn.ReLU(inplace=True),
        )
        stages = []
        width = channels[0]
        for i, (out_chans, depth) in enumerate(zip(channels, depths, strict=True)):
            blocks = []
            for j in range(depth):
                blocks.append(_ResidualBlock(width, out_chans, stride=2 if i > 0 and j == 0 else 1))
                width = out_chans
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self._complete(list(channels), [2 ** (i + 1) for i in range(len(channels))], num_classes, global_pool)
        self.init_weights()

    def init_weights(self) -> None:
        """Draw convolutions from He's normal distribution and start each residual branch at zero."""
        drawn_for_relu(self)
        for module in self.modules():
            if isinstance(module, _ResidualBlock):
                nn.init.zeros_(module.bn2.weight)
