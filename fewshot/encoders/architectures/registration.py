"""Our networks made known to timm, by importing this: ``timm.create_model("fewshot_pocket", num_classes=0)``."""

from __future__ import annotations

from typing import Any, TypeVar

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model

from fewshot.encoders.architectures.conv4 import Conv4
from fewshot.encoders.architectures.pocket import PocketNet
from fewshot.encoders.architectures.resnet12 import ResNet12
from fewshot.encoders.architectures.staged import StagedNet

__all__ = ["fewshot_conv4", "fewshot_pocket", "fewshot_resnet12"]

N = TypeVar("N", bound=StagedNet)


def _built(kind: type[N], name: str, pretrained: bool, **kwargs: Any) -> N:
    """Build a network of four stages through timm, under its registered name."""
    network: N = build_model_with_cfg(
        kind, name, pretrained, feature_cfg={"out_indices": (0, 1, 2, 3), "flatten_sequential": True}, **kwargs
    )
    return network


def _default_cfg(**overrides: Any) -> dict[str, Any]:
    """How images become input: 64x64, whole image, values of about [-2, 2]."""
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


default_cfgs = generate_default_cfgs(
    {
        "fewshot_conv4.untrained": _default_cfg(first_conv="stages.0.0", fixed_input_size=True),
        "fewshot_pocket.untrained": _default_cfg(),
        "fewshot_resnet12.untrained": _default_cfg(first_conv="stages.0.conv1"),
    }
)


@register_model  # type: ignore[untyped-decorator]
def fewshot_conv4(pretrained: bool = False, **kwargs: Any) -> Conv4:
    """Build Conv-4: 113 thousand parameters, d = 1,024 at 64 pixels, 64 at 28 and 1,600 at 84.

    Parameters
    ----------
    pretrained : bool
        Load weights; only through ``local-dir:``, for no hub holds them.
    **kwargs
        Those of ``Conv4`` and of timm's ``build_model_with_cfg``.
    """
    return _built(Conv4, "fewshot_conv4", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def fewshot_pocket(pretrained: bool = False, **kwargs: Any) -> PocketNet:
    """Build the architecture of the bundled encoder ``pocket``: 2.8 million parameters, d = 384.

    Parameters
    ----------
    pretrained : bool
        Load weights; only through ``local-dir:``, for no hub holds them.
    **kwargs
        Those of ``PocketNet`` and of timm's ``build_model_with_cfg``.
    """
    return _built(PocketNet, "fewshot_pocket", pretrained, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def fewshot_resnet12(pretrained: bool = False, **kwargs: Any) -> ResNet12:
    """Build ResNet-12: 12.4 million parameters, d = 640.

    Parameters
    ----------
    pretrained : bool
        Load weights; only through ``local-dir:``, for no hub holds them.
    **kwargs
        Those of ``ResNet12`` and of timm's ``build_model_with_cfg``.
    """
    return _built(ResNet12, "fewshot_resnet12", pretrained, **kwargs)
