"""What a command is given to read: files, folders, zips, patterns, URLs, tables, texts, and standard input."""

from __future__ import annotations

import glob
import io
import os
import sys
import zipfile
from typing import TYPE_CHECKING

import click

from fewshot.cli.output import counted, note
from fewshot.cli.text_rows import read_text_rows

if TYPE_CHECKING:
    from fewshot.media import Medium, Source
    from fewshot.registry import ClassRegistry


def registry_medium(registry: ClassRegistry) -> Medium:
    """Return what a registry holds."""
    from fewshot.media import medium_of

    return medium_of(registry.modality)


def given_examples(
    registry: ClassRegistry, names: tuple[str, ...], texts: tuple[str, ...], from_csv: str | None = None
) -> list[Source]:
    """The texts of a table's column, or texts themselves, and the files named.

    Raises
    ------
    ValueError : for texts where the registry holds something else.
    """
    if texts:
        check_holds_texts(registry)
    if from_csv is not None:
        if len(texts) != 1:
            raise click.UsageError("--from-csv needs the column of texts: --text COLUMN")
        texts = tuple(row.source for row in read_text_rows(from_csv, texts[0]))
    return [*texts, *(example_paths(names, registry_medium(registry)) if names else ())]


def check_holds_texts(registry: ClassRegistry) -> None:
    """Raise ValueError for a registry of images or sounds, with the remedy."""
    medium = registry_medium(registry)
    if medium.modality != "text":
        holds = "is to hold" if registry.is_empty else "holds"
        raise ValueError(
            f"--text gives texts, but {registry.path} {holds} {medium.noun}s, for its encoder reads {medium.noun}s. "
            "Add texts to a registry of their own, made with an encoder of texts: --encoder NAME"
        )


def example_paths(names: tuple[str, ...], medium: Medium) -> list[Source]:
    """Files, those of folders and zips, patterns, URLs, and - for standard input; in the order given."""
    from fewshot.media import find_images, is_url, without_secrets

    found: list[Source] = []
    for name in names:
        if name == "-":
            found += _standard_input(medium)
        elif is_url(name):
            found += _behind_url(name, medium)
        elif os.path.isdir(name) or (os.path.splitext(name)[1].lower() not in medium.suffixes and _is_zip(name)):
            inside = find_images(name, medium.modality)
            note_ignored(inside.ignored, medium)
            found += inside.images
        elif not os.path.exists(name) and any(c in name for c in "*?["):
            found += map(medium.from_path, sorted(glob.glob(name, recursive=True)) or [name])
        else:
            found.append(medium.from_path(name))
            if medium.modality == "text" and not os.path.exists(name):
                note(f"there is no file {name!r}; a text itself is given as: --text TEXT")
    if not found:
        raise ValueError(f"no {medium.noun}s in {', '.join(map(without_secrets, names))}")
    return found


def check_urls(*names: str | None) -> None:
    """Raise MissingExtra for a URL that nothing installed reads, before any work is done."""
    from fewshot.media import check_cloud, is_url

    for name in names:
        if name is not None and is_url(name):
            check_cloud(name)


def _behind_url(url: str, medium: Medium) -> list[Source]:
    """The file of a URL that ends as one does, those that a pattern stands for, or those of a folder."""
    from fewshot.media import find_images, matching, without_secrets

    path = without_secrets(url)
    if os.path.splitext(path)[1].lower() in medium.suffixes and "*" not in path:
        return [medium.from_path(url)]
    if "*" in path:
        return list(map(medium.from_path, matching(url) or [url]))
    if path.startswith(("http://", "https://")) and not path.endswith("/"):  # on the web few things are folders
        return [medium.from_path(url)]
    inside = find_images(url, medium.modality)
    note_ignored(inside.ignored, medium)
    return list(inside.images)


def _is_zip(name: str) -> bool:
    return os.path.isfile(name) and zipfile.is_zipfile(name)


def _standard_input(medium: Medium) -> list[Source]:
    """Texts: one a line. Else one file, if there is a zero byte, which no path has; else a path on each line."""
    data = sys.stdin.buffer.read()
    if medium.modality == "text":
        try:
            return [line.rstrip("\r") for line in data.decode("utf-8-sig").split("\n") if line.strip()]
        except UnicodeDecodeError as error:
            raise ValueError(f"standard input is not UTF-8 (byte {error.start}); give texts as UTF-8") from None
    if b"\0" in data:
        file = io.BytesIO(data)
        file.name = "-"  # type: ignore[attr-defined, unused-ignore]
        return [file]
    return [os.fsdecode(line.rstrip(b"\r")) for line in data.split(b"\n") if line.strip()]


def note_ignored(names: tuple[str, ...], medium: Medium) -> None:
    """Name the files of a folder that are not used."""
    if names:
        listed = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        note(f"ignored {counted(len(names), 'file')}, not {medium.noun}s or not in a class folder: {listed}")
