"""Commands that recognise pictures."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from fewshot.cli.answer_output import Writing, write_answers, writing_options
from fewshot.cli.options import (
    check_writable,
    classifier_asked,
    classifier_options,
    encoder_options,
    expanded,
    finish,
    note,
    note_ignored,
    opened_registry,
    say,
)

if TYPE_CHECKING:
    from fewshot.integrations import ImagePredictions


@click.command(epilog="Example: fewshot predict parts.fewshot new.jpg more/ 'scans/*.png' --top 3")
@click.argument("registry")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@click.option("--top", type=click.IntRange(1), default=5, show_default=True, help="Classes to rank (json, jsonl).")
@click.option(
    "--nearest", type=click.IntRange(0), default=3, show_default=True, help="Closest examples to name (json, jsonl)."
)
@click.option(
    "--max-false-accept",
    type=click.FloatRange(0, 1, min_open=True),
    metavar="SHARE",
    help="Of unknown pictures to label, as 0.05; by default the one `fewshot threshold` keeps; 1: all.",
)
@writing_options
@classifier_options
@encoder_options
def predict(
    registry: str,
    images: tuple[str, ...],
    top: int,
    nearest: int,
    max_false_accept: float | None,
    writing: Writing,
    classifier: str,
    neighbors: int,
    encoding: dict[str, Any],
) -> None:
    """Recognise pictures: one answer for each, in the order given.

    IMAGE is a file, folder or pattern; - reads paths from standard input. A picture that cannot be read has an "error"
    in place of a label.

    --format writes what another program imports, to standard output: csv (a row a picture), jsonl (a JSON object a
    line), label-studio (tasks with predictions), coco (a data set; boxes around the whole pictures), fiftyone (the
    labels.json of a FiftyOneImageClassificationDataset). The last three leave out what cannot be read.
    """
    names = expanded(images)
    reader = classifier_asked(registry, classifier, neighbors) if os.path.exists(registry) else None
    with opened_registry(registry, encoding, classifier=reader) as opened:
        answered = opened.predict_valid(
            names,
            top=top if writing.ranked else 1,
            nearest=nearest if writing.ranked else 0,
            max_false_accept=max_false_accept,
        )
        if max_false_accept != 1:
            try:
                line = opened.rejection.threshold(max_false_accept)
            except ValueError as error:
                note(f"no picture is refused: {error}")
            else:
                if line is not None and not line.met:
                    note(line.describe())
        labels = [prediction.label for prediction in answered.predictions if prediction.label is not None]
        classes = list(dict.fromkeys([*opened.classes(), *labels]))  # some may have been renamed meanwhile
    known = iter(answered.predictions)
    failures = {failure.source: failure for failure in answered.failed}
    answers: ImagePredictions = [(name, failures[name] if name in failures else next(known)) for name in names]
    failed = write_answers(answers, writing, registry=registry, classes=classes)
    finish(failed)


@click.command(epilog="Example: fewshot evaluate parts.fewshot test-photos/ --out results.csv")
@click.argument("registry")
@click.argument("folder", metavar="DIR")
@click.option("--out", metavar="FILE", help="Write a CSV with one row a picture.")
@classifier_options
@encoder_options
def evaluate(
    registry: str, folder: str, out: str | None, classifier: str, neighbors: int, encoding: dict[str, Any]
) -> None:
    """Recognise every picture of DIR, a folder or zip with one subfolder a class, and count."""
    if out is not None:
        check_writable(out)
    reader = classifier_asked(registry, classifier, neighbors) if os.path.exists(registry) else None
    with opened_registry(registry, encoding, classifier=reader) as opened:
        result = opened.evaluate(folder)
    note_ignored(result.ignored)
    if result.unregistered:
        note(f"not registered, so always wrong: {', '.join(result.unregistered)}")
    if result.also_registered:
        note(f"registered examples among the {result.n} pictures: {result.also_registered}; they flatter the accuracy")
    if out is not None:
        import csv

        from fewshot.files import replacing
        from fewshot.integrations import csv_cell

        with replacing(out) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["path", "label", "predicted", "score", "correct"])
            for r in result.rows:
                text = map(csv_cell, (r.source, r.label, r.predicted))
                writer.writerow([*text, f"{r.score:.6f}", int(r.correct)])
    say(
        {
            "accuracy": round(result.accuracy, 6) if result.n else None,
            "n": result.n,
            "per_class": {label: round(share, 6) for label, share in result.per_class.items()},
            "unregistered": list(result.unregistered),
            "also_registered": result.also_registered,
            "failed": [{"path": f.source, "reason": f.reason} for f in result.failed],
        }
    )
    finish(bool(result.failed))
