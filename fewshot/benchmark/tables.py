"""A benchmark's rows as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from fewshot.benchmark.result_files import Row
from fewshot.benchmark.runner import PairedDifference

_LEGEND = (
    "Accuracy in percent ± half-width of its 95 % interval over episodes (1.96 sd/√episodes). **Bold**: the best of "
    "its column and table, with all that its paired difference on the same episodes does not show to be worse (95 %, "
    "each pair by itself); nothing is bold where no method is shown to be worse than the best."
)
_SAME = "The interval speaks of other episodes from the same images: for new images it is too narrow."
_BOTH = (
    "The half-width after ± speaks of other episodes from the same images; the one in brackets of new images of these "
    "classes: it is from {} episodes no two of which share an image."
)
_NEW = "No two episodes share an image, so the interval speaks of new images of these classes."


def leaders(accuracies: Mapping[str, NDArray[np.float64]]) -> set[str]:
    """Return the best method and those not significantly worse, by paired differences on the same episodes.

    Empty where no method is significantly worse than the best: then the data show no best.
    """
    if not accuracies:
        return set()
    best = max(accuracies, key=lambda name: float(accuracies[name].mean()))
    worse = {
        name
        for name, values in accuracies.items()
        if name != best and PairedDifference.between(best, accuracies[best], name, values).significant
    }
    return set(accuracies) - worse if worse else set()


def markdown(rows: Sequence[Row], bold: set[tuple[str, str]]) -> str:
    """Write tables of method x setting, inductive and transductive apart.

    Parameters
    ----------
    rows : sequence of Row
    bold : set of (a setting's file, method)
    """
    parts = ["# Results", _LEGEND]
    for _, section in groupby(sorted(rows, key=_by_section), key=_by_section):
        parts += _section(list(section), bold)
    return "\n\n".join(parts) + "\n"


def _by_section(row: Row) -> tuple[str, ...]:
    return row.section


def _section(rows: list[Row], bold: set[tuple[str, str]]) -> list[str]:
    first = rows[0]
    flags = {row.flag for row in rows if row.flag}
    mark = " †" if flags else ""
    parts = [
        f"## {first.data}, {first.encoder}{mark}",
        f"{first.classes:,} classes, {first.examples:,} examples; {first.protocol}. {_meaning(rows)}",
    ]
    for transductive, title in ((False, "Inductive"), (True, "Transductive (all queries of an episode at once)")):
        some = [row for row in rows if row.transductive == transductive]
        if some:
            parts += [f"**{title}**", _table(some, bold)]
    return parts + [f"† {flag}" for flag in sorted(flags)]


def _meaning(rows: list[Row]) -> str:
    """What the section's intervals speak of."""
    if not rows[0].replacement:
        return _NEW
    counts = [row.disjoint_episodes for row in rows if row.disjoint_episodes > 1]
    if not counts:
        return _SAME
    fewest, most = min(counts), max(counts)
    return _BOTH.format(f"{most:,}" if fewest == most else f"{fewest:,} to {most:,}")


def _table(rows: list[Row], bold: set[tuple[str, str]]) -> str:
    columns = sorted({(str(row.ways), str(row.shots)) for row in rows}, key=lambda c: [(len(n), n) for n in c])
    cells = {(row.method, str(row.ways), str(row.shots)): row for row in rows}
    lines = [
        "| method | " + " | ".join(f"{w}-way {s}-shot{' †' * _flagged(rows, w, s)}" for w, s in columns) + " |",
        "| --- |" + " ---: |" * len(columns),
    ]
    for method in dict.fromkeys(row.method for row in rows):
        found = [cells.get((method, *column)) for column in columns]
        lines.append(f"| {method} | " + " | ".join("-" if r is None else _cell(r, bold) for r in found) + " |")
    return "\n".join(lines)


def _flagged(rows: list[Row], ways: str, shots: str) -> bool:
    return any(row.flag for row in rows if (str(row.ways), str(row.shots)) == (ways, shots))


def _cell(row: Row, bold: set[tuple[str, str]]) -> str:
    text = f"{100 * row.accuracy:.2f} ± {100 * row.ci95:.2f}"
    if row.replacement and row.disjoint_episodes > 1:
        text += f" ({100 * row.ci95_disjoint:.2f})"
    return f"**{text}**" if (row.file, row.method) in bold else text
