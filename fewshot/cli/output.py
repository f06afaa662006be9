"""What a command gives: its result on standard output, messages on standard error, and files."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import click

from fewshot.cli.text_table import as_lines, as_table, printable
from fewshot.integrations import as_json, csv_cell

T = TypeVar("T")

FORMATS = ("table", "json", "jsonl", "csv")
_FORMAT = "fewshot.format"  # in click's context


def format_option(*more: str) -> Callable[[T], T]:
    """Add the option ``--format``, with the formats that a command has beside ``FORMATS``."""
    return click.option(
        "--format",
        type=click.Choice([*FORMATS, *more]),
        expose_value=False,
        callback=_choose,
        help="Output format; by default table on a terminal, json elsewhere.",
    )  # type: ignore[return-value]


def _choose(context: click.Context, _: click.Parameter, value: str | None) -> None:
    context.meta[_FORMAT] = value or ("table" if sys.stdout.isatty() else "json")


def chosen_format() -> str:
    """Return the format of the command that runs."""
    return str(click.get_current_context().meta[_FORMAT])


def print_result(value: Any, records: Sequence[Mapping[str, Any]] | None = None) -> None:
    """Print a command's result in the chosen format.

    Parameters
    ----------
    value : JSON value
        A list of objects, or an object.
    records : list of objects, optional
        What ``table``, ``jsonl`` and ``csv`` show in place of ``value``, one a row.
    """
    name = chosen_format()
    shown = value if records is None else records
    if name == "json":
        print_json(value)
    elif name == "table":
        print_table(as_lines(shown) if isinstance(shown, Mapping) else as_table(shown) if shown else "none\n")
    else:
        rows = [shown] if isinstance(shown, Mapping) else shown
        write("".join(as_json(row) + "\n" for row in rows) if name == "jsonl" else _as_csv(rows))


def _as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a table with a column for each key; lists and objects as JSON in their cells."""
    out = io.StringIO()
    keys = list(dict.fromkeys(key for row in rows for key in row))
    writer = csv.writer(out, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    for cells in ([keys] if keys else []) + [[row.get(key, "") for key in keys] for row in rows]:
        texts = [as_json(cell) if isinstance(cell, (list, tuple, dict)) else cell for cell in cells]
        writer.writerow([csv_cell(cell) if isinstance(cell, str) else cell for cell in texts])
    return out.getvalue()


def print_json(value: Any) -> None:
    """Print a JSON value on one line, with ASCII escapes where the stream's encoding lacks a character."""
    click.echo(_encodable_json(value))


def print_json_list(values: Iterable[Any]) -> None:
    """Print a JSON list on one line, each value as soon as it is there; nothing if the first one raises."""
    opening = "["
    for value in values:
        click.echo(opening + _encodable_json(value), nl=False)
        opening = ", "
    click.echo("]" if opening != "[" else "[]")


def _encodable_json(value: Any) -> str:
    text = as_json(value)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        text = "".join(c if c.isascii() else json.dumps(c)[1:-1] for c in text)  # non-ASCII is in strings only
    return text


def print_table(text: str) -> None:
    """Print lines for people, with escapes where the stream's encoding lacks a character."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    click.echo(text.encode(encoding, "backslashreplace").decode(encoding), nl=False)


def write(text: str) -> None:
    """Write to standard output in UTF-8, whatever its encoding, for it is read by a program."""
    click.echo(text.encode(), nl=False)


def note(message: str) -> None:
    """Print a message on standard error."""
    click.echo(printable(message), err=True)


def exit_if_failed(failed: bool) -> None:
    """End with exit status 1 if some inputs failed."""
    if failed:
        raise click.exceptions.Exit(1)


def counted(n: int, noun: str) -> str:
    """Return "1 file" or "2 files"."""
    return f"{n:,} {noun}" + ("" if n == 1 else "s")


def make_folder(path: str) -> None:
    """Make a folder for output, if it is missing; ValueError where a file is, and for a URL."""
    _check_local(path)
    if os.path.exists(path) and not os.path.isdir(path):
        raise ValueError(f"cannot write {path}/: it is a file; give a folder")
    os.makedirs(path, exist_ok=True)


def check_writable(path: str) -> None:
    """Raise ValueError for an output file whose folder does not exist, before the work rather than after it."""
    _check_local(path)
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        raise ValueError(f"cannot write {path}: there is no folder {folder}")
    if os.path.isdir(path):
        raise ValueError(f"cannot write {path}: it is a folder; give a file")


def _check_local(path: str) -> None:
    from fewshot.media import is_url

    if is_url(path):
        raise ValueError(f"cannot write {path}: URLs are only read; write to this machine, and copy it from there")
