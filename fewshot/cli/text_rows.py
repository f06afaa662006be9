"""Texts and labels from the columns of a CSV or JSON Lines file, or of standard input."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fewshot.cli.output import note

if TYPE_CHECKING:
    from fewshot.datasets import Dataset
    from fewshot.media import TableText

_LONGEST = 16_000_000  # characters of a cell; csv's own limit is 131,072
_LISTED = 20


@dataclass(frozen=True)
class TextRow:
    """A text, its label where a column of labels was asked for, and which row it is, in words."""

    where: str
    text: str
    label: str

    @property
    def source(self) -> TableText:
        """The text as an example, which messages name by its row."""
        from fewshot.media import TableText

        return TableText(self.text, self.where)


def table_options(what: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add ``--from-csv``, ``--text`` and ``--label`` of a command that takes a table of labelled texts as well."""

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in (
            click.option("--label", metavar="COLUMN", help="The column of labels of --from-csv."),
            click.option("--text", metavar="COLUMN", help="The column of texts of --from-csv."),
            click.option("--from-csv", metavar="FILE", help=f"{what} of a .csv, .tsv or .jsonl file, or of - (stdin)."),
        ):
            function = option(function)
        return function

    return add


def read_text_rows(path: str, text: str, label: str | None = None) -> list[TextRow]:
    """Read a column of texts, and of labels, from a .csv, .tsv or .jsonl file in UTF-8; an empty cell is "".

    Parameters
    ----------
    path : str
        "-" is standard input: JSON Lines where it begins with a brace, else CSV, of tabs where its first line has one.

    Raises
    ------
    FileNotFoundError : if there is none.
    ValueError : for a file that is damaged, empty or not UTF-8, or a column that it lacks, naming those it has.
    """
    name = "standard input" if path == "-" else path
    found = []
    try:
        for where, row in _rows(path):
            missing = [column for column in (text, label) if column is not None and column not in row]
            if missing:
                has = f"{', '.join(map(repr, row))}{_hint(row)}"
                raise ValueError(f"{where} has no column {missing[0]!r}; it has {has}")
            of_class = "" if label is None else _cell(row[label])
            found.append(TextRow(f"{name}, {where}", _cell(row[text]), of_class))
    except FileNotFoundError:
        raise FileNotFoundError(f"no such file: {path}") from None
    except IsADirectoryError:
        raise ValueError(f"{path} is a folder, not a table; a folder of texts is added with: --from-folder") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} is not UTF-8 ({error.reason}); save it as UTF-8") from None
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{name}: {error}") from error
    if not found:
        raise ValueError(f"{name} holds no rows")
    return found


def labelled_table(path: str | None, text: str | None, label: str | None) -> Dataset | None:
    """Read the table of ``table_options``, if one is given; rows that repeat an earlier one are left out, and named.

    Raises
    ------
    click.UsageError : for a table without its columns, or columns without a table.
    ValueError : naming the rows without a label, or whose text cannot be read.
    """
    if path is None and text is None and label is None:
        return None
    if path is None or text is None or label is None:
        raise click.UsageError("a table of texts is given as: --from-csv FILE --text COLUMN --label COLUMN")
    from fewshot.datasets import Dataset
    from fewshot.errors import TextError
    from fewshot.media import open_text
    from fewshot.validation import check_label

    kept: dict[tuple[str, str], TextRow] = {}
    wrong, repeated = [], []
    for row in read_text_rows(path, text, label):
        try:
            found = open_text(row.source), check_label(row.label) if row.label.strip() else ""
        except TextError as error:
            wrong.append(f"{row.where}: {error.reason}")
            continue
        except ValueError as error:
            wrong.append(f"{row.where}: {error}")
            continue
        if not found[1]:
            wrong.append(f"{row.where}: has no label")
        elif found in kept:
            repeated.append(f"{row.where} (as {kept[found].where.rpartition(', ')[2]})")
        else:
            kept[found] = row
    if wrong:
        raise ValueError(f"each text needs a label and must be readable: {listed(wrong)}")
    if repeated:
        note(f"left out, for an earlier row has the same text and label: {listed(repeated)}")
    title = "stdin" if path == "-" else Path(path).stem
    labels = tuple(of_class for _, of_class in kept)
    return Dataset(title, tuple(row.source for row in kept.values()), labels, modality="text")


def listed(names: list[str]) -> str:
    """Return names for a message, the first 20 of many."""
    more = f"; and {len(names) - _LISTED:,} more" if len(names) > _LISTED else ""
    return "; ".join(names[:_LISTED]) + more


def _rows(path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    suffix = os.path.splitext(path)[1].lower()
    if path != "-":
        text = Path(path).read_bytes().decode("utf-8-sig")
    else:
        text = sys.stdin.buffer.read().decode("utf-8-sig")
        tabs = "\t" in text.partition("\n")[0]
        suffix = ".jsonl" if text.lstrip()[:1] == "{" else ".tsv" if tabs else ".csv"
    return _json_lines(text) if suffix in (".jsonl", ".ndjson") else _csv(text, "\t" if suffix == ".tsv" else ",")


def _hint(row: Mapping[str, Any]) -> str:
    """Say how cells are separated, where all columns were read as one."""
    joined = len(row) == 1 and any(sign in next(iter(row)) for sign in "\t;|")
    return ". Cells are separated by commas in a .csv, by tabs in a .tsv: save or name it so" if joined else ""


def _cell(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else json.dumps(value)


def _csv(text: str, delimiter: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    csv.field_size_limit(_LONGEST)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    columns = reader.fieldnames or []
    if twice := [name for name in columns if columns.count(name) > 1]:
        raise ValueError(f"it has two columns {twice[0]!r}; rename one")
    number = 0
    try:
        for number, row in enumerate(reader, start=1):
            if None in row:
                raise ValueError(f"row {number} has more cells than there are columns; quote texts that hold commas")
            yield f"row {number}", row
    except csv.Error as error:
        raise ValueError(f"row {number + 1} cannot be read: {error}") from error


def _json_lines(text: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"line {number} is no JSON ({error})") from None
        if not isinstance(row, dict):
            raise ValueError(f"line {number} is no JSON object")
        yield f"line {number}", row
