"""Images read once at the encoder's own size, and augmented views of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from fewshot.errors import ExampleError, ImageError
from fewshot.media import ImageSource, map_ahead
from fewshot.progress import Progress

# Ranges of the augmentation: rotation in radians, scale, shear, translation in half image sides, contrast, brightness.
_ROTATION, _SCALE, _SHEAR, _TRANSLATION, _CONTRAST, _BRIGHTNESS = 0.2, 0.2, 0.15, 0.2, 0.4, 0.3
_PROBABILITY = 0.9
GIB = 2**30


def read_pixels(
    prepare: Callable[[ImageSource], NDArray[np.uint8]], images: Iterable[ImageSource], total: int, memory: float
) -> NDArray[np.uint8]:
    """Read images as an encoder prepares them: (n, h, w, 3).

    ``memory`` is what they may take, in GiB.

    Raises
    ------
    ImageError : naming the first that cannot be read, and how many cannot.
    ValueError : as soon as the first is read, if all would take more.
    """
    read: list[NDArray[np.uint8]] = []
    failed: list[ExampleError] = []
    with Progress(total, "read") as bar:
        for item in map_ahead(prepare, images):
            if isinstance(item, ExampleError):
                failed.append(item)
            else:
                read.append(item)
                if (taken := total * item.nbytes / GIB) > memory:
                    raise ValueError(
                        f"{total} images take {taken:.2g} GiB as the encoder reads them, more than "
                        f"memory={memory:g} GiB: raise memory or give fewer images"
                    )
            bar.advance(1)
    if failed:
        first = failed[0]
        raise ImageError(
            first.source,
            f"{first.reason} ({len(failed)} of the {total} images to learn from cannot be read: leave them out)",
        )
    return np.stack(read)


def scaled(pixels: Tensor) -> Tensor:
    """Scale images (n, 3, h, w), uint8, to float32 in [0, 1]."""
    return pixels.float() / 255


def augmented(pixels: Tensor, generator: torch.Generator, *, flip: bool) -> Tensor:
    """Draw one view of each image: an affine map and a change of contrast and brightness, with probability 0.9 each.

    Parameters
    ----------
    pixels : Tensor of shape (n, 3, h, w), uint8
    generator : torch.Generator
    flip : bool
        Flip half of them horizontally.

    Returns
    -------
    Tensor of shape (n, 3, h, w), float32 in [0, 1]

    References
    ----------
    Hu et al. 2022, arXiv:2204.07305, section 3.3 (colour and translation, each with probability 0.9); departs from it
    in a small rotation, scaling and shear besides, and in hues that stay.
    """
    n = len(pixels)

    def uniform(most: float, *shape: int) -> Tensor:
        drawn = (2 * torch.rand(n, *shape, generator=generator) - 1) * most
        return torch.where(chosen.view(n, *(1 for _ in shape)), drawn, 0.0)

    chosen = torch.rand(n, generator=generator) < _PROBABILITY
    angle, scale, shear = uniform(_ROTATION), uniform(math.log1p(_SCALE)).exp(), uniform(_SHEAR)
    cos, sin = angle.cos() * scale, angle.sin() * scale
    translation = uniform(_TRANSLATION, 2)
    sign = 1 - 2 * (torch.rand(n, generator=generator) < 0.5 * flip).float()
    rows = [torch.stack([cos * sign, cos * shear - sin, translation[:, 0]], 1)]
    rows += [torch.stack([sin * sign, sin * shear + cos, translation[:, 1]], 1)]
    grid = functional.affine_grid(torch.stack(rows, 1), list(pixels.shape), align_corners=False)
    x = functional.grid_sample(scaled(pixels), grid, padding_mode="border", align_corners=False)
    chosen = torch.rand(n, generator=generator) < _PROBABILITY
    level = x.mean((1, 2, 3), keepdim=True)
    x = (x - level) * (1 + uniform(_CONTRAST, 1, 1, 1)) + level
    return (x * (1 + uniform(_BRIGHTNESS, 1, 1, 1))).clamp_(0, 1)
