"""Augmentation of a whole batch at once."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

_THICK_AT = 64  # pixels a side at which strokes are widened by up to 4 steps; fewer at fewer pixels


class Augment:
    """Augments images to (n, 3, size, size), float32 in [0, 1].

    Parameters
    ----------
    generator : torch.Generator
        The only source of randomness; images must be on its device.
    """

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator
        self._device = generator.device

    def __call__(self, kind: str, pixels: Tensor, quarter_turns: Tensor, size: int) -> Tensor:
        """Augment uint8 images (n, 3, h, w), or grey ones (n, 1, h, w), by one of ``recipe.AUGMENTATIONS``."""
        if kind == "photos":
            return self.photos(pixels, size)
        if kind == "glyphs":
            return self.glyphs(pixels, quarter_turns, size)
        return resized(pixels, size)

    def photos(self, pixels: Tensor, size: int) -> Tensor:
        """Crop, flip and recolour photographs."""
        n = len(pixels)
        area, ratio = self._uniform(0.35, 1.0, n), torch.exp(self._uniform(-0.29, 0.29, n))
        area[self._bernoulli(0.2, n)] = 1.0  # some whole images, as sharp as those of later use
        ratio[area == 1.0] = 1.0
        width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
        theta = torch.zeros(n, 2, 3, device=self._device)
        theta[:, 0, 0] = width * torch.where(self._bernoulli(0.5, n), 1.0, -1.0)
        theta[:, 1, 1] = height
        theta[:, 0, 2] = (1 - width) * self._uniform(-1, 1, n)
        theta[:, 1, 2] = (1 - height) * self._uniform(-1, 1, n)
        grid = functional.affine_grid(theta, [n, 3, size, size], align_corners=False)
        x = functional.grid_sample(pixels.float() / 255, grid, padding_mode="reflection", align_corners=False)
        grey = x.mean(1, keepdim=True)
        saturation = self._uniform(0.6, 1.4, n, 1, 1, 1)
        saturation[self._bernoulli(0.1, n)] = 0.0
        x = grey + (x - grey) * saturation
        level = x.mean((1, 2, 3), keepdim=True)
        x = (x - level) * self._uniform(0.6, 1.4, n, 1, 1, 1) + level
        x = x * self._uniform(0.7, 1.3, n, 1, 1, 1) * self._uniform(0.93, 1.07, n, 3, 1, 1)
        return x.clamp_(0, 1)

    def glyphs(self, pixels: Tensor, quarter_turns: Tensor, size: int) -> Tensor:
        """Rotate, distort, thicken, blur and recolour characters, dark on light."""
        ink = (255 - pixels.float()) / 255
        x = functional.grid_sample(ink, self._glyph_grid(ink, quarter_turns, size), align_corners=False)
        x = self._thicken(x, size)
        x = self._soften(x, size)
        return self._paint(x)

    def _uniform(self, low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self._generator, device=self._device) * (high - low) + low

    def _bernoulli(self, share: float, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self._generator, device=self._device) < share

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self._generator, device=self._device)

    def _glyph_grid(self, ink: Tensor, quarter_turns: Tensor, size: int) -> Tensor:
        """Where each output pixel (n, size, size, 2) reads: affine, elastic, and some fitted to the character's box."""
        n = len(ink)
        angle = quarter_turns * (math.pi / 2) + self._uniform(-0.26, 0.26, n)
        shear = self._uniform(-0.25, 0.25, n)
        zoom = torch.exp(self._uniform(-0.25, 0.2, n))
        stretch = torch.exp(self._uniform(-0.15, 0.15, n))
        centre, extent = _boxes(ink)
        fitted = self._bernoulli(0.35, n)
        zoom = torch.where(fitted, extent.amax(1) * self._uniform(1.0, 1.3, n), 1 / zoom)
        centre = torch.where(fitted[:, None], centre, 0.0) + self._uniform(-0.1, 0.1, n, 2)
        cos, sin = torch.cos(angle), torch.sin(angle)
        theta = torch.empty(n, 2, 3, device=self._device)
        theta[:, 0, 0], theta[:, 0, 1] = cos * zoom * stretch, (cos * shear - sin) * zoom / stretch
        theta[:, 1, 0], theta[:, 1, 1] = sin * zoom * stretch, (sin * shear + cos) * zoom / stretch
        theta[:, :, 2] = centre
        grid = functional.affine_grid(theta, [n, 1, size, size], align_corners=False)
        bend = self._normal(n, 2, 5, 5) * self._uniform(0, 0.06, n, 1, 1, 1)
        bend = functional.interpolate(bend, size=(size, size), mode="bicubic", align_corners=True)
        return grid + bend.permute(0, 2, 3, 1)

    def _thicken(self, x: Tensor, size: int) -> Tensor:
        """Widen strokes by 0 to 8 pixels at size 64, most of them a little."""
        steps = (self._uniform(0, 1, len(x)) ** 2 * (4.99 * size / _THICK_AT)).long()
        out = x.clone()
        for step in range(1, int(steps.max()) + 1):
            more = steps >= step
            out[more] = functional.max_pool2d(out[more], 3, stride=1, padding=1)
        return out

    def _soften(self, x: Tensor, size: int) -> Tensor:
        """Downscale three in ten images to 7 to 20 pixels a side and enlarge them again; blur two in ten."""
        part = len(x) // 10
        order = torch.randperm(len(x), generator=self._generator, device=self._device)
        for i, mode in enumerate(("bicubic", "bilinear", "bicubic") if part else ()):
            chosen = order[i * part : (i + 1) * part]
            most = min((20, 20, 10)[i], size)
            side = int(torch.randint(7, most + 1, (), generator=self._generator, device=self._device))
            coarse = functional.interpolate(x[chosen], size=(side, side), mode="area")
            x[chosen] = functional.interpolate(coarse, size=(size, size), mode=mode, align_corners=False).clamp(0, 1)
        chosen = order[3 * part : 5 * part]
        x[chosen] = functional.avg_pool2d(x[chosen], 3, stride=1, padding=1, count_include_pad=False)
        return x

    def _paint(self, x: Tensor) -> Tensor:
        """Give ink and paper their colours: half of the batch black on white, three in ten light on dark."""
        n = len(x)
        varied = self._bernoulli(0.5, n, 1, 1, 1)
        ink = torch.where(varied, self._uniform(0.0, 0.4, n, 1, 1, 1) + self._uniform(-0.05, 0.05, n, 3, 1, 1), 0.0)
        paper = torch.where(varied, self._uniform(0.6, 1.0, n, 1, 1, 1) + self._uniform(-0.05, 0.05, n, 3, 1, 1), 1.0)
        noise = self._normal(*x.shape) * (self._bernoulli(0.2, n, 1, 1, 1) * 0.05)
        x = (x * ink + (1 - x) * paper + noise).clamp_(0, 1)
        return torch.where(self._bernoulli(0.3, n, 1, 1, 1), 1 - x, x)


def resized(pixels: Tensor, size: int) -> Tensor:
    """Images (n, 3 or 1, h, w), uint8, as (n, 3, size, size), float32 in [0, 1]."""
    x = pixels.float() / 255
    if x.shape[-1] != size:
        x = functional.interpolate(x, size=(size, size), mode="bilinear", antialias=True)
    return x.expand(-1, 3, -1, -1)


def _boxes(ink: Tensor) -> tuple[Tensor, Tensor]:
    """Centre and half size (n, 2), x before y, of the ink in (n, 1, h, w), in units where the image is [-1, 1]."""
    size = ink.shape[-1]
    at = (torch.arange(size, device=ink.device) + 0.5) / size * 2 - 1
    centres, extents = [], []
    for axis in (2, 3):  # a maximum down the columns leaves x, along the rows leaves y
        inked = ink.amax(axis).squeeze(1) > 0.5
        blank = ~inked.any(1, keepdim=True)
        low = torch.where(inked | blank, at, 1.0).amin(1)
        high = torch.where(inked | blank, at, -1.0).amax(1)
        centres.append((low + high) / 2)
        extents.append(((high - low) / 2).clamp(min=0.1))
    return torch.stack(centres, 1), torch.stack(extents, 1)
