"""The four-block convolutional network that few-shot papers compare with: ``fewshot_conv4``."""

from __future__ import annotations

from torch import nn

from fewshot.encoders.architectures.staged import StagedNet, drawn_for_relu


class Conv4(StagedNet):
    """Four blocks of a 3x3 convolution, batch norm, ReLU and a max pooling that halves the map; flattened.

    Parameters
    ----------
    num_classes : int
        Outputs of the linear classifier; 0 leaves it out, and the network returns its features.
    in_chans : int
        Channels of the image.
    global_pool : str
        "flatten", as in the paper, or timm's name of a pooling; "" keeps the map.
    drop_rate : float
        Share of the features dropped while training.
    width : int
        Channels of every block.
    img_size : int or (int, int)
        Sides of the image, on which the number of flattened features depends.

    References
    ----------
    Vinyals et al. 2016, arXiv:1606.04080, section 4.1; Snell, Swersky & Zemel 2017, arXiv:1703.05175, section 3.1.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "flatten",
        drop_rate: float = 0.0,
        width: int = 64,
        img_size: int | tuple[int, int] = 64,
    ) -> None:
        super().__init__(in_chans, drop_rate)
        height, across = (img_size, img_size) if isinstance(img_size, int) else img_size
        if min(height, across) < 16:
            raise ValueError(f"Conv-4 halves the image four times, so it needs 16 pixels a side, not {img_size}")
        self._cells = (height // 16) * (across // 16)
        self.stem = nn.Identity()
        self.stages = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(width if i else in_chans, width, 3, padding=1, bias=False),
                    nn.BatchNorm2d(width),
                    nn.ReLU(inplace=True),
                    nn.MaxPool2d(2),
                )
                for i in range(4)
            )
        )
        self._complete([width] * 4, [2, 4, 8, 16], num_classes, global_pool)
        drawn_for_relu(self)

    def _pooling(self, kind: str) -> tuple[nn.Module, int]:
        return (nn.Flatten(1), self.num_features * self._cells) if kind == "flatten" else super()._pooling(kind)
