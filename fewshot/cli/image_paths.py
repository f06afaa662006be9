"""The images named on a command line: files, folders, patterns, and paths on standard input."""

from __future__ import annotations

import glob
import os
import sys

from fewshot.cli.output import counted, note


def image_paths(names: tuple[str, ...]) -> list[str]:
    """Files, folders with their subfolders, patterns, and - for paths on standard input; in the order given."""
    from fewshot.media import find_images

    found: list[str] = []
    for name in names:
        if name == "-":
            found += [line.rstrip("\r\n") for line in sys.stdin if line.strip()]
        elif os.path.isdir(name):
            inside = find_images(name)
            note_ignored(inside.ignored)
            found += [str(image) for image in inside.images]
        elif not os.path.exists(name) and any(c in name for c in "*?["):
            found += sorted(glob.glob(name, recursive=True)) or [name]
        else:
            found.append(name)
    if not found:
        raise ValueError(f"no images in {', '.join(names)}")
    return found


def note_ignored(names: tuple[str, ...]) -> None:
    """Name the files of a folder that are not used."""
    if names:
        listed = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        note(f"ignored {counted(len(names), 'file')} that are not images or not in a class folder: {listed}")
