"""The images named on a command line: files, folders, zips, patterns, and standard input."""

from __future__ import annotations

import glob
import io
import os
import sys
import zipfile
from typing import TYPE_CHECKING

from fewshot.cli.output import counted, note

if TYPE_CHECKING:
    from fewshot.media import ImageSource


def image_paths(names: tuple[str, ...]) -> list[ImageSource]:
    """Files, the images of folders and zips, patterns, and - for standard input; in the order given."""
    from fewshot.media import SUFFIXES, find_images

    found: list[ImageSource] = []
    for name in names:
        if name == "-":
            found += _standard_input()
        elif os.path.isdir(name) or (os.path.splitext(name)[1].lower() not in SUFFIXES and _is_zip(name)):
            inside = find_images(name)
            note_ignored(inside.ignored)
            found += inside.images
        elif not os.path.exists(name) and any(c in name for c in "*?["):
            found += sorted(glob.glob(name, recursive=True)) or [name]
        else:
            found.append(name)
    if not found:
        raise ValueError(f"no images in {', '.join(names)}")
    return found


def _is_zip(name: str) -> bool:
    return os.path.isfile(name) and zipfile.is_zipfile(name)


def _standard_input() -> list[ImageSource]:
    """One image, if there is a zero byte, which no path has; else a path on each line."""
    data = sys.stdin.buffer.read()
    if b"\0" in data:
        image = io.BytesIO(data)
        image.name = "-"  # type: ignore[attr-defined, unused-ignore]
        return [image]
    return [os.fsdecode(line.rstrip(b"\r")) for line in data.split(b"\n") if line.strip()]


def note_ignored(names: tuple[str, ...]) -> None:
    """Name the files of a folder that are not used."""
    if names:
        listed = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        note(f"ignored {counted(len(names), 'file')}, not images or not in a class folder: {listed}")
