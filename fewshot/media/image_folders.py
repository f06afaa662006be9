"""Images listed in folders and zips, labelled by the class folder they lie in."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from fewshot.media.images import SUFFIXES, ImageSource, describe
from fewshot.media.zips import ZippedImage, is_outside, zip_members


@dataclass(frozen=True)
class LabelledImages:
    """Images with the class of each, and the files left out because they are no images."""

    images: tuple[ImageSource, ...]
    labels: tuple[str, ...]
    ignored: tuple[str, ...]


def find_images(folder: str | os.PathLike[str]) -> LabelledImages:
    """List a folder's images, also those of its (linked) subfolders, in sorted order; hidden files are left out.

    The label of each is the first folder below ``folder`` that it lies in, "" for those directly inside.
    """
    root = Path(folder)
    if not root.is_dir():
        raise FileNotFoundError(f"no such folder: {root}")
    names = []
    for where, folders, files in os.walk(root, followlinks=True):
        folders[:] = [name for name in folders if not _leads_back(Path(where, name))]
        names += [os.path.relpath(os.path.join(where, name), root) for name in files]
    names.sort()
    found = _labelled([Path(n).as_posix() for n in names if not _blocks(root / n)], lambda name: str(root / name))
    return replace(
        found, ignored=(*found.ignored, *(str(root / n) for n in names if _visible(n) and _blocks(root / n)))
    )


def _blocks(path: Path) -> bool:
    """Whether reading would wait for another program: a pipe, socket or device."""
    return path.exists() and not path.is_file()


def _leads_back(folder: Path) -> bool:
    """Whether a link leads to a folder it lies in, which would be listed without end."""
    return folder.is_symlink() and any(folder.samefile(parent) for parent in folder.absolute().parents)


def labelled_images(place: str | os.PathLike[str]) -> LabelledImages:
    """List the images of a folder, or zip, that holds one subfolder a class.

    Parameters
    ----------
    place : path
        ``place/cat/1.jpg`` is an image of "cat"; ``place/cat/old/2.jpg`` too. In a zip, one folder around the class
        folders is allowed.

    Raises
    ------
    FileNotFoundError : if there is no such folder or zip.
    ValueError : if no class folder holds an image, saying what was found instead.
    """
    if os.path.isdir(place):
        found = find_images(place)
    elif zipfile.is_zipfile(place):
        found = _zipped_images(str(place))
    elif os.path.exists(place):
        raise ValueError(f"{place} is neither a folder nor a zip of class folders")
    else:
        raise FileNotFoundError(f"no such folder or zip: {place}")
    kept = [(image, label) for image, label in zip(found.images, found.labels, strict=True) if label]
    loose = tuple(describe(image) for image, label in zip(found.images, found.labels, strict=True) if not label)
    if not kept:
        held = f"{len(loose)} images but no class folders" if loose else "no images"
        raise ValueError(f"{place} holds {held}; expected one subfolder a class: {place}/<class>/<image>")
    return LabelledImages(tuple(i for i, _ in kept), tuple(label for _, label in kept), found.ignored + loose)


def _zipped_images(archive: str) -> LabelledImages:
    names = zip_members(archive)
    usual = [name for name in names if _visible(name) and _is_image(name) and not is_outside(name)]
    parts = [PurePosixPath(name).parts for name in usual]
    wrapped = len({p[0] for p in parts}) == 1 and all(len(p) > 2 for p in parts)
    return _labelled(names, lambda name: ZippedImage(archive, name), depth=int(wrapped))


def _visible(name: str) -> bool:
    parts = PurePosixPath(name).parts  # ".." in a zip is listed, so that reading it raises
    return not any((part.startswith(".") and not is_outside(part)) or part == "__MACOSX" for part in parts)


def _is_image(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in SUFFIXES


def _labelled(names: Sequence[str], source: Callable[[str], ImageSource], *, depth: int = 0) -> LabelledImages:
    """Separate images from other files, hidden ones left out; a label is the folder ``depth`` levels down."""
    shown = [name for name in names if _visible(name)]
    images = [name for name in shown if _is_image(name)]
    labels = [parts[depth] if len(parts := PurePosixPath(name).parts) > depth + 1 else "" for name in images]
    ignored = [describe(source(name)) for name in shown if not _is_image(name)]
    return LabelledImages(tuple(map(source, images)), tuple(labels), tuple(ignored))
