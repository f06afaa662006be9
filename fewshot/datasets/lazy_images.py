"""Images computed when read: rotated ones; and the files of a folder or zip alike."""

from __future__ import annotations

import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np

from fewshot.media import (
    SUFFIXES,
    ImageSource,
    ZippedImage,
    describe,
    find_images,
    image_bytes,
    open_image,
    read_member,
    zip_members,
)


class LazySource:
    """A file object, as ``open_image`` takes one, whose image is computed at each reading."""

    def seekable(self) -> bool:
        """Return False: every reading gives the whole image."""
        return False

    def as_image(self) -> ImageSource:
        """Return itself, typed as an image source."""
        return cast("ImageSource", self)


@dataclass(frozen=True)
class RotatedImage(LazySource):
    """An image rotated counter-clockwise by quarter turns.

    Attributes
    ----------
    source : image source
    quarter_turns : int
        1 is a quarter turn counter-clockwise, as ``numpy.rot90`` and Pillow turn.
    """

    source: ImageSource
    quarter_turns: int

    @property
    def name(self) -> str:
        """The image's name, and the rotation."""
        return f"{describe(self.source)} rotated by {90 * self.quarter_turns} degrees"

    def __str__(self) -> str:
        return self.name

    def read(self, size: int = -1) -> bytes:
        """Return the rotated image as PNG, whole, whatever ``size`` says.

        Raises
        ------
        ImageError : naming the source, if it cannot be read.
        """
        return image_bytes(np.rot90(np.asarray(open_image(self.source)), self.quarter_turns))


def images_below(place: Path, under: str) -> dict[str, ImageSource]:
    """Return the images in the folder ``under`` of a folder or zip, by their path from ``under``, sorted."""
    if place.is_dir():
        folder = place / under
        found = find_images(folder).images if folder.is_dir() else ()
        return {os.path.relpath(str(image), folder).replace(os.sep, "/"): image for image in found}
    if not zipfile.is_zipfile(place):
        raise ValueError(f"{place} is neither a folder nor a zip, or is damaged; fetch it again")
    names = [name for name in zip_members(place) if name.startswith(f"{under}/")]
    return {
        name.removeprefix(f"{under}/"): ZippedImage(str(place), name)
        for name in names
        if Path(name).suffix.lower() in SUFFIXES
    }


def text_in(place: Path, name: str) -> str:
    """Return a text file of a folder or zip."""
    return ((place / name).read_bytes() if place.is_dir() else read_member(place, name)).decode()
