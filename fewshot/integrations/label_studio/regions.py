"""Regions of an image as Label Studio describes them: rectangles in percent, brush masks as run lengths."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from reprlib import repr as shown
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_MAX_MASK_PIXELS = 2**25
_MAX_MASK_BYTES = 2**22
"""Brush masks of more are refused: decoded, a pixel takes four bytes, and a byte may take a microsecond."""
_LARGEST_NUMBER = 1e6
_CHANNELS = 4
_OPAQUE = 3  # the channel that holds the mask


def crop_region(image: Image.Image, result: Mapping[str, Any]) -> Image.Image:
    """Cut a region out of its upright image.

    Parameters
    ----------
    image : PIL image
    result : mapping
        One result of an annotation. A rectangle's ``value`` holds x, y, width and height in percent of the image, and
        rotation in degrees, clockwise about the corner (x, y): it is turned upright. Of a brush mask, a ``value``
        with ``rle``, the bounding box is cut out. ``image_rotation`` is how the annotator had turned the image.

    Raises
    ------
    ValueError : if the region is empty, lies outside the image, or is no region.
    """
    value = result.get("value")
    if not isinstance(value, Mapping):
        raise ValueError("the region has no value")
    turned = _turned(image, result.get("image_rotation"))
    if "rle" in value:
        return turned.crop(_brush_box(turned, result, value["rle"]))
    return _rectangle(turned, value)


def _turned(image: Image.Image, rotation: object) -> Image.Image:
    """Turn an image as the annotator had it: coordinates are those of the turned one."""
    angle = _number("image_rotation", rotation or 0) % 360
    if angle % 90:
        raise ValueError(f"image_rotation must be a multiple of 90 degrees, not {shown(rotation)}")
    return image.rotate(-angle, expand=True) if angle else image


def _rectangle(image: Image.Image, value: Mapping[str, Any]) -> Image.Image:
    x, y, width, height = (_number(key, value.get(key)) / 100 for key in ("x", "y", "width", "height"))
    angle = _number("rotation", value.get("rotation") or 0) % 360
    x, width = x * image.width, width * image.width
    y, height = y * image.height, height * image.height
    if width <= 0 or height <= 0:
        raise ValueError(f"a region of {width:g} x {height:g} pixels is empty")
    if angle == 0:
        box = (
            max(0, math.floor(x)),
            max(0, math.floor(y)),
            min(image.width, math.ceil(x + width)),
            min(image.height, math.ceil(y + height)),
        )
        if box[0] >= box[2] or box[1] >= box[3]:
            raise ValueError(f"the region {box} lies outside the picture of {image.width} x {image.height} pixels")
        return image.crop(box)
    if math.hypot(width, height) > 2 * math.hypot(image.width, image.height):
        raise ValueError(f"a region of {width:g} x {height:g} pixels is larger than its picture")
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    size = (max(1, round(width)), max(1, round(height)))
    return image.transform(
        size, Image.Transform.AFFINE, (cos, -sin, x, sin, cos, y), resample=Image.Resampling.BILINEAR
    )


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= _LARGEST_NUMBER:
        raise ValueError(f"a region's {name} must be a number up to a million, not {shown(value)}")
    return float(value)


def _brush_box(image: Image.Image, result: Mapping[str, Any], rle: object) -> tuple[int, int, int, int]:
    width, height = result.get("original_width"), result.get("original_height")
    if not isinstance(width, int) or not isinstance(height, int) or width < 1 or height < 1:
        raise ValueError(
            f"a brush stroke needs original_width and original_height, not {shown(width)} and {shown(height)}"
        )
    mask = brush_mask(rle, width, height)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        raise ValueError("the brush stroke is empty")
    across, down = image.width / width, image.height / height
    return (
        math.floor(columns[0] * across),
        math.floor(rows[0] * down),
        math.ceil((columns[-1] + 1) * across),
        math.ceil((rows[-1] + 1) * down),
    )


def brush_mask(rle: object, width: int, height: int) -> NDArray[np.bool_]:
    """Decode a brush mask.

    Parameters
    ----------
    rle : sequence of int
        Bytes. As bits, the highest first: 32 say how many values follow (height x width x 4, an RGBA image row by
        row), 5 the bits of a value less one, 4 x 4 the bits of a length less one. Then come runs: one bit says whether
        a single value is repeated, two which of the four sizes the length has, then the length less one, then the
        value, or as many values as the length says. The fourth channel is the mask.
    width, height : int
        Of the image, in pixels.

    Returns
    -------
    ndarray of shape (height, width), bool

    Raises
    ------
    ValueError : if it is none, of another image, or too large.
    """
    if not isinstance(rle, Sequence) or isinstance(rle, (str, bytes)):
        raise ValueError(f"a brush stroke's rle must be a list of bytes, not {type(rle).__name__}")
    if width * height > _MAX_MASK_PIXELS or len(rle) > _MAX_MASK_BYTES:
        raise ValueError(
            f"a brush stroke of {len(rle):,} bytes on {width} x {height} pixels is over the limit of "
            f"{_MAX_MASK_BYTES:,} bytes and {_MAX_MASK_PIXELS:,} pixels"
        )
    try:
        bits = _Bits(bytes(rle))
    except (TypeError, ValueError):
        raise ValueError("a brush stroke's rle must be a list of whole numbers from 0 to 255") from None
    count = bits.take(32)
    if count != width * height * _CHANNELS:
        raise ValueError(f"a brush stroke of {count} values does not fit its picture of {width} x {height} pixels")
    size = bits.take(5) + 1
    lengths = [bits.take(4) + 1 for _ in range(4)]
    values = np.zeros(count, np.uint8)
    at = 0
    while at < count:
        repeated = bits.take(1)
        length = bits.take(lengths[bits.take(2)]) + 1
        if repeated:
            values[at : at + length] = bits.take(size) != 0
        else:
            values[at : at + length] = bits.nonzero(min(length, count - at), size)
        at += length
    mask: NDArray[np.bool_] = values.reshape(height, width, _CHANNELS)[:, :, _OPAQUE] != 0
    return mask


class _Bits:
    """Bytes read bit by bit."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, count: int) -> int:
        """Return the next ``count`` bits as a number."""
        start, end = self._advance(count)
        number = int.from_bytes(self._data[start // 8 : -(-end // 8)], "big") >> (-end % 8)
        return number & ((1 << count) - 1)

    def nonzero(self, n: int, size: int) -> NDArray[np.bool_]:
        """Return of the next ``n`` values of ``size`` bits which are not zero."""
        start, end = self._advance(n * size)
        bits = np.unpackbits(np.frombuffer(self._data[start // 8 : -(-end // 8)], np.uint8))
        found: NDArray[np.bool_] = bits[start % 8 :][: n * size].reshape(n, size).max(axis=1) != 0
        return found

    def _advance(self, count: int) -> tuple[int, int]:
        start, end = self._at, self._at + count
        if end > 8 * len(self._data):
            raise ValueError(f"a brush stroke of {len(self._data)} bytes ends in the middle")
        self._at = end
        return start, end
