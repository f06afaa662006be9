"""Pictures that are read when used: in a zip that stays open, turned, or behind another library."""

from __future__ import annotations

import os
import threading
import zipfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from fewshot.images import (
    SUFFIXES,
    ImageSource,
    LabelledImages,
    ZippedImage,
    describe,
    find_images,
    image_bytes,
    labelled_images,
    open_image,
)

if TYPE_CHECKING:
    from typing import Any


class LazySource:
    """What ``open_image`` asks of a file object, for a picture that is made at each reading."""

    def seekable(self) -> bool:
        """There is no position: every reading gives the whole picture."""
        return False

    def as_image(self) -> ImageSource:
        """Return itself, typed as what it can be used as."""
        return cast("ImageSource", self)


@dataclass(frozen=True)
class RotatedImage(LazySource):
    """A picture turned counter-clockwise by quarters.

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
        """The picture's name, and the turn."""
        return f"{describe(self.source)} turned by {90 * self.quarter_turns} degrees"

    def __str__(self) -> str:
        return self.name

    def read(self, size: int = -1) -> bytes:
        """Return the turned picture as PNG, whole, whatever ``size`` says.

        Raises
        ------
        ImageError : naming the source, if it cannot be read.
        """
        return image_bytes(np.rot90(np.asarray(open_image(self.source)), self.quarter_turns))


@dataclass(frozen=True)
class ArchivedImage(ZippedImage):
    """A picture in a zip that stays open between readings.

    Opening Omniglot's zip takes 0.2 s, for its list of 33,283 members: too long to do again for each picture.
    """

    def read(self) -> bytes:
        """Return the member's bytes, never more than ``MAX_BYTES`` of them."""
        return read_member(self.archive, self.member)


@lru_cache(maxsize=8)
def _opened(archive: str, *version: int) -> tuple[zipfile.ZipFile, threading.Lock]:
    del version  # only part of the key: the file's time and size, and the process, as a fork shares the file's position
    return zipfile.ZipFile(archive), threading.Lock()


def read_member(archive: str | os.PathLike[str], member: str) -> bytes:
    """Return a file of a zip, which is kept open until it changes on disk."""
    status = os.stat(archive)
    opened, lock = _opened(os.fspath(archive), status.st_mtime_ns, status.st_size, os.getpid())
    with lock:
        return opened.read(member)


def pictures_below(place: Path, under: str) -> dict[str, ImageSource]:
    """Return the pictures in the folder ``under`` of a folder or zip, by their path from ``under``, sorted."""
    if place.is_dir():
        folder = place / under
        found = find_images(folder).images if folder.is_dir() else ()
        return {os.path.relpath(str(image), folder).replace(os.sep, "/"): image for image in found}
    if not zipfile.is_zipfile(place):
        raise ValueError(f"{place} is neither a folder nor a zip, or is damaged; fetch it again")
    with zipfile.ZipFile(place) as opened:
        names = sorted(name for name in opened.namelist() if name.startswith(f"{under}/"))
    return {
        name.removeprefix(f"{under}/"): ArchivedImage(str(place), name)
        for name in names
        if Path(name).suffix.lower() in SUFFIXES
    }


def text_in(place: Path, name: str) -> str:
    """Return a text file of a folder or zip."""
    return ((place / name).read_bytes() if place.is_dir() else read_member(place, name)).decode()


def labelled(place: str | os.PathLike[str]) -> LabelledImages:
    """As ``labelled_images``; a zip's pictures are read from one open file."""
    found = labelled_images(place)
    kept: list[Any] = [
        ArchivedImage(image.archive, image.member) if isinstance(image, ZippedImage) else image
        for image in found.images
    ]
    return LabelledImages(tuple(kept), found.labels, found.ignored)
