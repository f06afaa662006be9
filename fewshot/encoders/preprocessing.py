"""Preprocessing: timm's own resizing and cropping of an image, then normalised pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from fewshot.errors import ImageError
from fewshot.media import ImageSource, describe, open_image

# A JPEG is decoded at a half, quarter or eighth of its size where that leaves so many times what the network's own
# resizing makes of it. The vectors' cosine to those of whole images was 0.9996 on average and 0.9985 at the least
# (pocket, 200 photographs of 500 x 375); decoding and resizing 12 megapixels took 0.018 s instead of 0.17.
_REDUCING_GAP = 2
_MOST_RATIO = 16
_SETTINGS = ("input_size", "interpolation", "mean", "std", "crop_pct", "crop_mode")


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
    image_steps = _image_steps(config)
    at_least = _enough(image_steps)
    centre_crops = _resizes_short_side(image_steps)

    def prepare(source: ImageSource) -> NDArray[np.uint8]:
        image: Image.Image = open_image(source, at_least=at_least)
        size = image.size
        try:
            if centre_crops:
                image = _bounded(image)
            for step in image_steps:
                image = step(image)
            return np.asarray(image)
        except (MemoryError, ValueError) as error:
            reason = f"its {size[0]} x {size[1]} pixels cannot be resized ({error or 'not enough memory'}); crop it"
            raise ImageError(describe(source), reason) from error

    return prepare


def _image_steps(config: dict[str, Any]) -> list[Any]:
    """Return timm's transforms of an image, as far as to pixels: whole batches are converted to tensors at once."""
    interpolation = str(config["interpolation"]).upper()
    whole = config.get("crop_mode") == "squash" and config.get("crop_pct") == 1
    if whole and interpolation in Image.Resampling.__members__:
        return [_ResizeBothSides(config["input_size"][1:], Image.Resampling[interpolation])]
    from timm.data import create_transform

    steps = create_transform(**config, is_training=False).transforms
    return list(takewhile(lambda step: not any(kind in type(step).__name__ for kind in ("Tensor", "Numpy")), steps))


class _ResizeBothSides:
    """torchvision's Resize to (height, width), without its import."""

    def __init__(self, size: Sequence[int], resample: Image.Resampling) -> None:
        self.size, self._resample = (size[0], size[1]), resample

    def __call__(self, image: Image.Image) -> Image.Image:
        return image.resize((self.size[1], self.size[0]), self._resample)


def _resizes_short_side(steps: list[Any]) -> bool:
    """Whether the first step brings the short side to a size, whatever becomes of the long one, to crop the centre."""
    if not steps:
        return False
    kind, size = type(steps[0]).__name__, getattr(steps[0], "size", ())
    if kind == "Resize":
        return isinstance(size, int) or len(size) == 1
    return kind == "ResizeKeepRatio" and steps[0].longest < 1


def _bounded(image: Image.Image) -> Image.Image:
    """Crop a strip to its centre, ``_MOST_RATIO`` times as long as wide: resizing it whole could take any memory.

    The long side stays even or odd, so that the centre is the same.
    """
    short, long = sorted(image.size)
    most = _MOST_RATIO * short + (long - _MOST_RATIO * short) % 2
    if long <= most:
        return image
    start = (long - most) // 2
    wide = image.width == long
    box = (start, 0, start + most, short) if wide else (0, start, short, start + most)
    return image.crop(box)


def _enough(steps: list[Any]) -> int | None:
    """Pixels a side that lose nothing that the first step would keep; None if that does not resize."""
    if not steps or "Resize" not in type(steps[0]).__name__:
        return None
    size = steps[0].size
    return _REDUCING_GAP * (size if isinstance(size, int) else max(size))


def normalised(pixels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Normalise pixels (n, h, w, 3), uint8: (pixels / 255 - mean) / std as (n, 3, h, w), channels last in memory.

    Computed on rows of 3 w numbers with the constants repeated: broadcasting over the last axis of 3 is ten times
    slower on a CPU.
    """
    n, h, w, channels = pixels.shape
    scale, shift = (1.0 / (255.0 * std)).repeat(w), (-mean / std).repeat(w)
    rows = torch.addcmul(shift, pixels.reshape(n * h, w * channels).float(), scale)
    return rows.view(n, h, w, channels).permute(0, 3, 1, 2)
