"""Commands that predict the classes of images."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from fewshot.cli.image_paths import image_paths, note_ignored
from fewshot.cli.options import encoder_options
from fewshot.cli.output import check_writable, exit_if_failed, note, print_result
from fewshot.cli.prediction_output import OutputFormat, check_are_files, format_options, write_predictions
from fewshot.cli.registry_access import open_registry
from fewshot.progress import Progress

if TYPE_CHECKING:
    from fewshot.integrations import ImagePredictions
    from fewshot.registry import ClassRegistry

# So many are answered before the next are read.
_IMAGES_AT_ONCE = 256


@click.command(epilog="Example: fewshot predict parts.fewshot new.jpg more/ 'scans/*.png' --top 3")
@click.argument("registry")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@click.option("--top", type=click.IntRange(1), default=5, show_default=True, help="Classes to list (json, jsonl).")
@click.option(
    "--nearest", type=click.IntRange(0), default=3, show_default=True, help="Nearest examples to list (json, jsonl)."
)
@click.option(
    "--max-false-accept",
    type=click.FloatRange(0, 1, min_open=True),
    metavar="RATE",
    help="Largest share of unknown images that get a label, as 0.05; by default that of `fewshot threshold`; 1: all.",
)
@format_options
@encoder_options
def predict(
    registry: str,
    images: tuple[str, ...],
    top: int,
    nearest: int,
    max_false_accept: float | None,
    output: OutputFormat,
    encoding: dict[str, Any],
) -> None:
    """Predict the class of each image, in the order given.

    IMAGE is a file, folder, zip or pattern; - reads one image, or a path on each line, from standard input. An image
    that cannot be read has an "error" in place of a label.

    Formats: table and csv (a row per image), json (a list), jsonl (a JSON object per line), label-studio (tasks with
    predictions), coco (a data set with boxes around whole images), fiftyone (the labels.json of a
    FiftyOneImageClassificationDataset). The last three leave out images that cannot be read; csv, json and jsonl are
    written while further images are read.
    """
    from fewshot.media import describe

    sources = image_paths(images)
    names = list(map(describe, sources))
    check_are_files(sources, output)
    with open_registry(registry, encoding) as opened:
        size = len(sources) if opened.classifier.transductive else _IMAGES_AT_ONCE

        def answers() -> Iterator[ImagePredictions]:
            with Progress(len(sources), "predict") as bar:
                for start in range(0, len(sources), size):
                    part = slice(start, start + size)
                    answered = opened.predict_valid(
                        sources[part],
                        top=top if output.ranked else 2,  # the class and the runner-up
                        nearest=nearest if output.ranked else 0,
                        max_false_accept=max_false_accept,
                    )
                    found = dict(zip(answered.positions, answered.predictions, strict=True))
                    failed = iter(answered.failed)
                    yield [(name, found[n] if n in found else next(failed)) for n, name in enumerate(names[part])]
                    bar.advance(len(names[part]))
            if max_false_accept != 1:
                _note_threshold(opened, max_false_accept)

        exit_if_failed(write_predictions(answers(), output, registry=registry, classes=lambda: list(opened.classes())))


def _note_threshold(registry: ClassRegistry, max_false_accept: float | None) -> None:
    try:
        threshold = registry.rejection.threshold(max_false_accept)
    except ValueError as error:
        note(f"no image is rejected: {error}")
    else:
        if threshold is not None and not threshold.met:
            note(threshold.describe())


@click.command(epilog="Example: fewshot evaluate parts.fewshot test-images/ --out results.csv")
@click.argument("registry")
@click.argument("folder", metavar="DIR")
@click.option("--out", metavar="FILE", help="Write a CSV with one row per image.")
@encoder_options
def evaluate(registry: str, folder: str, out: str | None, encoding: dict[str, Any]) -> None:
    """Measure the accuracy on labelled images.

    DIR is a folder or zip with one subfolder per class. "accuracy" is without a limit on false accepts; with the
    registry's, "rejected" is the share of images that get no label, and "accepted_accuracy" of the others.
    """
    if out is not None:
        check_writable(out)
    with open_registry(registry, encoding) as opened:
        result = opened.evaluate(folder)
    note_ignored(result.ignored)
    if result.unregistered:
        note(f"not registered, so always wrong: {', '.join(result.unregistered)}")
    if result.also_registered:
        note(
            f"registered examples among the {result.n} images: {result.also_registered}; "
            "the accuracy on new images may be lower"
        )
    if out is not None:
        import csv

        from fewshot.files import replacing
        from fewshot.integrations import csv_cell

        with replacing(out) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["path", "label", "predicted", "score", "correct", "rejected"])
            for r in result.rows:
                text = map(csv_cell, (r.source, r.label, r.predicted))
                writer.writerow([*text, f"{r.score:.6f}", int(r.correct), int(r.rejected)])
    print_result(
        {
            "accuracy": _as_share(result.accuracy),
            "accepted_accuracy": _as_share(result.accepted_accuracy),
            "rejected": _as_share(result.rejected),
            "n": result.n,
            "per_class": {label: round(share, 6) for label, share in result.per_class.items()},
            "unregistered": list(result.unregistered),
            "also_registered": result.also_registered,
            "failed": [{"path": f.source, "reason": f.reason} for f in result.failed],
        }
    )
    exit_if_failed(bool(result.failed))


def _as_share(value: float) -> float | None:
    """Round a share; None for NaN, which JSON has not."""
    return None if math.isnan(value) else round(value, 6)
