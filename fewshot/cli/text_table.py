"""A command's result laid out for a terminal: records in columns, an object as one line for each key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from unicodedata import category, east_asian_width


def as_table(records: Sequence[Mapping[str, Any]]) -> str:
    """Return records in columns under their keys; numbers to the right, with as many decimals each."""
    keys = list(dict.fromkeys(key for record in records for key in record))
    columns = [[record.get(key) for record in records] for key in keys]
    cells = [[printable(key), *_column(column)] for key, column in zip(keys, columns, strict=True)]
    numbers = [any(_is_number(item) for item in column) for column in columns]
    return _aligned(list(zip(*cells, strict=True)), numbers)


def as_lines(value: Mapping[str, Any]) -> str:
    """Return an object as one line for each key, and the objects or records in it as indented blocks below theirs."""
    plain = [[printable(key), _cell(item)] for key, item in value.items() if not _is_block(item)]
    blocks = []
    for key, item in value.items():
        if _is_block(item):
            block = as_lines(item) if isinstance(item, Mapping) else as_table(item)
            blocks.append(f"{printable(key)}:\n" + "".join(f"  {line}\n" for line in block.splitlines()))
    return (_aligned(plain, [False, False]) if plain else "") + "".join(blocks)


def printable(text: str) -> str:
    """Escape characters that do not print, so that a file's name cannot control the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def _is_block(item: Any) -> bool:
    if isinstance(item, Mapping):
        return bool(item)
    return isinstance(item, (list, tuple)) and bool(item) and all(isinstance(one, Mapping) for one in item)


def _is_number(item: Any) -> bool:
    return isinstance(item, (int, float)) and not isinstance(item, bool)


def _column(items: Sequence[Any]) -> list[str]:
    decimals = max((len(str(item).partition(".")[2]) for item in items if isinstance(item, float)), default=0)
    return [f"{item:.{decimals}f}" if decimals and _is_number(item) else _cell(item) for item in items]


def _cell(item: Any) -> str:
    if item is None or item == "":
        return "-"
    if isinstance(item, bool):
        return "yes" if item else "no"
    if isinstance(item, (list, tuple, dict)):
        return ", ".join(map(_cell, item)) or "none"
    return printable(str(item)).replace("\n", "\\n")


def _aligned(rows: Sequence[Sequence[str]], to_the_right: Sequence[bool]) -> str:
    widths = [max(map(_width, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        blanks = [" " * (width - _width(cell)) for cell, width in zip(row, widths, strict=True)]
        cells = [b + c if right else c + b for c, b, right in zip(row, blanks, to_the_right, strict=True)]
        lines.append("  ".join(cells).rstrip() + "\n")
    return "".join(lines)


def _width(text: str) -> int:
    """Columns of a terminal: two for a wide character, none for a combining one."""
    return sum(0 if category(c) in ("Mn", "Me") else 1 + (east_asian_width(c) in "WF") for c in text)
