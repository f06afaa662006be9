"""Images, texts or sounds listed in folders and zips, labelled by the class folder they lie in."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from fewshot.errors import AmbiguousFolders
from fewshot.media.cloud_files import without_secrets
from fewshot.media.folders import folder_at, is_folder
from fewshot.media.medium import MODALITIES, Medium, Modality, Source, medium_of
from fewshot.media.zips import ZippedImage, is_outside, zip_members
from fewshot.validation import normalised_label

SPLITS: Mapping[str, tuple[str, ...]] = {
    "train": ("base", "meta-train", "training"),
    "val": ("valid", "validation", "meta-val"),
    "test": ("novel", "meta-test", "testing"),
}
"""The usual names of a data set's splits, and their other names."""


@dataclass(frozen=True)
class LabelledImages:
    """Images, texts or sounds with the class of each.

    Attributes
    ----------
    images : tuple of sources
    labels : tuple of str
        In Unicode's composed form (NFC), without blanks at their ends.
    ignored : tuple of str
        Files left out, because they are of another kind or not in a class folder.
    nested : tuple of str
        Folders inside class folders, whose files count for the class.
    modality : {"image", "text", "audio"}
    """

    images: tuple[Any, ...]
    labels: tuple[str, ...]
    ignored: tuple[str, ...]
    nested: tuple[str, ...] = ()
    modality: Modality = "image"


def normalised_name(name: str) -> str:
    """Return a name in lower case, without "-", "_" and blanks."""
    return name.lower().replace("-", "").replace("_", "").replace(" ", "")


_SPLIT_NAMES = {normalised_name(word) for own, others in SPLITS.items() for word in (own, *others)}


def find_images(place: str | os.PathLike[str], modality: Modality | None = "image") -> LabelledImages:
    """List the images, texts or sounds of a folder, also by its URL, or zip, sorted; of (linked) subfolders, too.

    Hidden files are left out. The label of each is the first folder below ``place`` that it lies in, "" for those
    directly inside. None for the modality is as of ``labelled_images``.
    """
    names, source, blocking, medium = _files_of(place, modality)
    found = _listed(names, source, medium)
    labels = [parts[0] if len(parts := PurePosixPath(name).parts) > 1 else "" for name in found]
    ignored = (*_others(names, source, medium), *blocking)
    return LabelledImages(
        tuple(found.values()), tuple(map(normalised_label, labels)), ignored, modality=medium.modality
    )


def _files_of(
    place: str | os.PathLike[str], modality: Modality | None
) -> tuple[list[str], Callable[[str], Source], tuple[str, ...], Medium]:
    """The files below a folder, zip or folder in a zip, by path from it; what reads one; what blocks; the medium."""
    if is_folder(place):
        folder = folder_at(place)
        names, blocking = folder.files()
        medium = medium_of(modality or _modality_of(names))
        return names, lambda name: medium.from_path(folder.file(name)), blocking, medium
    archive, under = _zip_and_folder(os.fspath(place))
    if archive is not None:
        names = [name.removeprefix(under) for name in zip_members(archive) if name.startswith(under)]
        return names, lambda name: ZippedImage(archive, under + name), (), medium_of(modality or _modality_of(names))
    if os.path.exists(place):
        raise ValueError(f"{place} is neither a folder nor a zip of class folders")
    raise FileNotFoundError(f"no such folder or zip: {place}")


def _modality_of(names: Sequence[str]) -> Modality:
    """Images or sounds, whichever there are more of; texts, which may lie beside either, where there are neither."""
    count = {m: sum(_visible(name) and _is_of(name, medium_of(m)) for name in names) for m in MODALITIES}
    if count["audio"] > count["image"]:
        return "audio"
    return "text" if count["text"] and not count["image"] else "image"


