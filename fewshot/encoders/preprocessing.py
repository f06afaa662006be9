"""Preprocessing: timm's own resizing and cropping of an image, then normalised pixels."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import takewhile
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fewshot.media import RESAMPLING, ImagePreparation, ImageSource, prepared_pixels

_SETTINGS = ("input_size", "interpolation", "mean", "std", "crop_pct", "crop_mode")
_CROP_SHARE = 0.875  # timm's, where the configuration has none


def data_config(network: nn.Module) -> dict[str, Any]:
    """Return the preprocessing of a network as timm's ``resolve_model_data_config`` does.

    timm, which is slow to import, is asked only where the network's own configuration is incomplete.
    """
    own: dict[str, Any] = getattr(network, "pretrained_cfg", {})
    if all(own.get(key) for key in _SETTINGS):
        return {key: own[key] for key in _SETTINGS}
    from timm.data import resolve_model_data_config

    return dict(resolve_model_data_config(network))


def preparation(config: dict[str, Any]) -> Callable[[ImageSource], NDArray[np.uint8]]:
    """Return the network's own resizing and cropping, as timm's, as a function to uint8 pixels (h, w, 3)."""
    described = _described(config)
    if described is not None:
        return described
    from timm.data import create_transform

    steps = create_transform(**config, is_training=False).transforms
    # As far as to pixels: whole batches are converted to tensors at once.
    steps = list(takewhile(lambda step: not any(kind in type(step).__name__ for kind in ("Tensor", "Numpy")), steps))
    return partial(prepared_pixels, steps=steps, resized_to=_resized_to(steps), crops_centre=_resizes_short_side(steps))


def _described(config: dict[str, Any]) -> ImagePreparation | None:
    """Describe what timm's transforms of a configuration do, if that is to resize and to crop the centre."""
    interpolation, mode = str(config["interpolation"]).lower(), config.get("crop_mode") or "center"
    if interpolation not in RESAMPLING or mode not in ("center", "squash") or set(config) - {*_SETTINGS}:
        return None
    height, width = config["input_size"][-2:]
    share = config.get("crop_pct") or _CROP_SHARE
    scaled = math.floor(height / share), math.floor(width / share)
    if mode == "squash":
        return ImagePreparation(scaled, (height, width), interpolation)
    return ImagePreparation(scaled[0], (height, width), interpolation) if scaled[0] == scaled[1] else None


def _resizes_short_side(steps: list[Any]) -> bool:
    """Whether the first step brings the short side to a size, whatever becomes of the long one, to crop the centre."""
    if not steps:
        return False
    kind, size = type(steps[0]).__name__, getattr(steps[0], "size", ())
    if kind == "Resize":
        return isinstance(size, int) or len(size) == 1
    return kind == "ResizeKeepRatio" and steps[0].longest < 1


def _resized_to(steps: list[Any]) -> int | None:
    """Pixels a side that the first step makes; None if that does not resize."""
    if not steps or "Resize" not in type(steps[0]).__name__:
        return None
    size = steps[0].size
    return size if isinstance(size, int) else int(max(size))


def normalised(pixels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Normalise pixels (n, h, w, 3), uint8: (pixels / 255 - mean) / std as (n, 3, h, w), channels last in memory.

    Computed on rows of 3 w numbers with the constants repeated: broadcasting over the last axis of 3 is ten times
    slower on a CPU.
    """
    n, h, w, channels = pixels.shape
    scale, shift = (1.0 / (255.0 * std)).repeat(w), (-mean / std).repeat(w)
    rows = torch.addcmul(shift, pixels.reshape(n * h, w * channels).float(), scale)
    return rows.view(n, h, w, channels).permute(0, 3, 1, 2)
