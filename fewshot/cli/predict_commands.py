"""The command that predicts the classes of images, texts and sounds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from fewshot.cli import group_prediction
from fewshot.cli.bundle_commands import predict_with_bundle
from fewshot.cli.example_paths import check_urls, given_examples, registry_medium
from fewshot.cli.options import encoder_options, roll_up_option
from fewshot.cli.output import exit_if_failed, note
from fewshot.cli.prediction_output import OutputFormat, check_fits, format_options, write_predictions
from fewshot.cli.registry_access import open_registry
from fewshot.cli.watch_folder import check_watch_options, watch_folder
from fewshot.progress import Progress

if TYPE_CHECKING:
    from fewshot.integrations import ImagePredictions
    from fewshot.media import Medium
    from fewshot.registry import ClassRegistry

# So many are answered before the next are read.
_IMAGES_AT_ONCE = 256


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
@roll_up_option
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
    roll_up: float | None,
    output: OutputFormat,
    encoding: dict[str, Any],
) -> None:
    r"""Predict the classes of images, texts or sounds.

    The answers are in the order given. REGISTRY may be a bundle of `fewshot export --onnx`, too. FILE is a file,
    folder, zip, pattern, or URL (s3://bucket/folder, with the extra cloud); - reads one image or sound, or a path on
    each line, from standard input, or a text on each line. What cannot be read has an "error" in place of a label.

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
            asked = {"max_false_accept": max_false_accept, "roll_up": roll_up}
            watch_folder(opened, watch, top=top, nearest=nearest, **asked)
        return
    _check_sources(images, texts, from_csv)
    check_urls(*images)
    _check_group_options(group, min_agreement, images, from_csv, output)
    from fewshot.runtime import is_bundle

    if is_bundle(registry):
        _check_bundle(registry, texts=texts, from_csv=from_csv, group=group, roll_up=roll_up)
        predict_with_bundle(registry, images, encoding, output, top=top, max_false_accept=max_false_accept)
        return
    with open_registry(registry, encoding) as opened:
        if group is not None:
            sources, names = group_prediction.grouped_examples(opened, images, texts, from_csv, group)
            asked = {"top": top, "max_false_accept": max_false_accept, "roll_up": roll_up}
            asked["min_agreement"] = min_agreement or 0.0
            key = "path" if from_csv is None else "text"
            failed = group_prediction.predict_groups(opened, sources, names, output, key, **asked)
            _note_threshold(opened, max_false_accept)
            exit_if_failed(failed)
            return
        sources = given_examples(opened, images, texts, from_csv)
        medium = registry_medium(opened)
        check_fits(output, sources, medium)
        if output.name == "fiftyone":
            opened.require_single_label("FiftyOneImageClassificationDataset, which holds one label of each image")
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
                        roll_up=roll_up,
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
