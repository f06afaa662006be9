"""Predicting groups: which examples are of one object, and one answer for each."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from fewshot.cli.example_paths import check_holds_texts, given_examples, registry_medium
from fewshot.cli.output import note, print_json_list, print_result, write
from fewshot.cli.prediction_output import NO_CLASS, OutputFormat
from fewshot.cli.text_rows import listed, read_text_rows
from fewshot.progress import Progress

if TYPE_CHECKING:
    from fewshot.media import Medium, Source
    from fewshot.registry import ClassRegistry, GroupPrediction

FORMATS = ("table", "json", "jsonl", "csv")
# Groups of so many images in all are answered before the next are read.
_IMAGES_AT_ONCE = 256


def grouped_examples(
    registry: ClassRegistry, images: tuple[str, ...], texts: tuple[str, ...], from_csv: str | None, group: str
) -> tuple[list[Source], list[str]]:
    """Return examples, and the group of each: a cell of its row, its folder, or what an expression finds in its path.

    Raises
    ------
    UsageError : for what is no regular expression.
    ValueError : for examples without a group, naming the first.
    """
    medium = registry_medium(registry)
    if from_csv is not None:
        check_holds_texts(registry)
        if len(texts) != 1:
            raise click.UsageError("--from-csv needs the column of texts: --text COLUMN")
        rows = read_text_rows(from_csv, texts[0], group)
        if without := [row.where for row in rows if not row.label.strip()]:
            raise ValueError(f"each text needs a group, but there is nothing in column {group!r} of: {listed(without)}")
        return [row.source for row in rows], [row.label for row in rows]
    if texts:
        raise click.UsageError("--group tells files apart by their paths; of texts with --from-csv it is a column")
    sources = given_examples(registry, images, texts)
    if medium.modality == "text" and any(isinstance(source, str) for source in sources):
        raise ValueError("--group tells files apart by their paths; of texts with --from-csv it is a column")
    return sources, _groups_of_paths(list(map(medium.describe, sources)), group, medium)


def _groups_of_paths(names: Sequence[str], group: str, medium: Medium) -> list[str]:
    if group == "folder":
        return [os.path.dirname(name) or "." for name in names]
    try:
        expression = re.compile(group)
    except re.error as error:
        raise click.UsageError(f"--group {group!r} is neither 'folder' nor a regular expression: {error}") from None
    found = [_found(expression.search(name)) for name in names]
    if without := [name for name, one in zip(names, found, strict=True) if one is None]:
        raise ValueError(
            f"--group {group!r} is not found in {len(without)} of {len(names)} paths, {without[0]!r} for one; each "
            f"{medium.noun} needs a group"
        )
    return [one for one in found if one is not None]


def _found(match: re.Match[str] | None) -> str | None:
    """What the groups of an expression hold, or without any what the whole of it does."""
    if match is None:
        return None
    return "/".join(part for part in match.groups() if part is not None) or match.group()


def predict_groups(
    registry: ClassRegistry,
    sources: Sequence[Source],
    names: Sequence[str],
    output: OutputFormat,
    key: str = "path",
    **asked: Any,
) -> bool:
    """Answer for each group, in the order in which they come; returns whether members could not be read.

    ``key`` is what a member's name is called, ``asked`` is ``ClassRegistry.predict_groups``'s.
    """
    from fewshot.integrations import as_json, formats

    members: dict[str, list[Source]] = {}
    for source, name in zip(sources, names, strict=True):
        members.setdefault(name, []).append(source)
    failed: list[tuple[str, str]] = []
    remarks: set[str] = set()

    def answers() -> Iterator[GroupPrediction]:
        with Progress(len(sources), "predict") as bar:
            for some in _batches(
                members, at_once=len(sources) if registry.classifier.transductive else _IMAGES_AT_ONCE
            ):
                given = [(source, name) for name in some for source in members[name]]
                for one in registry.predict_groups([s for s, _ in given], [name for _, name in given], **asked):
                    failed.extend((failure.source, failure.reason) for failure in one.failed)
                    remarks.update([one.note] if one.note else [])
                    yield _with_texts(one, members[one.group]) if key == "text" else one
                bar.advance(len(given))

    if output.name == "json":
        print_json_list(formats.group_row(one, key) for one in answers())
    elif output.name == "jsonl":
        for one in answers():
            write(as_json(formats.group_row(one, key)) + "\n")
    else:
        rows = [formats.group_row(one, key) for one in answers()]
        print_result([_short(row, shown=output.name == "table") for row in rows])
    for path, reason in failed:
        note(f"no prediction for {path}: {reason}")
    for remark in sorted(remarks):
        note(remark)
    return bool(failed)


def _with_texts(group: GroupPrediction, texts: Sequence[Source]) -> GroupPrediction:
    """Call the members by their whole texts, not by the beginnings of these."""
    members = zip(texts, group.members, strict=True)
    return replace(group, members=tuple((str(text), answer) for text, (_, answer) in members))


def _batches(members: dict[str, list[Any]], at_once: int) -> Iterator[list[str]]:
    """Yield the names of groups that hold so many examples together."""
    batch: list[str] = []
    count = 0
    for name, those in members.items():
        batch.append(name)
        count += len(those)
        if count >= at_once:
            yield batch
            batch, count = [], 0
    if batch:
        yield batch


def _short(row: dict[str, Any], *, shown: bool) -> dict[str, Any]:
    """A group in one line of a table or CSV."""
    if "error" in row:
        return {"group": row["group"], "members": len(row["members"]), "error": row["error"]}
    short = {name: row[name] for name in ("group", "label", "probability", "agreement", "effective_size")}
    if shown:
        short["label"] = row["label"] or NO_CLASS
    second = row["top"][1][0] if row["top"][1:] else None
    short |= {"top_label": row["top"][0][0], "second": second, "unknown_score": row["unknown_score"]}
    return short | {"members": len(row["members"]), "failed": sum("error" in one for one in row["members"])}
