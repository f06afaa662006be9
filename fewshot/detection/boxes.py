"""Boxes in the pixels of an upright image, and the crops that an encoder sees of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from PIL import Image

DEFAULT_PADDING = 0.1
"""Most networks read the central 87.5 % of an image: with 1/14 on each side they see the whole box, here a bit more."""
LARGEST_CROP = 1024
"""A crop of more pixels a side is scaled down: no encoder reads more, and a chunk of them has to fit into memory."""
_FEWEST_PIXELS = 2


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels of the upright image, (0, 0) being the outer corner of the first pixel.

    Attributes
    ----------
    left, top, right, bottom : float
        A box of the first pixel alone is (0, 0, 1, 1).

    Examples
    --------
    >>> from fewshot.detection import Box
    >>> Box(-5, 10, 20, 30).clipped(100, 25)
    Box(left=0, top=10, right=20, bottom=25)
    """

    left: float
    top: float
    right: float
    bottom: float

    def __post_init__(self) -> None:
        for name in ("left", "top", "right", "bottom"):
            value = getattr(self, name)
            if not math.isfinite(value):
                raise ValueError(f"a box's {name} is a finite number of pixels, not {value!r}")

    @property
    def width(self) -> float:
        """In pixels; negative where right and left are exchanged."""
        return self.right - self.left

    @property
    def height(self) -> float:
        """In pixels."""
        return self.bottom - self.top

    @property
    def xyxy(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom."""
        return self.left, self.top, self.right, self.bottom

    def clipped(self, width: float, height: float) -> Box:
        """Return the part of it inside an image of this size."""
        return Box(max(0, self.left), max(0, self.top), min(width, self.right), min(height, self.bottom))

    def overlaps(self, other: Box) -> bool:
        """Whether they share any area."""
        return (
            min(self.right, other.right) > max(self.left, other.left)
            and min(self.bottom, other.bottom) > max(self.top, other.top)
        )  # fmt: skip

    def why_unusable(self, width: int, height: int) -> str | None:
        """Say why nothing can be cut out of an image of this size; None if something can."""
        if self.width <= 0 or self.height <= 0:
            return f"a box of {self.width:g} x {self.height:g} pixels is empty"
        inside = self.clipped(width, height)
        if inside.width <= 0 or inside.height <= 0:
            return f"it lies outside the image of {width} x {height} pixels"
        if min(inside.width, inside.height) < _FEWEST_PIXELS:
            return f"{inside.width:g} x {inside.height:g} pixels of it lie in the image, too few to recognise anything"
        return None

    def __str__(self) -> str:
        return f"{self.left:g},{self.top:g},{self.width:g},{self.height:g}"


def padded_square(box: Box, width: int, height: int, padding: float) -> tuple[int, int, int, int]:
    """Return what is cut out for a box: a square around it, in whole pixels.

    Its side is the box's longer one and ``padding`` times that on either side. Where it does not fit into the image it
    is moved inside; what is longer than the image is cut off.
    """
    inside = box.clipped(width, height)
    side = max(inside.width, inside.height) * (1 + 2 * padding)
    found = []
    for low, high, size in ((inside.left, inside.right, width), (inside.top, inside.bottom, height)):
        start = min(max(0.0, (low + high - side) / 2), max(0.0, size - side))
        found.append((math.floor(start), min(size, math.ceil(start + side))))
    (left, right), (top, bottom) = found
    return left, top, right, bottom


def crop_box(image: Image.Image, box: Box, padding: float = DEFAULT_PADDING) -> Image.Image:
    """Cut a box out of its upright image, with the square around it, see ``padded_square``.

    Parameters
    ----------
    image : PIL image
    box : Box
    padding : float, default 0.1
        Share of the box's longer side that is added on each side.

    Raises
    ------
    ValueError : for a box that is empty, or lies outside the image.
    """
    reason = box.why_unusable(*image.size)
    if reason is not None:
        raise ValueError(f"box {box}: {reason}")
    crop = image.crop(padded_square(box, *image.size, padding))
    crop.thumbnail((LARGEST_CROP, LARGEST_CROP), Image.Resampling.BICUBIC)
    return crop


def named_crop(image: Image.Image, source: str, box: Box, padding: float) -> Image.Image:
    """Cut a box out under a name that says of which file and box it is; see ``crop_name``."""
    crop = crop_box(image, box, padding)
    crop.filename = crop_name(source, box)  # type: ignore[attr-defined]  # by which media names an image
    return crop


def crop_name(source: str, box: Box) -> str:
    """Return "photo.jpg#xywh=10,20,30,40": left, top, width and height in pixels (W3C, Media Fragments URI 1.0)."""
    return f"{source}#xywh={','.join(f'{round(value, 2):g}' for value in _xywh(box))}"


def check_padding(padding: float) -> float:
    """Return a padding of at least 0 and at most 2.

    Raises
    ------
    ValueError : for another.
    """
    if not 0 <= padding <= 2:
        raise ValueError(f"padding is the share of a box's longer side added around it, in [0, 2], not {padding!r}")
    return float(padding)


def _xywh(box: Box) -> tuple[float, float, float, float]:
    return box.left, box.top, box.width, box.height
