"""Pictures decoded once at the encoder's own size, and altered views of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from fewshot.errors import ImageError
from fewshot.media import ImageSource, map_ahead
from fewshot.progress import Progress

# How far a view may go: radians turned, factor scaled, sheared, moved in half picture sides, contrast, brightness.
_TURN, _ZOOM, _SHEAR, _MOVE, _CONTRAST, _BRIGHTNESS = 0.2, 0.2, 0.15, 0.2, 0.4, 0.3
_CHANCE = 0.9
GIB = 2**30


def decode(
    prepare: Callable[[ImageSource], NDArray[np.uint8]], images: Iterable[ImageSource], total: int, memory: float
) -> Tensor:
    """Read pictures as an encoder does, up to uint8 pixels (n, 3, h, w).

    ``memory`` is what they may take, in GiB.

    Raises
    ------
    ImageError : naming the first that cannot be read, and how many cannot.
    ValueError : as soon as the first is read, if all would take more.
    """
    read: list[NDArray[np.uint8]] = []
    failed: list[ImageError] = []
    with Progress(total, "read") as bar:
        for item in map_ahead(prepare, images):
            if isinstance(item, ImageError):
                failed.append(item)
            else:
                read.append(item)
                if (taken := total * item.nbytes / GIB) > memory:
                    raise ValueError(
                        f"{total} pictures take {taken:.2g} GiB as the encoder reads them, more than "
                        f"memory={memory:g} GiB: raise memory or give fewer pictures"
                    )
            bar.advance(1)
    if failed:
        first = failed[0]
        raise ImageError(
            first.source,
            f"{first.reason} ({len(failed)} of the {total} pictures to learn from cannot be read: leave them out)",
        )
    return torch.from_numpy(np.stack(read)).permute(0, 3, 1, 2).contiguous()


def plain(pixels: Tensor) -> Tensor:
    """Pictures (n, 3, h, w), uint8, as float32 in [0, 1]."""
    return pixels.float() / 255


def altered(pixels: Tensor, generator: torch.Generator, *, flip: bool) -> Tensor:
    """One view of each picture: nine in ten moved, turned, scaled and sheared, nine in ten with other light.

    Parameters
    ----------
    pixels : Tensor of shape (n, 3, h, w), uint8
    generator : torch.Generator
    flip : bool
        Mirror half of them.

    Returns
    -------
    Tensor of shape (n, 3, h, w), float32 in [0, 1]

    References
    ----------
    Hu et al. 2022, arXiv:2204.07305, section 3.3 (colour and translation, each with probability 0.9); it departs in
    that pictures are turned, scaled and sheared a little too, and hues stay.
    """
    n = len(pixels)

    def uniform(most: float, *shape: int) -> Tensor:
        drawn = (2 * torch.rand(n, *shape, generator=generator) - 1) * most
        return torch.where(chosen.view(n, *(1 for _ in shape)), drawn, 0.0)

    chosen = torch.rand(n, generator=generator) < _CHANCE
    angle, zoom, shear = uniform(_TURN), uniform(math.log1p(_ZOOM)).exp(), uniform(_SHEAR)
    cos, sin = angle.cos() * zoom, angle.sin() * zoom
    moved = uniform(_MOVE, 2)
    mirror = 1 - 2 * (torch.rand(n, generator=generator) < 0.5 * flip).float()
    rows = [torch.stack([cos * mirror, cos * shear - sin, moved[:, 0]], 1)]
    rows += [torch.stack([sin * mirror, sin * shear + cos, moved[:, 1]], 1)]
    grid = functional.affine_grid(torch.stack(rows, 1), list(pixels.shape), align_corners=False)
    x = functional.grid_sample(plain(pixels), grid, padding_mode="border", align_corners=False)
    chosen = torch.rand(n, generator=generator) < _CHANCE
    level = x.mean((1, 2, 3), keepdim=True)
    x = (x - level) * (1 + uniform(_CONTRAST, 1, 1, 1)) + level
    return (x * (1 + uniform(_BRIGHTNESS, 1, 1, 1))).clamp_(0, 1)
