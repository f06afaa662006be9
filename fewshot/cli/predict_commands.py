"""Commands that predict the classes of images, texts and sounds."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from fewshot.cli import group_prediction
from fewshot.cli.bundle_commands import predict_with_bundle
from fewshot.cli.example_paths import check_holds_texts, given_examples, note_ignored, registry_medium
from fewshot.cli.options import encoder_options
from fewshot.cli.output import check_writable, exit_if_failed, note, print_result
from fewshot.cli.prediction_output import OutputFormat, check_fits, format_options, write_predictions
from fewshot.cli.registry_access import open_registry
from fewshot.cli.text_rows import listed, read_text_rows, table_options
from fewshot.cli.watch_folder import check_watch_options, watch_folder
from fewshot.progress import Progress

if TYPE_CHECKING:
    from fewshot.integrations import ImagePredictions
    from fewshot.media import Medium
    from fewshot.registry import ClassRegistry, Evaluation

# So many are answered before the next are read.
_IMAGES_AT_ONCE = 256
# What of DIR, --from-csv, --text and --label is left out.
_EVALUATED = ([False, True, True, True], [True, False, False, False])


@click.command(epilog="Example: fewshot predict parts.fewshot new.jpg more/ 'scans/*.png' --top 3")
@click.argument("registry")
@click.argument("images", nargs=-1, metavar="[FILE]...")
@click.option("--text", "texts", metavar="TEXT", multiple=True, help="A text itself; with --from-csv its column.")
@click.option(
    "--from-csv",
    metavar="FILE",
    help="Texts of a .csv, .tsv or .jsonl file, or of - (stdin): --text COLUMN.",
)
@click.option("--top", type=click.IntRange(1), default=5, show_default=True, help="Classes to list (json, jsonl).")
@click.option(
    "--nearest", type=click.IntRange(0), default=3, show_default=True, help="Nearest examples to list (json, jsonl)."
)
@click.option(
    "--max-false-accept",
    type=click.FloatRange(0, 1, min_open=True),
    metavar="RATE",
    help="Largest share of unknown ones that get a label, as 0.05; by default that of `fewshot threshold`; 1: all.",
)
@click.option(
    "--group",
    metavar="folder|REGEX|COLUMN",
    help="One answer for several of one object: for each folder, part of a path, or value of a column (--from-csv).",
)
@click.option(
    "--min-agreement",
    type=click.FloatRange(0, 1),
    metavar="SHARE",
    help="With --group: no label where fewer of its members would have that label alone.",
)
@click.option(
    "--watch",
    metavar="DIR",
    help="Predict files as they arrive in a folder or its subfolders, until Ctrl-C: a JSON line for each.",
)
@format_options
@encoder_options
def predict(
    registry: str,
    images: tuple[str, ...],
    texts: tuple[str, ...],
    from_csv: str | None,
    top: int,
    nearest: int,
    max_false_accept: float | None,
    group: str | None,
    min_agreement: float | None,
    watch: str | None,
    output: OutputFormat,
    encoding: dict[str, Any],
) -> None:
    r"""Predict the classes of images, texts or sounds.

    The answers are in the order given. REGISTRY may be a bundle of `fewshot export --onnx`, too. FILE is a file,
    folder, zip or pattern; - reads one image or sound, or a path on each line, from standard input, or a text on each
    line. What cannot be read has an "error" in place of a label.

    Formats: table and csv (a row for each), json (a list), jsonl (a JSON object per line), label-studio (tasks with
    predictions), coco (a data set with boxes around whole images), fiftyone (the labels.json of a
    FiftyOneImageClassificationDataset). The last three leave out what cannot be read; csv, json and jsonl are written
    while more is read.

    --group tells which are of one object, as frames of a track: 'folder'; a regular expression, of which the part in
    parentheses counts, as 'track(\d+)'; with --from-csv a column.

    --watch predicts a file once it is completely written: half a second after its last change. One that cannot be read
    is tried again after five seconds. Changes of the registry count from the next file on.
    """
    if watch is not None:
        check_watch_options(FILE=images, text=texts, from_csv=from_csv, group=group, min_agreement=min_agreement)
        with open_registry(registry, encoding) as opened:
            _note_threshold(opened, max_false_accept)
            watch_folder(opened, watch, top=top, nearest=nearest, max_false_accept=max_false_accept)
        return
    _check_sources(images, texts, from_csv)
    _check_group_options(group, min_agreement, images, from_csv, output)
    from fewshot.runtime import is_bundle

    if is_bundle(registry):
        _check_bundle(registry, texts=texts, from_csv=from_csv, group=group)
        predict_with_bundle(registry, images, encoding, output, top=top, max_false_accept=max_false_accept)
        return
    with open_registry(registry, encoding) as opened:
        if group is not None:
            sources, names = group_prediction.grouped_examples(opened, images, texts, from_csv, group)
            asked = {"top": top, "max_false_accept": max_false_accept, "min_agreement": min_agreement or 0.0}
            key = "path" if from_csv is None else "text"
            failed = group_prediction.predict_groups(opened, sources, names, output, key, **asked)
            _note_threshold(opened, max_false_accept)
            exit_if_failed(failed)
            return
        sources = given_examples(opened, images, texts, from_csv)
        medium = registry_medium(opened)
        check_fits(output, sources, medium)
        all_names, key = _names(sources, medium, output)
        size = len(sources) if opened.classifier.transductive else _IMAGES_AT_ONCE

        def answers() -> Iterator[ImagePredictions]:
            with Progress(len(sources), "predict", unit=medium.noun) as bar:
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
                    names = all_names[part]
                    yield [(name, found[n] if n in found else next(failed)) for n, name in enumerate(names)]
                    bar.advance(len(names))
            _note_threshold(opened, max_false_accept)

        written = write_predictions(
            answers(),
            output,
            registry=registry,
            classes=lambda: list(opened.classes()),
            modality=medium.modality,
            key=key,
        )
        exit_if_failed(written)


def _check_sources(images: tuple[str, ...], texts: tuple[str, ...], from_csv: str | None) -> None:
    if not (images or texts or from_csv):
        raise click.UsageError("give what to predict: FILE..., --text TEXT, or --from-csv FILE --text COLUMN")


def _check_bundle(path: str, **given: object) -> None:
    if any(given.values()):
        raise click.UsageError(f"{path} is a bundle, which recognises images one by one: give FILE... alone")


def _check_group_options(
    group: str | None, min_agreement: float | None, images: tuple[str, ...], from_csv: str | None, output: OutputFormat
) -> None:
    if group is None:
        if min_agreement is not None:
            raise click.UsageError("--min-agreement is for --group")
        return
    if output.name not in group_prediction.FORMATS:
        raise click.UsageError(f"--group answers in {', '.join(group_prediction.FORMATS)}, not {output.name}")
    if from_csv is not None and images:
        raise click.UsageError("with --from-csv the --group is a column, which files do not have: leave FILE... out")


def _names(sources: list[Any], medium: Medium, output: OutputFormat) -> tuple[list[str], str]:
    """What each is called in the output, and under which key: texts themselves, or paths."""
    from fewshot.media import map_ahead

    if medium.modality == "text" and output.name == "label-studio":  # its tasks hold the text of a file
        texts = map_ahead(medium.open, sources)
        return [t if isinstance(t, str) else medium.describe(s) for t, s in zip(texts, sources, strict=True)], "text"
    if medium.modality == "text" and all(isinstance(one, str) for one in sources):
        return sources, "text"
    return list(map(medium.describe, sources)), "path"


def _note_threshold(registry: ClassRegistry, max_false_accept: float | None) -> None:
    if max_false_accept == 1:
        return
    try:
        threshold = registry.rejection.threshold(max_false_accept)
    except ValueError as error:
        note(f"no {registry_medium(registry).noun} is rejected: {error}")
    else:
        if threshold is not None and not threshold.met:
            note(threshold.describe(registry_medium(registry).noun))


@click.command(epilog="Example: fewshot evaluate parts.fewshot test-images/ --out results.csv")
@click.argument("registry")
@click.argument("folder", required=False, metavar="[DIR]")
@table_options("Texts")
@click.option("--out", metavar="FILE", help="Write a CSV with one row for each.")
@encoder_options
def evaluate(
    registry: str,
    folder: str | None,
    from_csv: str | None,
    text: str | None,
    label: str | None,
    out: str | None,
    encoding: dict[str, Any],
) -> None:
    """Measure the accuracy on labelled images, texts or sounds.

    DIR is a folder or zip with one subfolder per class. "accuracy" is without a limit on false accepts; with the
    registry's, "rejected" is the share that gets no label, and "accepted_accuracy" of the others.
    """
    if [folder is None, *(given is None for given in (from_csv, text, label))] not in _EVALUATED:
        raise click.UsageError("give either DIR, or --from-csv FILE --text COLUMN --label COLUMN")
    if out is not None:
        check_writable(out)
    with open_registry(registry, encoding) as opened:
        result = opened.evaluate(folder) if folder is not None else _evaluate_rows(opened, from_csv, text, label)
        medium = registry_medium(opened)
    note_ignored(result.ignored, medium)
    if result.unregistered:
        note(f"not registered, so always wrong: {', '.join(result.unregistered)}")
    if result.also_registered:
        note(
            f"registered examples among the {medium.counted(result.n)}: {result.also_registered}; "
            f"the accuracy on new {medium.noun}s may be lower"
        )
    if out is not None:
        import csv

        from fewshot.files import replacing
        from fewshot.integrations import csv_cell

        with replacing(out) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["path", "label", "predicted", "score", "correct", "rejected"])
            for r in result.rows:
                cells = map(csv_cell, (r.source, r.label, r.predicted))
                writer.writerow([*cells, f"{r.score:.6f}", int(r.correct), int(r.rejected)])
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


def _evaluate_rows(registry: ClassRegistry, path: Any, text: Any, label: Any) -> Evaluation:
    check_holds_texts(registry)
    rows = read_text_rows(path, text, label)
    if without := [row.where for row in rows if not row.label.strip()]:
        raise ValueError(f"each text to evaluate needs a label, but none has {listed(without)}")
    return registry.evaluate([row.source for row in rows], [row.label for row in rows])


def _as_share(value: float) -> float | None:
    """Round a share; None for NaN, which JSON has not."""
    return None if math.isnan(value) else round(value, 6)
