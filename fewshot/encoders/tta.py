"""Flip test-time augmentation: an image is also embedded as the mirror image of its centre."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import interpolate

from fewshot.encoders.encoder import all_or_raise
from fewshot.encoders.timm_encoder import TimmEncoder
from fewshot.media import ImageSource

# Cropped off at each edge, as a share of the side. The flipped centre gains more than the flipped whole
# (benchmarks/README.md, fine-tuning on the support).
_EDGE = 1 / 16


def flipped_centre(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the horizontally flipped centre crop (7/8 of each side) of an image (h, w, 3), uint8, at its size."""
    h, w = pixels.shape[:2]
    top, left = round(h * _EDGE), round(w * _EDGE)
    centre = np.ascontiguousarray(pixels[top : h - top, left : w - left][:, ::-1])
    larger = interpolate(torch.from_numpy(centre).permute(2, 0, 1)[None].float(), (h, w), mode="bilinear")
    found: NDArray[np.uint8] = larger[0].permute(1, 2, 0).round().to(torch.uint8).numpy()
    return found


def encode_flips(
    encoder: TimmEncoder, images: Iterable[ImageSource], *, tta: bool = True, prepared: bool = False
) -> NDArray[np.float32]:
    """Embed n images and their flipped centres: (n, 2, d), or (n, 1, d) without ``tta``.

    ``prepared`` images are what ``encoder.loaded.prepare`` gives.

    Raises
    ------
    ImageError : naming the first image that cannot be read.
    """
    views = (np.asarray, flipped_centre) if tta else (np.asarray,)
    return all_or_raise(encoder.encode_views(images, views, prepared=prepared))
