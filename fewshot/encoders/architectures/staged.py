"""What our networks share: a stem, stages, a pooling, a classifier; and timm's ways to ask for them."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn
from torch.nn import functional


class StagedNet(nn.Module):
    """A convolutional network whose subclass builds ``stem`` and ``stages`` and then calls ``_complete``.

    Attributes
    ----------
    num_features : int
        Channels of the last map.
    head_hidden_size : int
        Numbers that the pooling makes of it, which is what the network returns where ``num_classes`` is 0.
    feature_info : list of dict
        timm's: ``num_chs``, ``reduction`` and ``module`` of each stage.
    """

    stem: nn.Module
    stages: nn.Sequential
    global_pool: nn.Module
    num_features: int
    head_hidden_size: int

    def __init__(self, in_chans: int, drop_rate: float) -> None:
        super().__init__()
        self.in_chans = in_chans
        self.drop_rate = drop_rate
        self.feature_info: list[dict[str, Any]] = []

    def _complete(self, widths: list[int], reductions: list[int], num_classes: int, global_pool: str) -> None:
        """Describe the stages to timm, and add pooling and classifier."""
        self.feature_info = [
            {"num_chs": width, "reduction": reduction, "module": f"stages.{i}"}
            for i, (width, reduction) in enumerate(zip(widths, reductions, strict=True))
        ]
        self.num_features = widths[-1]
        self.reset_classifier(num_classes, global_pool)

    def _pooling(self, kind: str) -> tuple[nn.Module, int]:
        """Make the pooling of that name, and say how many numbers it gives."""
        if kind == "avg":  # as timm's, without its import
            return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(1)), self.num_features
        from timm.layers import SelectAdaptivePool2d

        pool = SelectAdaptivePool2d(pool_type=kind, flatten=bool(kind))
        return pool, self.num_features * cast(int, pool.feat_mult())

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
            timm's name of the pooling, or one of the network's own; "" keeps the map. The present one stays by
            default.
        """
        like = next(self.parameters())
        if global_pool is not None:
            pool, self.head_hidden_size = self._pooling(global_pool)
            self.global_pool = pool.to(like.device, like.dtype).train(self.training)
        self.num_classes = num_classes
        classifier = nn.Linear(self.head_hidden_size, num_classes) if num_classes > 0 else nn.Identity()
        self.fc: nn.Module = classifier.to(like.device, like.dtype).train(self.training)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Tell timm which parameters belong together, from the image to the output.

        Parameters
        ----------
        coarse : bool
            One group a stage; by default one a block, where stages are made of blocks.

        Returns
        -------
        dict
            Patterns of parameter names, for ``timm.models.group_parameters``; what none of them matches is the last
            group: the pooling's parameters and the classifier's.
        """
        of_blocks = all(
            isinstance(stage, nn.Sequential) and all(any(True for _ in block.children()) for block in stage)
            for stage in self.stages
        )
        return {
            "stem": r"^stem",
            "blocks": r"^stages\.(\d+)\.(\d+)" if of_blocks and not coarse else r"^stages\.(\d+)",
        }

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
            Normalised images.
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
        from timm.models._features import feature_take_indices

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
        from timm.models._features import feature_take_indices

        wanted, last = feature_take_indices(len(self.stages), indices)
        pruned = last + 1 < len(self.stages)
        self.stages = self.stages[: last + 1]
        if pruned:
            self.num_features = self.feature_info[last]["num_chs"]
        if prune_head or pruned:
            self.reset_classifier(0, "")
        return list(wanted)

    def forward_features(self, x: Tensor) -> Tensor:
        """Map images (n, in_chans, h, w) to the last stage's map (n, num_features, h / r, w / r)."""
        return cast(Tensor, self.stages(self.stem(x)))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool a map (n, num_features, h, w) to (n, head_hidden_size), and classify it unless ``pre_logits``."""
        x = self.global_pool(x)
        if self.drop_rate:
            x = functional.dropout(x, p=self.drop_rate, training=self.training)
        return x if pre_logits else cast(Tensor, self.fc(x))

    def forward(self, x: Tensor) -> Tensor:
        """Map images (n, in_chans, h, w) to (n, num_classes), or to pooled features where ``num_classes`` is 0."""
        return self.forward_head(self.forward_features(x))


def drawn_for_relu(network: nn.Module) -> None:
    """Draw a network's convolutions from He's normal distribution.

    References
    ----------
    He, Zhang, Ren & Sun 2015, arXiv:1502.01852, section 2.2.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and not module.weight.is_meta:  # without values, drawing imports torch._dynamo
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
