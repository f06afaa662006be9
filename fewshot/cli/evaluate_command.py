"""The command that measures how well labelled examples are recognised."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import click

from fewshot.cli.example_paths import check_holds_texts, check_urls, note_ignored, registry_medium
from fewshot.cli.multi_label_evaluation import evaluate_multi_label
from fewshot.cli.options import encoder_options, roll_up_option
from fewshot.cli.output import check_writable, exit_if_failed, make_folder, note, print_result
from fewshot.cli.registry_access import open_registry
from fewshot.cli.text_rows import listed, read_text_rows, table_options

if TYPE_CHECKING:
    from fewshot.media import LabelledImages, Medium
    from fewshot.registry import ClassRegistry, Evaluation

# What of DIR, --from-csv, --text and --label is left out.
_EVALUATED = ([False, True, True, True], [True, False, False, False])


@click.command(epilog="Example: fewshot evaluate parts.fewshot test-images/ --out results.csv")
@click.argument("registry")
@click.argument("folder", required=False, metavar="[DIR]")
@table_options("Texts")
@click.option("--separator", metavar="TEXT", help="What separates several labels in a cell (multi-label).")
@click.option("--out", metavar="FILE", help="Write a CSV with one row for each.")
@click.option("--report", metavar="DIR", help="Write a page with charts and thumbnails, DIR/evaluation.html.")
@roll_up_option
@click.option("--nested", is_flag=True, help="The path of folders below DIR is the label, as drink/canned/coke.")
@encoder_options
def evaluate(
    registry: str,
    folder: str | None,
    from_csv: str | None,
    text: str | None,
    label: str | None,
    separator: str | None,
    out: str | None,
    report: str | None,
    roll_up: float | None,
    nested: bool,
    encoding: dict[str, Any],
) -> None:
    """Measure the accuracy on labelled images, texts or sounds.

    DIR is a folder, zip or URL with one subfolder per class. "accuracy" is without a limit on false accepts; with the
    registry's, "rejected" is the share that gets no label, and "accepted_accuracy" of the others. Of a multi-label
    registry F1 and average precision are measured; what lies in several subfolders is of several classes.

    Where labels are paths, as drink/canned/coke, "levels" says how often each level is right; with --roll-up also how
    many answers end at it, and how many of these are right. Level 0 is no label.
    """
    _check_given(folder, from_csv, text, label, separator, nested)
    if out is not None:
        check_writable(out)
    check_urls(folder)
    with open_registry(registry, encoding) as opened:
        medium = registry_medium(opened)
        found = None if folder is None else _class_folders(folder, medium, nested)
        if opened.multi_label:
            if report is not None:
                opened.require_single_label("--report")
            evaluate_multi_label(opened, found, from_csv, text, label, separator, out, roll_up)
            return
        if report is not None:
            make_folder(report)
        given = (found, None) if found is not None else _labelled_rows(opened, from_csv, text, label, separator)
        result = opened.evaluate(*given, roll_up=roll_up, nearest=0 if report is None else 3)
        below = [one for one in opened.classes() if one.startswith(tuple(f"{top}/" for top in result.unregistered))]
        if report is not None:
            from fewshot.registry import write_evaluation_report

            note(f"report: {write_evaluation_report(opened, result, report)}")
    note_ignored(result.ignored, medium)
    if result.unregistered:
        note(f"not registered, so always wrong: {', '.join(result.unregistered)}")
        if below and folder is not None and not nested:
            note(f"the registry has {below[0]!r}: where folders in folders are the label, give --nested")
    if result.also_registered:
        note(
            f"registered examples among the {medium.counted(result.n)}: {result.also_registered}; "
            f"the accuracy on new {medium.noun}s may be lower"
        )
    if out is not None:
        _write_rows(result, out, answers=roll_up is not None)
    print_result(
        {
            "accuracy": _as_share(result.accuracy),
            "interval": [_as_share(bound) for bound in result.interval],
            "accepted_accuracy": _as_share(result.accepted_accuracy),
            "rejected": _as_share(result.rejected),
            "n": result.n,
            "per_class": {label: round(share, 6) for label, share in result.per_class.items()},
            **({"levels": levels} if len(levels := _levels(result, roll_up)) > 1 else {}),
            "unregistered": list(result.unregistered),
            "also_registered": result.also_registered,
            "failed": [{"path": f.source, "reason": f.reason} for f in result.failed],
        }
    )
    exit_if_failed(bool(result.failed))


def _check_given(
    folder: str | None, from_csv: str | None, text: str | None, label: str | None, separator: str | None, nested: bool
) -> None:
    if [folder is None, *(given is None for given in (from_csv, text, label))] not in _EVALUATED:
        raise click.UsageError("give either DIR, or --from-csv FILE --text COLUMN --label COLUMN")
    if nested and folder is None:
        raise click.UsageError("--nested is for DIR: a column of labels holds paths as they are")
    if separator is not None and from_csv is None:
        raise click.UsageError("--separator is of --from-csv")


def _class_folders(folder: str, medium: Medium, nested: bool) -> LabelledImages:
    from fewshot.errors import AmbiguousFolders
    from fewshot.media import labelled_images

    try:
        return labelled_images(folder, medium.modality, nested=nested)
    except AmbiguousFolders as error:
        raise ValueError(f"{error}; or, with paths as labels, --nested") from error


def _levels(result: Evaluation, roll_up: float | None) -> list[dict[str, Any]]:
    """How each level was recognised; without roll-up every answer is a whole label."""
    found = []
    for one in result.levels[roll_up is None :]:
        level: dict[str, Any] = {"level": one.level}
        if one.level:
            level |= {"n": one.n, "accuracy": _as_share(one.accuracy)}
        if roll_up is not None:
            level |= {"answered": one.answered}
            level |= {"answered_accuracy": _as_share(one.answered_accuracy)} if one.level else {}
        found.append(level)
    return found


def _write_rows(result: Evaluation, out: str, *, answers: bool) -> None:
    """Write a CSV with a row for each example, with roll-up its answer, too."""
    import csv

    from fewshot.files import replacing
    from fewshot.integrations import csv_cell

    with replacing(out) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        columns = ["path", "label", "predicted", "score", "correct", "rejected"]
        writer.writerow([*columns, "answer"] if answers else columns)
        for r in result.rows:
            cells = map(csv_cell, (r.source, r.label, r.predicted))
            row = [*cells, f"{r.score:.6f}", int(r.correct), int(r.rejected)]
            writer.writerow([*row, csv_cell(r.answer or "")] if answers else row)


def _labelled_rows(
    registry: ClassRegistry, path: Any, text: Any, label: Any, separator: str | None
) -> tuple[list[Any], list[str]]:
    if separator is not None:
        registry.require_multi_label("--separator")
    check_holds_texts(registry)
    rows = read_text_rows(path, text, label)
    if without := [row.where for row in rows if not row.label.strip()]:
        raise ValueError(f"each text to evaluate needs a label, but none has {listed(without)}")
    return [row.source for row in rows], [row.label for row in rows]


def _as_share(value: float) -> float | None:
    """Round a share; None for NaN, which JSON has not."""
    return None if math.isnan(value) else round(value, 6)
