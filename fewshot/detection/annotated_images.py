"""Which image a file of boxes means by a name."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import PurePath, PurePosixPath
from typing import Generic, TypeVar

from fewshot.detection.box_annotations import BoxAnnotations
from fewshot.media import ImageSource, describe, find_images

T = TypeVar("T")


class PathIndex(Generic[T]):
    """Things by a path, found by another path to the same file.

    Two paths belong together if their last parts are equal, the suffix of either left out where it has none; of several
    such, that which shares most of its last folders.

    Parameters
    ----------
    entries : iterable of (path, thing)

    Examples
    --------
    >>> index = PathIndex([("train/a.jpg", 1), ("val/a.jpg", 2)])
    >>> index.find("data/val/a.jpg"), index.find("b.jpg")
    (2, None)
    """

    def __init__(self, entries: Iterable[tuple[str, T]]) -> None:
        self._held: dict[str, list[tuple[PurePosixPath, T]]] = defaultdict(list)
        for path, thing in entries:
            pure = _pure(path)
            entry = (pure, thing)
            for key in {pure.name, pure.stem}:
                self._held[key].append(entry)

    def find(self, path: str) -> T | None:
        """Return what belongs to a path; None if nothing does.

        Raises
        ------
        ValueError : if several may.
        """
        pure = _pure(path)
        near = {id(entry): entry for key in (pure.name, pure.stem) for entry in self._held.get(key, ())}.values()
        exact = [entry for entry in near if entry[0].name == pure.name]
        found = exact or [entry for entry in near if entry[0].name == pure.stem or entry[0].stem == pure.name]
        shared = [_shared(pure, other) for other, _ in found]
        best = [entry for entry, n in zip(found, shared, strict=True) if n == max(shared)]
        if len(best) > 1:
            raise ValueError(f"{path} may be any of {', '.join(str(other) for other, _ in best[:3])}")
        return best[0][1] if best else None


def images_of(annotations: BoxAnnotations, place: str | os.PathLike[str]) -> dict[str, ImageSource | ValueError | None]:
    """Return the image in a folder or zip of each name; None where there is none, an error where there are several.

    Raises
    ------
    FileNotFoundError : if there is no such folder or zip.
    """
    found = find_images(place).images
    index = PathIndex([(describe(image), image) for image in found])
    answer: dict[str, ImageSource | ValueError | None] = {}
    for image in annotations.images:
        try:
            answer[image.name] = index.find(image.name)
        except ValueError as error:
            answer[image.name] = error
    return answer


def _pure(path: str) -> PurePosixPath:
    return PurePosixPath(PurePath(path).as_posix())


def _shared(one: PurePosixPath, other: PurePosixPath) -> int:
    """How many of the folders that two files lie in are the same, counted from the file."""
    count = 0
    for first, second in zip(reversed(one.parts[:-1]), reversed(other.parts[:-1]), strict=False):
        if first != second:
            break
        count += 1
    return count
