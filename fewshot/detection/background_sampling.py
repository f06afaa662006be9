"""Boxes of an image's background, at random."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fewshot.detection.boxes import Box, padded_square

_TRIES, _MISSES = 60, 5
_SMALLEST_SIDE = 8


def background_boxes(
    rng: np.random.Generator,
    objects: Sequence[Box],
    sizes: Sequence[tuple[float, float]],
    image_size: tuple[int, int],
    *,
    count: int,
    padding: float,
) -> list[Box]:
    """Draw boxes that overlap, with their padding, none of the objects, and do not overlap each other.

    Parameters
    ----------
    rng : numpy.random.Generator
    objects : sequence of Box
    sizes : sequence of (width, height)
        Of which theirs are drawn; where a size finds no room it is tried at a half and a quarter.
    image_size : (width, height)
    count : int
        How many at most; where there is no room there are fewer.
    padding : float
        As of ``crop_box``.
    """
    found: list[Box] = []
    width, height = image_size
    misses = 0
    while len(found) < count and misses < _MISSES:
        size = sizes[int(rng.integers(len(sizes)))]
        drawn = None
        for share in (1.0, 0.5, 0.25):
            drawn = drawn or _placed(rng, objects, found, (size[0] * share, size[1] * share), (width, height), padding)
        if drawn is None:
            misses += 1
        else:
            found.append(drawn)
    return found


def _placed(
    rng: np.random.Generator,
    objects: Sequence[Box],
    others: Sequence[Box],
    size: tuple[float, float],
    image_size: tuple[int, int],
    padding: float,
) -> Box | None:
    """Return a free place for a box of whole pixels; None if so many tries found none."""
    wide, high = (max(_SMALLEST_SIDE, round(side)) for side in size)
    if wide > image_size[0] or high > image_size[1]:
        return None
    for _ in range(_TRIES):
        left = int(rng.integers(image_size[0] - wide + 1))
        top = int(rng.integers(image_size[1] - high + 1))
        box = Box(left, top, left + wide, top + high)
        seen = Box(*padded_square(box, *image_size, padding))
        if not any(seen.overlaps(one) for one in objects) and not any(box.overlaps(one) for one in others):
            return box
    return None
