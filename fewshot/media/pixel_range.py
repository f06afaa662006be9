"""Arrays of any depth scaled to 8 bits."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from fewshot.errors import ImageError

# Of sensors and converters; a file of 16 bits holds one of these.
_DEPTHS = (8, 10, 12, 14, 16)


def eight_bits(array: NDArray[Any], name: str, declared: int | None = None) -> NDArray[np.uint8]:
    """Return an image array as uint8.

    Parameters
    ----------
    array : ndarray
        bool, uint8, uint16, or floats in [0, 1].
    name : str
        For the error.
    declared : int, optional
        The value of uint16 that is white; by default the largest of the fewest bits of 8, 10, 12, 14 and 16 that hold
        all values.

    Raises
    ------
    ImageError : for other values, or if what differs in the array is all one grey in 8 bits.
    """
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    if array.dtype == np.bool_:
        return cast("NDArray[np.uint8]", array.astype(np.uint8) * np.uint8(255))
    if array.dtype.kind not in "iuf":
        raise ImageError(name, f"an array of {array.dtype} is no image: give uint8, uint16, or floats in [0, 1]")
    low, high = array.min(), array.max()
    if array.dtype.kind == "u" and array.dtype.itemsize == 2:
        white = declared or next(2**bits - 1 for bits in _DEPTHS if high < 2**bits)
        scaled = np.minimum(array.astype(np.uint32) * 255 // white, 255).astype(np.uint8)
    elif array.dtype.kind == "f" and low >= 0.0 and high <= 1.0:
        white = 1
        scaled = np.rint(array * 255.0).astype(np.uint8)
    else:
        raise ImageError(name, f"{array.dtype} values from {low} to {high}: give uint8, uint16, or floats in [0, 1]")
    if low < high and scaled.min() == scaled.max():
        raise ImageError(
            name,
            f"its values from {low} to {high} of {white} are all one grey in 8 bits; scale them to the range in which "
            "they differ",
        )
    return scaled
