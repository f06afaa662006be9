"""A diagnosis as one HTML file that needs nothing else."""

from __future__ import annotations

import os
from collections.abc import Sequence
from html import escape
from pathlib import Path
from statistics import geometric_mean
from typing import TYPE_CHECKING

from fewshot.files import replacing
from fewshot.media import medium_of
from fewshot.registry.diagnosis_fixes import proposed_commands
from fewshot.registry.diagnosis_results import (
    ClassDiagnosis,
    ConfusedClasses,
    DiagnosedExample,
    Diagnosis,
    HarmfulExample,
    NearDuplicate,
    Suspect,
)
from fewshot.registry.report_charts import curve_chart, interval_bar, meter
from fewshot.registry.report_examples import ExampleViews
from fewshot.registry.report_page import report_page

if TYPE_CHECKING:
    from fewshot.registry.queries import RegistryQueries

FILE = "doctor.html"
_MOST_ITEMS, _MOST_ROWS = 48, 500
_BESIDE = 3  # examples of a class that are shown for comparison


def write_diagnosis_report(registry: RegistryQueries, found: Diagnosis, folder: str | os.PathLike[str]) -> str:
    """Write ``doctor.html`` into a folder that exists; returns its path.

    Of each list the first 48 are shown, of the classes 500, and the page says how many there are. An example that was
    not kept, and is no longer where it was, is shown by its name.
    """
    path = os.path.join(folder, FILE)
    page = _Page(registry, found).html()
    with replacing(path) as partial:
        Path(partial).write_text(page, encoding="utf-8")
    return path