def labelled_images(
    place: str | os.PathLike[str], modality: Modality | None = "image", *, nested: bool = False
) -> LabelledImages:
    """List the images, texts or sounds of a folder, its URL, or zip, that holds one subfolder a class.

    The classes are the outermost folders that hold such files themselves; what surrounds all of them is no class.

    Parameters
    ----------
    place : path
        A folder, a zip, a folder in a zip ("photos.zip/train"), or a folder's URL ("s3://bucket/photos"; see
        ``CloudFile``). ``place/cat/1.jpg`` is an image of "cat";
        ``place/cat/old/2.jpg`` too, and so is ``place/photos/cat/1.jpg`` where all images lie in "photos".
    modality : {"image", "text", "audio"} or None, default "image"
        Which files, by their suffixes; None for images or sounds, whichever there are more of, and texts where there
        are neither.
    nested : bool, default False
        Whether labels are paths: ``place/drink/coke/1.jpg`` is an image of "drink/coke", whatever surrounds it.

    Raises
    ------
    FileNotFoundError : if there is no such folder or zip.
    PermissionError, ConnectionError : if a URL cannot be listed.
    AmbiguousFolders : if the subfolders hold no such files but several folders of them, as splits do.
    ValueError : if no class folder holds one, saying what was found instead.
    """
    names, source, blocking, medium = _files_of(place, modality)
    found = _listed(names, source, medium)
    shown = without_secrets(os.fspath(place))
    depth = 0 if nested else _class_depth(shown.rstrip("/"), found, medium)
    labels: list[str] = []
    loose: list[str] = []
    inside: dict[str, None] = {}
    for name, image in found.items():
        parts = PurePosixPath(name).parts
        folders = parts[:-1] if nested else parts[depth:-1][:1]
        label = "/".join(filter(None, map(normalised_label, folders)))
        labels.append(label)
        if not label:
            loose.append(medium.describe(image))
        elif len(parts) > depth + 2 and not nested:
            inside["/".join((shown.rstrip("/"), *parts[:-1]))] = None
    if not any(labels):
        held = f"{len(loose)} {medium.noun}s but no class folders" if loose else f"no {medium.noun}s"
        raise ValueError(f"{shown} holds {held}; expected one subfolder a class: {shown}/<class>/<{medium.noun}>")
    kept = [(image, label) for image, label in zip(found.values(), labels, strict=True) if label]
    ignored = (*_others(names, source, medium), *blocking, *loose)
    return LabelledImages(
        tuple(i for i, _ in kept), tuple(label for _, label in kept), ignored, tuple(inside), medium.modality
    )


def _zip_and_folder(place: str) -> tuple[str | None, str]:
    """The zip that a path is, or leads into, and the folder in it with its "/"; None where there is no zip."""
    path = Path(place)
    for archive in (path, *path.parents):
        if archive.is_file():
            under = path.relative_to(archive).as_posix()
            return (str(archive), "" if under == "." else f"{under}/") if zipfile.is_zipfile(archive) else (None, "")
    return None, ""


def _class_depth(place: str, found: Mapping[str, Source], medium: Medium) -> int:
    """How many folders surround the class folders."""
    folders = {PurePosixPath(name).parts[:-1] for name in found if not is_outside(name)}
    depth = 0
    while (
        folders
        and len({parts[depth] for parts in folders if len(parts) > depth}) == 1
        and min(map(len, folders)) > depth + 1
    ):
        depth += 1
    deeper = {parts[: depth + 2] for parts in folders if len(parts) > depth + 1}
    outer = sorted({parts[depth] for parts in folders if len(parts) > depth})
    if not deeper or any(len(parts) == depth + 1 for parts in folders):
        return depth
    inside = tuple("/".join((place, *next(iter(folders))[:depth], name)) for name in outer)
    if len(outer) > 1 and {normalised_name(name) for name in outer} <= _SPLIT_NAMES:
        raise AmbiguousFolders(place, f"holds splits, {', '.join(outer)}", inside)
    if len(deeper) > len(outer):
        examples = ", ".join("/".join(parts[depth:]) for parts in sorted(deeper)[:3])
        raise AmbiguousFolders(
            place,
            f"holds folders of folders of {medium.noun}s ({examples}), so that either may be the classes",
            inside,
        )
    return depth


def _visible(name: str) -> bool:
    parts = PurePosixPath(name).parts  # ".." in a zip is listed, so that reading it raises
    return not any((part.startswith(".") and not is_outside(part)) or part == "__MACOSX" for part in parts)


def _listed(names: Sequence[str], source: Callable[[str], Source], medium: Medium) -> dict[str, Source]:
    """The files of a medium, hidden ones left out, by their names."""
    return {name: source(name) for name in names if _visible(name) and _is_of(name, medium)}


def _others(names: Sequence[str], source: Callable[[str], Source], medium: Medium) -> tuple[str, ...]:
    return tuple(medium.describe(source(name)) for name in names if _visible(name) and not _is_of(name, medium))


def _is_of(name: str, medium: Medium) -> bool:
    return PurePosixPath(name).suffix.lower() in medium.suffixes
