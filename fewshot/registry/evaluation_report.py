"""An evaluation as one HTML file that needs nothing else."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from fewshot.diagnosis import Share
from fewshot.files import replacing
from fewshot.media import medium_of
from fewshot.registry.evaluation_charts import (
    calibration_error,
    rejection_chart,
    rejection_curve,
    reliability_bins,
    reliability_chart,
)
from fewshot.registry.evaluation_tables import MOST_CLASSES, confusion_table
from fewshot.registry.report_charts import interval_bar, meter
from fewshot.registry.report_examples import ExampleViews
from fewshot.registry.report_page import report_page

if TYPE_CHECKING:
    from fewshot.registry.evaluation_results import Evaluation, Judged
    from fewshot.registry.registry import ClassRegistry

FILE = "evaluation.html"
_MOST_ITEMS, _MOST_ROWS = 24, 500


def write_evaluation_report(registry: ClassRegistry, found: Evaluation, folder: str | os.PathLike[str]) -> str:
    """Write ``evaluation.html`` into a folder that exists; returns its path.

    Of the errors the 24 most confident are shown, of the right answers the 24 least confident, of the classes 500.
    Nearest examples are there where the evaluation names them.

    Raises
    ------
    ValueError : if nothing was evaluated.
    """
    if not found.rows:
        raise ValueError("nothing was evaluated, so there is nothing to report")
    path = os.path.join(folder, FILE)
    page = _Page(registry, found).html()
    with replacing(path) as partial:
        Path(partial).write_text(page, encoding="utf-8")
    return path


class _Page:
    """The page of an evaluation, part by part."""

    def __init__(self, registry: ClassRegistry, found: Evaluation) -> None:
        self._name, self._found, self._medium = registry.path, found, medium_of(registry.modality)
        self._views = ExampleViews(registry, registry.modality)

    def html(self) -> str:
        """Return all of it."""
        found, right = self._found, [row for row in self._found.rows if row.correct]
        wrong = [row for row in found.rows if not row.correct]
        parts = (
            self._facts(),
            self._confusions(),
            self._items("errors", "Most confident errors", sorted(wrong, key=_confidence, reverse=True), _ERRORS),
            self._items("doubtful", "Least confident hits", sorted(right, key=_confidence), _HITS),
            self._classes(),
        )
        name = os.path.basename(self._name)
        classes = len({row.label for row in found.rows})
        about = f"{self._medium.counted(found.n)} of {classes:,} {'class' if classes == 1 else 'classes'}"
        return report_page(
            f"Evaluation: {name}", name, about, self._notes(), "".join(parts), self._medium.modality, _METHOD
        )

    def _notes(self) -> list[str]:
        found, noun = self._found, self._medium.noun
        notes = []
        if found.unregistered:
            notes.append(f"Not registered, so always wrong: {', '.join(found.unregistered)}.")
        if found.also_registered:
            notes.append(f"Registered examples among them: {found.also_registered}; new {noun}s may do worse.")
        notes += [f"{failure.source} could not be read: {failure.reason}." for failure in found.failed[:_MOST_ITEMS]]
        if len(found.failed) > _MOST_ITEMS:
            notes.append(f"{len(found.failed) - _MOST_ITEMS:,} more could not be read.")
        return notes

    def _facts(self) -> str:
        found = self._found
        share = Share.of(sum(row.correct for row in found.rows), found.n)
        rejected = ""
        if found.rejected:
            rejected = (
                f"<p>The registry's limit rejects {100 * found.rejected:.1f} %; of the others "
                f"{100 * found.accepted_accuracy:.1f} % are right.</p>"
            )
        bins = reliability_bins(found.rows)
        reliability = '<p class="quiet">There is no probability: one class has no alternative.</p>'
        if bins:
            reliability = reliability_chart(bins) + (
                f'<p class="quiet small">expected calibration error {calibration_error(bins):.3f}</p>'
            )
        accepted = 1.0 - found.rejected if any(row.rejected for row in found.rows) else None
        curve = rejection_chart(rejection_curve(found.rows), accepted)
        return (
            f'<div class="charts"><section class="card"><h2>Accuracy</h2><p class="big">{100 * share.value:.1f} %</p>'
            f'{interval_bar(share)}<p class="quiet small">95 % interval: {100 * share.low:.1f} to '
            f"{100 * share.high:.1f} %</p>{rejected}</section>"
            f'<section class="card"><h2>Are the probabilities right?</h2>{reliability}</section>'
            f'<section class="card"><h2>If the least known were rejected</h2>{curve}</section></div>'
        )

    def _confusions(self) -> str:
        found = self._found
        labels = {row.label for row in found.rows} | {row.predicted for row in found.rows}
        about = (
            f"The {MOST_CLASSES} pairs confused most." if len(labels) > MOST_CLASSES else "A row for each true class."
        )
        return (
            f'<section id="confusions"><h2>What is taken for what <span class="count">'
            f'{found.n - sum(row.correct for row in found.rows):,}</span></h2><p class="quiet">{about}</p>'
            f'<div class="scroll">{confusion_table(found)}</div></section>'
        )

    def _items(self, id_: str, title: str, rows: Sequence[Judged], about: str) -> str:
        shown = rows[:_MOST_ITEMS]
        rest = f" The first {len(shown)} are shown." if len(shown) < len(rows) else ""
        cards, text = "".join(map(self._item, shown)), about + rest if rows else "There is none."
        return (
            f'<section id="{id_}"><h2>{title} <span class="count">{len(rows):,}</span></h2>'
            f'<p class="quiet">{text}</p><div class="grid">{cards}</div></section>'
        )

    def _item(self, row: Judged) -> str:
        said = escape(row.predicted)
        verdict = said if row.correct else f'<s>{said}</s> → <span class="to">{escape(row.label)}</span>'
        sure = "" if row.probability is None else meter(row.probability)
        words = f"score {row.score:.2f}" if row.probability is None else f"{100 * row.probability:.0f} % sure"
        near = "".join(self._views.view(one.example, one.label) for one in row.nearest)
        nearest = f'<p class="quiet small">nearest examples:</p><div class="thumbs">{near}</div>' if near else ""
        tag = ' <span class="tag">rejected</span>' if row.rejected else ""
        return (
            f'<article class="item{"" if row.correct else " bad"}"><div class="beside">'
            f'{self._views.view_given(row.example, row.source)}<div><p class="verdict">{verdict}{tag}</p>{sure}'
            f'<p class="quiet small">{words}</p></div></div>{nearest}'
            f'<p class="quiet small">{escape(os.path.basename(row.source))}</p></article>'
        )

    def _classes(self) -> str:
        totals = Counter(row.label for row in self._found.rows)
        right = Counter(row.label for row in self._found.rows if row.correct)
        order = sorted(totals, key=lambda label: (right[label] / totals[label], label))[:_MOST_ROWS]
        some = f" The {len(order)} worst are shown." if len(order) < len(totals) else ""
        head = "".join(
            f'<th scope="col"{" class=number" if number else ""}>{text}</th>'
            for text, number in (("Class", False), ("Right", True), ("Accuracy", True), ("95 % interval", False))
        )
        rows = "".join(_row(label, Share.of(right[label], totals[label]), right[label]) for label in order)
        return (
            f'<section id="classes"><h2>Classes <span class="count">{len(totals):,}</span></h2>'
            f'<p class="quiet">The worst first.{some}</p><div class="scroll"><table><thead><tr>{head}</tr></thead>'
            f"<tbody>{rows}</tbody></table></div></section>"
        )


def _row(label: str, share: Share, right: int) -> str:
    return (
        f'<tr><th scope="row">{escape(label)}</th><td class="number">{right} of {share.n}</td>'
        f'<td class="number">{100 * share.value:.0f} %</td><td>{interval_bar(share)}</td></tr>'
    )


def _confidence(row: Judged) -> float:
    return row.score if row.probability is None else row.probability


_ERRORS = "A wrong label of the file, a class that looks alike, or too few examples of the true one: look which."
_HITS = "Right, but hardly: more examples like these make their class surer."
_METHOD = (
    "Intervals are Wilson's, of other examples of these classes. A probability is that of the label, if the example is "
    "of a registered class; the curve accepts the best known ones first (risk and coverage, El-Yaniv & Wiener 2010)."
)
