"""What photographs may show of an object that a catalogue shows alone, before a plain background."""

from __future__ import annotations

import zlib

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fewshot.errors import ImageError
from fewshot.media.images import ImageSource, describe, open_image

_SIDE = 256  # pixels of a view; the object is cut out of the image at this size
# The background: the border's median colour, which so many of its pixels have, each channel within so much.
_PLAIN, _TOLERANCE = 0.9, 24
# The object's share of the image.
_SMALLEST, _LARGEST = 0.01, 0.9
_KINDS = ("one", "one", "one", "one", "row", "pile")


def catalogue_views(source: ImageSource) -> list[Image.Image]:
    """Cut an object out of its plain background and paste it on others: alone, in a row and in a pile.

    The same pixels give the same views.

    Parameters
    ----------
    source : image

    Returns
    -------
    list of 6 PIL images of 256 x 256, mode "RGB"

    Raises
    ------
    ImageError : if the background is not plain, or nothing stands before it.

    References
    ----------
    Dwibedi, Misra & Hebert 2017, arXiv:1708.01642 (cut, paste and learn; here the backgrounds are drawn, too).
    """
    shown = _cut_out(open_image(source), describe(source))
    rng = np.random.default_rng(zlib.crc32(shown.tobytes()))
    return [_view(shown, kind, rng) for kind in _KINDS]


def _cut_out(image: Image.Image, name: str) -> Image.Image:
    """Return the object, transparent around it, within the box that it fills."""
    from scipy import ndimage

    image = image.copy()
    image.thumbnail((_SIDE, _SIDE))
    pixels = np.asarray(image).astype(np.int16)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    colour = np.median(border, axis=0)
    plain = float((np.abs(border - colour).max(1) <= _TOLERANCE).mean())
    if plain < _PLAIN:
        raise ImageError(
            name,
            f"no catalogue picture: {plain:.1%} of its border has one colour, {_PLAIN:.0%} are needed; add it without "
            "augment, or the object before a plain background",
        )
    parts, _ = ndimage.label(np.abs(pixels - colour).max(2) <= _TOLERANCE)
    around = np.unique(np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]]))
    shown = ~np.isin(parts, around[around > 0])  # what has the background's colour inside the object is the object's
    if not _SMALLEST < shown.mean() < _LARGEST:
        raise ImageError(
            name,
            f"no catalogue picture: what differs from its background is {shown.mean():.1%} of it, {_SMALLEST:.0%} to "
            f"{_LARGEST:.0%} are needed; add it without augment",
        )
    inner = ndimage.binary_erosion(shown)  # without its seam with the background, where more than that is left
    alpha = ndimage.gaussian_filter((inner if 2 * inner.sum() > shown.sum() else shown).astype(np.float32), 0.7)
    cut = np.dstack([np.asarray(image), (255 * alpha).astype(np.uint8)])
    return Image.fromarray(cut).crop(Image.fromarray(shown).getbbox())


def _view(shown: Image.Image, kind: str, rng: np.random.Generator) -> Image.Image:
    view = _background(rng)
    if kind == "one":
        _paste(view, shown, rng.uniform(0.4, 0.85), rng.uniform(0.35, 0.65, 2), rng)
    elif kind == "row":
        for place in np.linspace(0.125, 0.875, 4).tolist():
            _paste(view, shown, 0.4, np.array([place, rng.uniform(0.4, 0.6)]), rng)
    else:
        for _ in range(5):
            _paste(view, shown, rng.uniform(0.4, 0.55), rng.uniform(0.25, 0.75, 2), rng)
    light = rng.uniform(0.65, 1.2) * rng.uniform(0.9, 1.1, 3)
    return Image.fromarray((np.asarray(view) * light).clip(0, 255).astype(np.uint8))


def _background(rng: np.random.Generator) -> Image.Image:
    """Draw a colour that varies from place to place, coarsely more than finely."""
    drawn = np.broadcast_to(rng.uniform(40, 215, 3), (_SIDE, _SIDE, 3)).astype(np.float32)
    for cells, strength in ((2, 50), (5, 35), (16, 20), (48, 12)):
        grid = rng.normal(0, strength, (cells, cells, 1)) + rng.normal(0, 0.4 * strength, (cells, cells, 3))
        drawn = drawn + np.stack([_enlarged(grid[..., channel]) for channel in range(3)], axis=-1)
    return Image.fromarray(drawn.clip(0, 255).astype(np.uint8))


def _enlarged(grid: NDArray[np.float64]) -> NDArray[np.float32]:
    whole = Image.fromarray(grid.astype(np.float32)).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
    return np.asarray(whole)


def _paste(
    view: Image.Image, shown: Image.Image, size: float, centre: NDArray[np.float64], rng: np.random.Generator
) -> None:
    """Paste the object, turned a little, its longer side this share of the view's, around a centre in [0, 1]."""
    factor = size * _SIDE / max(shown.size)
    width, height = (max(1, round(side * factor)) for side in shown.size)
    turned = shown.resize((width, height), Image.Resampling.LANCZOS).rotate(
        rng.uniform(-20, 20), expand=True, resample=Image.Resampling.BICUBIC
    )
    left, top = (round(at * _SIDE - side / 2) for at, side in zip(centre.tolist(), turned.size, strict=True))
    view.paste(turned, (left, top), turned)
