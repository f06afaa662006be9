"""Texts and labels from the columns of a CSV or JSON Lines file."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_LONGEST = 16_000_000  # characters of a cell; csv's own limit is 131,072


@dataclass(frozen=True)
class TextRow:
    """A text, its label where a column of labels was asked for, and which row it is, in words."""

    where: str
    text: str
    label: str


def read_text_rows(path: str, text: str, label: str | None = None) -> list[TextRow]:
    """Read a column of texts, and of labels, from a .csv, .tsv or .jsonl file in UTF-8; an empty cell is "".

    Raises
    ------
    FileNotFoundError : if there is none.
    ValueError : for a file that is damaged, empty or not UTF-8, or a column that it lacks, naming those it has.
    """
    rows = _json_lines if os.path.splitext(path)[1].lower() in (".jsonl", ".ndjson") else _csv
    found = []
    try:
        for where, row in rows(path):
            missing = [name for name in (text, label) if name is not None and name not in row]
            if missing:
                has = f"{', '.join(map(repr, row))}{_hint(row)}"
                raise ValueError(f"{where} has no column {missing[0]!r}; it has {has}")
            of_class = "" if label is None else _cell(row[label])
            found.append(TextRow(f"{path}, {where}", _cell(row[text]), of_class))
    except FileNotFoundError:
        raise FileNotFoundError(f"no such file: {path}") from None
    except IsADirectoryError:
        raise ValueError(f"{path} is a folder, not a table; a folder of texts is added with: --from-folder") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error.reason}); save it as UTF-8") from None
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path}: {error}") from error
    if not found:
        raise ValueError(f"{path} holds no rows")
    return found


def _hint(row: Mapping[str, Any]) -> str:
    """Say how cells are separated, where all columns were read as one."""
    joined = len(row) == 1 and any(sign in next(iter(row)) for sign in "\t;|")
    return ". Cells are separated by commas in a .csv, by tabs in a .tsv: save or name it so" if joined else ""


def _cell(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else json.dumps(value)


def _csv(path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    csv.field_size_limit(_LONGEST)
    delimiter = "\t" if path.lower().endswith(".tsv") else ","
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, delimiter=delimiter, strict=True)
        columns = reader.fieldnames or []
        if twice := [name for name in columns if columns.count(name) > 1]:
            raise ValueError(f"it has two columns {twice[0]!r}; rename one")
        for number, row in enumerate(reader, start=1):
            if None in row:
                raise ValueError(f"row {number} has more cells than there are columns; quote texts that hold commas")
            yield f"row {number}", row


def _json_lines(path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for number, line in enumerate(Path(path).read_text(encoding="utf-8-sig").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"line {number} is no JSON ({error})") from None
        if not isinstance(row, dict):
            raise ValueError(f"line {number} is no JSON object")
        yield f"line {number}", row