class _Page:
    """The page of a diagnosis, part by part."""

    def __init__(self, registry: RegistryQueries, found: Diagnosis) -> None:
        self._path, self._found, self._medium = registry.path, found, medium_of(found.modality)
        self._views = ExampleViews(registry, found.modality)
        self._first = registry.first_examples(_BESIDE)

    def html(self) -> str:
        """Return all of it."""
        found, name = self._found, os.path.basename(self._path)
        size = f"{_counted(found.classes, 'class', 'classes')}, {self._medium.counted(found.examples)}"
        about = f"{size} · classifier {found.classifier} · revision {found.revision}"
        parts = (
            self._facts(),
            self._section("suspects", "Likely mislabelled", found.mislabelled, self._suspect, _MISLABELLED),
            self._section("harmful", "Examples that hurt", found.harmful, self._harmful, _HARMFUL),
            self._section("duplicates", "Near-duplicates", found.duplicates, self._pair, self._about_duplicates()),
            self._section("confused", "Classes that will be confused", found.confused, self._confused, _CONFUSED),
            self._classes(),
            self._commands(),
        )
        notes, main = [_sentence(note) for note in found.notes], "".join(parts)
        return report_page(f"Doctor: {name}", name, about, notes, main, found.modality, _METHOD, self._tally())

    def _tally(self) -> str:
        found = self._found
        counts = (
            ("suspects", "likely mislabelled", len(found.mislabelled)),
            ("harmful", "that hurt", len(found.harmful)),
            ("duplicates", "near-duplicate pairs", len(found.duplicates)),
            ("confused", "pairs of classes confused", len(found.confused)),
            ("classes", "one-sided classes", len(found.one_sided)),
        )
        items = "".join(f'<li><a href="#{id_}"><b>{count:,}</b> {text}</a></li>' for id_, text, count in counts)
        return f'<ul class="tally">{items}</ul>'

    def _facts(self) -> str:
        found, noun = self._found, self._medium.noun
        measured, chart = f'<p class="big">?</p><p class="quiet">No {noun} can be left out yet.</p>', ""
        if found.accuracy is not None and found.left_out is not None and found.curve is not None:
            a = found.accuracy
            measured = (
                f'<p class="big">{100 * a.value:.1f} %</p>{interval_bar(a)}'
                f'<p class="quiet small">95 % interval: {100 * a.low:.1f} to {100 * a.high:.1f} %. Each of '
                f"{found.left_out.n:,} {noun}s was recognised by the others: {100 * found.left_out.value:.1f} % "
                "rightly, from fewer of its class than there are; the rest is what the learning curve adds.</p>"
            )
            distinct = [one.distinct for one in found.per_class if one.accuracy is not None]
            curve = curve_chart(found.curve, a, geometric_mean(distinct), noun)
            chart = f'<section class="card chart"><h2>More {noun}s of every class</h2>{curve}</section>'
        chosen = found.plan.classes if found.plan is not None and not found.plan.enough else ()
        chips = "".join(f"<li><b>{count}</b> {escape(label)}</li>" for label, count in chosen)
        return (
            f'<div class="facts"><section class="card"><h2>Accuracy to be expected</h2>{measured}</section>'
            f'<section class="card"><h2>What to add next</h2><p class="advice">{escape(_sentence(found.advice))}</p>'
            f'<ul class="chips">{chips}</ul></section></div>{chart}'
        )

    def _section(self, id_: str, title: str, items: Sequence[object], item: object, about: str) -> str:
        shown = items[:_MOST_ITEMS]
        rest = f" The first {len(shown)} are shown." if len(shown) < len(items) else ""
        cards = "".join(item(one) for one in shown)  # type: ignore[operator]
        text = about + rest if items else "None was found."
        return (
            f'<section id="{id_}"><h2>{title} <span class="count">{len(items):,}</span></h2>'
            f'<p class="quiet">{text}</p><div class="grid">{cards}</div></section>'
        )

    def _suspect(self, one: Suspect) -> str:
        own, closest = escape(one.example.label), escape(one.closest)
        share = one.closest_probability
        return (
            f'<article class="item bad"><div class="beside">{self._view(one.example)}<div>'
            f'<p class="verdict"><s>{own}</s> → <span class="to">{closest}</span></p>{meter(share)}'
            f'<p class="quiet small">{100 * share:.0f} % {closest}, {100 * one.probability:.0f} % {own}</p></div></div>'
            f'<p class="quiet small">{closest}:</p>{self._beside(one.closest)}{_source(one.example)}</article>'
        )

    def _harmful(self, one: HarmfulExample) -> str:
        broken = f", and {one.broken} no longer" if one.broken else ""
        return (
            f'<article class="item"><div class="beside">{self._view(one.example)}<div>'
            f'<p class="verdict">{escape(one.example.label)}</p><p class="small">Without it {one.mended} more of the '
            f"others are recognised{broken}.</p></div></div>{_source(one.example)}</article>"
        )

    def _pair(self, one: NearDuplicate) -> str:
        first, second = one.first, one.second
        labels = f"{escape(first.label)}"
        if one.across_classes:
            labels += f' | {escape(second.label)} <span class="tag">two classes</span>'
        return (
            f'<article class="item"><div class="pair">{self._view(first)}{self._view(second)}</div>'
            f'<p class="verdict">{labels}</p><p class="quiet small">cosine {one.cosine:.3f} · '
            f"examples {first.id} and {second.id}</p></article>"
        )

    def _confused(self, one: ConfusedClasses) -> str:
        counted = f"; {one.counted} of those left out" if one.counted else ""
        return (
            f'<article class="item"><p class="verdict">{escape(one.label)} ↔ {escape(one.taken_for)}</p>'
            f'{meter(one.rate)}<p class="quiet small">{100 * one.rate:.0f} % of the two are to be expected to be taken '
            f"for the other{counted}</p>{self._beside(one.label)}{self._beside(one.taken_for)}</article>"
        )

    def _classes(self) -> str:
        rows = sorted(self._found.per_class, key=lambda one: -one.gain)[:_MOST_ROWS]
        some = f" The {len(rows)} that gain most are shown." if len(rows) < len(self._found.per_class) else ""
        head = "".join(
            f'<th scope="col"{" class=number" if number else ""}>{text}</th>'
            for text, number in (
                ("Class", False), (f"{self._medium.noun.capitalize()}s", True), ("Accuracy", True),
                ("95 % interval", False), ("Gain of one more, points", True), ("Add", True),
            )
        )  # fmt: skip
        return (
            f'<section id="classes"><h2>Classes <span class="count">{len(self._found.per_class):,}</span></h2>'
            f'<p class="quiet">{_CLASSES}{some}</p><div class="scroll"><table><thead><tr>{head}</tr></thead>'
            f"<tbody>{''.join(map(self._row, rows))}</tbody></table></div></section>"
        )

    def _row(self, one: ClassDiagnosis) -> str:
        tags = '<span class="tag">too few</span>' if one.too_few else ""
        tags += '<span class="tag">one-sided</span>' if one.one_sided else ""
        count = f"{one.examples}" + (f" ({one.distinct} distinct)" if one.distinct < one.examples else "")
        accuracy = "?" if one.accuracy is None else f"{100 * one.accuracy.value:.0f} %"
        bar = "" if one.accuracy is None else interval_bar(one.accuracy)
        return (
            f'<tr><th scope="row">{escape(one.label)} {tags}</th><td class="number">{count}</td>'
            f'<td class="number">{accuracy}</td><td>{bar}</td><td class="number">{100 * one.gain:+.2f}</td>'
            f'<td class="number">{one.add or ""}</td></tr>'
        )

    def _commands(self) -> str:
        commands = proposed_commands(self._found, self._path)
        if not commands:
            return ""
        lines = "".join(f"<i># {escape(one.why)}</i>\n{escape(one.command)}\n" for one in commands[:_MOST_ITEMS])
        return (
            f'<section id="commands"><h2>Proposed commands <span class="count">{len(commands):,}</span></h2>'
            f'<p class="quiet">None was run: look at each first.</p><pre>{lines}</pre></section>'
        )

    def _about_duplicates(self) -> str:
        return f"Pairs whose cosine is {self._found.duplicate_limit:.3f} or more, far above what is usual here."

    def _view(self, one: DiagnosedExample) -> str:
        return self._views.view(one.id, one.source)

    def _beside(self, label: str) -> str:
        shown = "".join(self._views.view(id_, label) for id_ in self._first.get(label, ()))
        return f'<div class="thumbs">{shown}</div>'


_MISLABELLED = "Recognised by the others as another class, as surely as that class's own examples are."
_HARMFUL = "Without one of these, at least two more of the others are recognised."
_CONFUSED = "What to tell apart better: more examples of both, or one class in place of the two."
_CLASSES = "Accuracy of a class is of its few examples, and rough; the gain is of the accuracy over all classes."
_METHOD = (
    "Every example was recognised by the registry's classifier, learned from the others (leave-one-out, "
    "near-duplicates together), from the stored vectors. Wrong labels by confident learning (Northcutt et al. 2021), "
    "gains by a power law fitted to subsets (Hestness et al. 2017)."
)


def _source(one: DiagnosedExample) -> str:
    return f'<p class="quiet small">example {one.id} · {escape(os.path.basename(one.source))}</p>'


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _counted(n: int, one: str, many: str) -> str:
    return f"{n:,} {one if n == 1 else many}"
