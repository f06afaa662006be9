"""Networks of this project, known to timm once imported: ``timm.create_model("fewshot_pocket", num_classes=0)``."""

from __future__ import annotations

from typing import Any, cast

from timm.layers.classifier import create_classifier
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models._features import feature_take_indices
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["PocketNet", "fewshot_pocket"]


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


class PocketNet(nn.Module):
    """A small residual network for small pictures: 64x64 in, one vector of ``num_features`` out.

    The stem halves the picture once and the first stage keeps that size, so that thin strokes of a glyph survive.

    Parameters
    ----------
    num_classes : int
        Outputs of the linear classifier; 0 leaves it out, and the network returns its pooled features.
    in_chans : int
        Channels of the picture.
    global_pool : str
        timm's name of the pooling before the classifier; "" keeps the map.
    drop_rate : float
        Share of the pooled features dropped while training.
    channels, depths : tuple of int
        Width and number of residual blocks of each stage; every stage but the first halves the map.

    References
    ----------
    He, Zhang, Ren & Sun 2016, arXiv:1512.03385, section 4.2 (a residual net for small pictures); it departs in widths
    and depths, and in the block's shortcut (see ``_ResidualBlock``).
    """

    def __init__(
        self,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        channels: tuple[int, ...] = (48, 96, 192, 288),
        depths: tuple[int, ...] = (1, 2, 2, 1),
    ) -> None:
        super().__init__()
        if len(channels) != len(depths):
            raise ValueError(f"channels has {len(channels)} stages and depths {len(depths)}: give one of each a stage")
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.drop_rate = drop_rate
        self.stem = nn.Sequential(
            nn.Conv2d(in_chans, channels[0], 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(channels[0]),
            nn.ReLU(inplace=True),
        )
        self.feature_info: list[dict[str, Any]] = []
        stages = []
        width = channels[0]
        for i, (out_chans, depth) in enumerate(zip(channels, depths, strict=True)):
            blocks = []
            for j in range(depth):
                blocks.append(_ResidualBlock(width, out_chans, stride=2 if i > 0 and j == 0 else 1))
                width = out_chans
            stages.append(nn.Sequential(*blocks))
            self.feature_info.append({"num_chs": width, "reduction": 2 ** (i + 1), "module": f"stages.{i}"})
        self.stages = nn.Sequential(*stages)
        self.num_features = width
        self.reset_classifier(num_classes, global_pool)
        self.init_weights()

    def init_weights(self) -> None:
        """Draw convolutions from He's normal distribution and start each residual branch at zero."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, _ResidualBlock):
                nn.init.zeros_(module.bn2.weight)

    def get_classifier(self) -> nn.Module:
        """Return the last linear layer, or an identity where ``num_classes`` is 0."""
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier by a new one, and the pooling where one is named.

        Parameters
        ----------
        num_classes : int
            Outputs of the new classifier; 0 leaves it out.
        global_pool : str, optional
            timm's name of the pooling; the present one stays by default.
        """
        if global_pool is None:
            global_pool = cast(str, self.global_pool.pool_type)
        self.num_classes = num_classes
        like = self.stem[0].weight
        pool, classifier = create_classifier(
            self.num_features, num_classes, pool_type=global_pool, device=like.device, dtype=like.dtype
        )
        self.global_pool: nn.Module = pool.train(self.training)
        self.fc: nn.Module = classifier.train(self.training)
        self.head_hidden_size = self.num_features * cast(Any, pool).feat_mult()

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Return the maps that chosen stages put out, and the last map beside them.

        Parameters
        ----------
        x : Tensor of shape (n, in_chans, h, w)
            Normalised pictures.
        indices : int or list of int, optional
            The last so many stages, or the stages of these numbers (negative ones count from the end); all by default.
        norm : bool
            Without effect, as in timm's residual networks: no norm follows the last stage.
        stop_early : bool
            Leave out the stages after the last one asked for.
        output_fmt : str
            Only "NCHW".
        intermediates_only : bool
            Return the list alone.

        Returns
        -------
        list of Tensor of shape (n, c, h / r, w / r), or (last map, that list)
            c and r are ``num_chs`` and ``reduction`` of the stage's entry in ``feature_info``.

        Raises
        ------
        ValueError : if ``output_fmt`` is not "NCHW".
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt is {output_fmt!r}, but this network's maps come as 'NCHW' only")
        wanted, last = feature_take_indices(len(self.stages), indices)
        x = self.stem(x)
        intermediates = []
        for i, stage in enumerate(self.stages):
            if stop_early and i > last:
                break
            x = stage(x)
            if i in wanted:
                intermediates.append(x)
        return intermediates if intermediates_only else (x, intermediates)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop the stages after the last one asked for, and the classifier, for good.

        Parameters
        ----------
        indices : int or list of int
            As in ``forward_intermediates``.
        prune_norm : bool
            Without effect: no norm follows the last stage.
        prune_head : bool
            Drop the pooling and the classifier; they go in any case where a stage goes.

        Returns
        -------
        list of int
            The numbers of the stages asked for.
        """
        wanted, last = feature_take_indices(len(self.stages), indices)
        pruned = last + 1 < len(self.stages)
        self.stages = self.stages[: last + 1]
        if pruned:
            self.num_features = self.feature_info[last]["num_chs"]
        if prune_head or pruned:
            self.reset_classifier(0, "")
        return list(wanted)

    def forward_features(self, x: Tensor) -> Tensor:
        """Map pictures (n, in_chans, h, w) to the last stage's map (n, num_features, ceil(h / 16), ceil(w / 16))."""
        return cast(Tensor, self.stages(self.stem(x)))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool a map (n, num_features, h, w) to (n, head_hidden_size), and classify it unless ``pre_logits``."""
        x = self.global_pool(x)
        if self.drop_rate:
            x = functional.dropout(x, p=self.drop_rate, training=self.training)
        return x if pre_logits else cast(Tensor, self.fc(x))

    def forward(self, x: Tensor) -> Tensor:
        """Map pictures (n, in_chans, h, w) to (n, num_classes), or to pooled features where ``num_classes`` is 0."""
        return self.forward_head(self.forward_features(x))


def _cfg(**overrides: Any) -> dict[str, Any]:
    """How pictures become input: 64x64, whole picture, values of about [-2, 2]."""
    return {
        "url": "",
        "num_classes": 0,
        "input_size": (3, 64, 64),
        "pool_size": (4, 4),
        "crop_pct": 1.0,
        "crop_mode": "squash",
        "interpolation": "bicubic",
        "mean": (0.5, 0.5, 0.5),
        "std": (0.25, 0.25, 0.25),
        "first_conv": "stem.0",
        "classifier": "fc",
        **overrides,
    }


default_cfgs = generate_default_cfgs({"fewshot_pocket.untrained": _cfg()})


@register_model  # type: ignore[untyped-decorator]
def fewshot_pocket(pretrained: bool = False, **kwargs: Any) -> PocketNet:
    """Build the architecture of the bundled encoder ``pocket``: 2.8 million parameters, d = 288.

    Parameters
    ----------
    pretrained : bool
        Load weights; only through ``local-dir:``, for no hub holds them.
    **kwargs
        Those of ``PocketNet`` and of timm's ``build_model_with_cfg``.
    """
    network: PocketNet = build_model_with_cfg(
        PocketNet,
        "fewshot_pocket",
        pretrained,
        feature_cfg={"out_indices": (0, 1, 2, 3), "flatten_sequential": True},
        **kwargs,
    )
    return network
