"""Rows of results as Markdown."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewshot.benchmark.result_files import MethodRow, OpenSetRow, R, ResultRow
from fewshot.benchmark.runner import PairedDifference
from fewshot.openset import DEFAULT

_METHODS_LEGEND = (
    "Accuracy in percent ± half-width of its 95 % interval over episodes (1.96 sd/√episodes). **Bold**: the best of "
    "its column and table, and all that their paired difference to it on the same episodes does not show to be worse "
    "(95 %, each pair by itself); nothing is bold where no method is shown to be worse than the best."
)
_SAME_IMAGES = "The interval is for other episodes of the same images: for new images it is too narrow."
_BOTH = (
    "The half-width after ± is for other episodes of the same images; the one in brackets for new images of these "
    "classes: it is from {} episodes no two of which share an image."
)
_NEW_IMAGES = "No two episodes share an image, so the interval is for new images of these classes."
_OPENSET_LEGEND = (
    "Half of the queries are of unknown classes. Percent ± half-width of the 95 % interval over episodes "
    "(1.96 sd/√episodes). AUROC, AUPR: detecting the unknown. Gain: paired difference of the AUROC to the softmax "
    "baseline's. FPR95: unknown queries accepted at the threshold that accepts 95 % of the known (lower is better); "
    "accepted: share of the queries accepted there that are known and correctly classified. OSCR: area under correct "
    "classification of the known over acceptance of the unknown."
)
_OPENSET_COLUMNS: dict[str, Callable[[OpenSetRow], list[float]]] = {
    "AUROC": lambda row: row.metrics["auroc"],
    "gain": lambda row: row.gain,
    "AUPR": lambda row: row.metrics["aupr"],
    "FPR95": lambda row: row.metrics["fpr95"],
    "accepted": lambda row: row.metrics["accepted_accuracy"],
    "OSCR": lambda row: row.metrics["oscr"],
}


def percent(mean: float, half_width: float, *, signed: bool = False) -> str:
    """Write a share, or with ``signed`` a difference, in percent, and its interval's half-width where that is known."""
    return f"{100 * mean:{'+' if signed else ''}.2f}" + ("" if math.isnan(half_width) else f" ± {100 * half_width:.2f}")


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


def method_tables(rows: Sequence[MethodRow], bold: set[tuple[str, str]]) -> str:
    """Write tables of method x setting, one for each data, encoder and protocol, inductive and transductive apart.

    Parameters
    ----------
    rows : sequence of MethodRow
        Sorted by section.
    bold : set of (a setting's file, method)
    """
    parts = ["# Results", _METHODS_LEGEND]
    for first, section in _groups(rows, lambda row: row.section):
        mark = _mark(section)
        parts += [
            f"## {first.data}, {first.encoder}{mark}",
            f"{first.classes:,} classes, {first.examples:,} examples; {first.protocol}. {_meaning(section)}",
        ]
        for transductive, title in ((False, "Inductive"), (True, "Transductive (all queries of an episode at once)")):
            some = [row for row in section if row.transductive == transductive]
            if some:
                parts += [f"**{title}**", _method_table(some, bold)]
        parts += _flags(section)
    return _joined(parts)


def openset_tables(rows: Sequence[OpenSetRow]) -> str:
    """Write one table of unknown scores for each setting of rows sorted by setting, the best by AUROC first."""
    parts = ["# Open-set recognition", _OPENSET_LEGEND]
    columns = _OPENSET_COLUMNS.values()
    for first, setting in _groups(rows, lambda row: row.file):
        others = f"background {first.background}" if first.background else "no background"
        if first.center is not None:
            others += f", but the centre of {first.center} classes that ships for the encoder"
        body = [
            [row.score + " (default)" * (row.score == DEFAULT), *(percent(*of(row)) for of in columns)]
            for row in sorted(setting, key=lambda row: -row.metrics["auroc"][0])
        ]
        parts += [
            f"## {first.data}, {first.encoder}, {first.ways}-way {first.shots}-shot{_mark(setting)}",
            f"{first.protocol}; {others}. Known queries correctly classified, none rejected: "
            f"{100 * first.accuracy:.2f} %.",
            _table(["score", *_OPENSET_COLUMNS], body),
            *_flags(setting),
        ]
    return _joined(parts)


def _groups(rows: Sequence[R], key: Callable[[R], Any]) -> Iterator[tuple[R, list[R]]]:
    """Each run of rows of one key, and the first of them."""
    for _, group in groupby(rows, key=key):
        some = list(group)
        yield some[0], some


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *body]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _mark(rows: Sequence[ResultRow]) -> str:
    return " †" * any(row.flag for row in rows)


def _flags(rows: Sequence[ResultRow]) -> list[str]:
    return [f"† {flag}" for flag in sorted({row.flag for row in rows if row.flag})]


def _joined(parts: Sequence[str]) -> str:
    return "\n\n".join(parts) + "\n"


def _meaning(rows: list[MethodRow]) -> str:
    """What the section's intervals are for."""
    if not rows[0].replacement:
        return _NEW_IMAGES
    counts = [row.disjoint_episodes for row in rows if row.disjoint_episodes > 1]
    if not counts:
        return _SAME_IMAGES
    fewest, most = min(counts), max(counts)
    return _BOTH.format(f"{most:,}" if fewest == most else f"{fewest:,} to {most:,}")


def _method_table(rows: list[MethodRow], bold: set[tuple[str, str]]) -> str:
    columns: dict[tuple[str, str], dict[str, MethodRow]] = {}
    for row in rows:
        columns.setdefault((str(row.ways), str(row.shots)), {})[row.method] = row
    settings = sorted(columns, key=lambda setting: [(len(n), n) for n in setting])
    head = [f"{ways}-way {shots}-shot{_mark(list(columns[ways, shots].values()))}" for ways, shots in settings]
    body = [
        [method, *(_cell(columns[setting].get(method), bold) for setting in settings)]
        for method in dict.fromkeys(row.method for row in rows)
    ]
    return _table(["method", *head], body)


def _cell(row: MethodRow | None, bold: set[tuple[str, str]]) -> str:
    if row is None:
        return "-"
    text = percent(row.accuracy, row.ci95)
    if row.replacement and row.disjoint_episodes > 1:
        text += f" ({100 * row.ci95_disjoint:.2f})"
    return f"**{text}**" if (row.file, row.method) in bold else text
