"""Predictions in the format that another program imports."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fewshot.cli.output import chosen_format, counted, format_option, note, print_json_list, print_result, write

if TYPE_CHECKING:
    from fewshot.integrations import ImagePredictions, LabelStudioNames
    from fewshot.media import Medium, Modality, Source
    from fewshot.registry import Failure, Prediction

F = TypeVar("F", bound=Callable[..., Any])

_OBJECTS = {"image": "an Image", "text": "a Text", "audio": "an Audio"}  # tags of a labelling configuration
NO_CLASS = "(none of these)"
"""In a table, the label of a rejected example."""
LOCAL_FILES = "/data/local-files/?d="
"""Where a Label Studio server serves its local files."""


@dataclass(frozen=True)
class OutputFormat:
    """The format's name, and for Label Studio the prefix of paths and the file of the labelling configuration."""

    name: str
    prefix: str | None
    label_config: str | None

    @property
    def ranked(self) -> bool:
        """Whether the format holds more than the predicted class."""
        return self.name in ("json", "jsonl")


def format_options(command: F) -> F:
    """Add the options of the format, as one ``OutputFormat``."""

    @functools.wraps(command)
    def gathered(*args: Any, **kwargs: Any) -> Any:
        output = OutputFormat(chosen_format(), *(kwargs.pop(name) for name in ("prefix", "label_config")))
        for option, value in (("--prefix", output.prefix), ("--label-config", output.label_config)):
            if value is not None and output.name != "label-studio":
                raise click.UsageError(f"{option} is for --format label-studio, not {output.name}")
        return command(*args, output=output, **kwargs)

    options = [
        format_option("label-studio", "coco", "fiftyone"),
        click.option(
            "--prefix",
            metavar="URL",
            help=f"For label-studio: URL of the current folder, put before each path; by default {LOCAL_FILES}",
        ),
        click.option(
            "--label-config",
            metavar="FILE",
            help="For label-studio: the project's labelling configuration, if its names are not the template's.",
        ),
    ]
    for option in reversed(options):
        gathered = option(gathered)
    return gathered  # type: ignore[return-value]


def check_fits(output: OutputFormat, sources: Sequence[Source], medium: Medium) -> None:
    """Refuse what a format cannot hold: anything but images, or what is no file that another program finds."""
    if output.name in ("coco", "fiftyone") and medium.modality != "image":
        raise ValueError(f"--format {output.name} is for images, not {medium.noun}s; --format jsonl is for all")
    if output.name in ("label-studio", "coco", "fiftyone") and medium.modality != "text":
        inside = next((source for source in sources if not _is_named(source, output.name)), None)
        if inside is not None:
            name = medium.describe(inside)
            raise ValueError(f"--format {output.name} names files, and {name} is none: unpack or save it")


def _is_named(source: Source, format_: str) -> bool:
    """Whether another program finds a source by its name; Label Studio reads buckets, too."""
    from fewshot.media import describe, is_url

    name = source if isinstance(source, str) else describe(source)  # type: ignore[arg-type]
    return format_ == "label-studio" if is_url(name) else isinstance(source, str)


def write_predictions(
    parts: Iterable[ImagePredictions],
    output: OutputFormat,
    *,
    registry: str,
    classes: Callable[[], Sequence[str]],
    modality: Modality = "image",
    key: str = "path",
) -> bool:
    """Write predictions to standard output and failures to standard error; returns whether there were failures.

    ``parts`` come one after the other; in json, jsonl and csv each is written before the next is asked for. ``key`` is
    what each one's name is called.
    """
    from fewshot.integrations import formats
    from fewshot.registry import Failure

    failures: list[tuple[str, str]] = []
    remarks: set[str] = set()
    escaped: set[str] = set()

    def seen(part: ImagePredictions) -> ImagePredictions:
        failures.extend((one.source, one.reason) for _, one in part if isinstance(one, Failure))
        remarks.update(one.note for _, one in part if not isinstance(one, Failure) and one.note is not None)
        return part

    if output.name == "json":
        print_json_list(formats.row(name, answer, key) for part in parts for name, answer in seen(part))
    elif output.name == "jsonl":
        for part in parts:
            write(formats.to_jsonl(seen(part), key))
    elif output.name == "csv":
        for n, part in enumerate(parts):
            text = formats.to_csv(seen(part), key)
            write(text.partition("\n")[2] if n else text)  # one header
            escaped |= _escaped(part)
    else:
        _write_whole([answer for part in parts for answer in part], output, registry, classes, seen, modality, key)
    if escaped:
        _note_escaped(sorted(escaped))
    for path, reason in failures:
        note(f"no prediction for {path}: {reason}")
    for text in sorted(remarks):
        note(text)
    return bool(failures)


def _write_whole(
    answers: ImagePredictions,
    output: OutputFormat,
    registry: str,
    classes: Callable[[], Sequence[str]],
    seen: Callable[[ImagePredictions], ImagePredictions],
    modality: Modality,
    key: str,
) -> None:
    from fewshot.integrations import formats
    from fewshot.registry import Failure

    if output.name == "coco":
        answers, sizes = _with_sizes(answers)
    seen(answers)
    if output.name == "table":
        print_result([_table_row(name, answer, key) for name, answer in answers])
        return
    read = [one for _, one in answers if not isinstance(one, Failure)]
    labels = [label for one in read for label in one.all_labels]
    known = list(dict.fromkeys([*classes(), *labels]))  # some may have been renamed meanwhile
    if output.name == "label-studio":
        multiple = any(one.labels is not None for one in read)
        names = _label_studio_names(output.label_config, known, modality, multiple=multiple)
        prefix = "" if modality == "text" else LOCAL_FILES if output.prefix is None else output.prefix
        version = Path(registry).name
        _write_json(formats.to_label_studio(answers, prefix=prefix, model_version=version, names=names))
    elif output.name == "coco":
        _write_json(formats.to_coco(answers, sizes=sizes, classes=known))
    else:
        _write_json(formats.to_fiftyone(answers, classes=known))


def _table_row(name: str, answer: Prediction | Failure, key: str = "path") -> dict[str, Any]:
    """What of an answer is shown on a terminal."""
    from fewshot.integrations import formats

    found = formats.row(name, answer, key)
    if "error" in found:
        return found
    if "labels" in found:
        answered = ", ".join(f"{label} {probability:.2f}" for label, probability in found["labels"])
        return {key: name, "labels": answered or NO_CLASS}
    shown = {name: found[name] for name in (key, "label", "probability", "score")}
    return shown | {"label": found["label"] or NO_CLASS, "second": found["top"][1][0] if found["top"][1:] else None}


def _write_json(value: Any) -> None:
    from fewshot.integrations import as_json

    write(as_json(value) + "\n")


def _with_sizes(answers: ImagePredictions) -> tuple[ImagePredictions, dict[str, tuple[int, int]]]:
    """Find the size of each image in its upright orientation; an image that is gone meanwhile becomes a failure."""
    from fewshot.errors import ExampleError
    from fewshot.media import map_ahead, open_image
    from fewshot.registry import Failure, Prediction

    paths = [path for path, answer in dict(answers).items() if isinstance(answer, Prediction)]
    found = dict(zip(paths, map_ahead(lambda path: open_image(path).size, paths), strict=True))
    gone = {path: Failure(path, size.reason) for path, size in found.items() if isinstance(size, ExampleError)}
    sizes = {path: size for path, size in found.items() if not isinstance(size, ExampleError)}
    return [(path, gone.get(path, answer)) for path, answer in answers], sizes


def _escaped(answers: ImagePredictions) -> set[str]:
    """Names as they are written where that is not as they are."""
    from fewshot.integrations import csv_cell
    from fewshot.registry import Prediction

    texts = {path for path, _ in answers}
    texts |= {label for _, answer in answers if isinstance(answer, Prediction) for label, _ in answer.top[:1]}
    return {csv_cell(text) for text in texts if csv_cell(text) != text}


def _note_escaped(escaped: Sequence[str]) -> None:
    note(
        f"{counted(len(escaped), 'name')} escaped, which a spreadsheet would take for a formula or not read: "
        f"{', '.join(escaped[:3])}{', ...' if len(escaped) > 3 else ''}; --format jsonl leaves names as they are"
    )


def _label_studio_names(
    label_config: str | None, classes: Sequence[str], modality: Modality, *, multiple: bool
) -> LabelStudioNames:
    from fewshot.integrations import LabelStudioNames

    if label_config is None:
        names = LabelStudioNames.of(modality)
        note(f"a labelling configuration for these predictions: {names.config(classes, multiple=multiple)}")
        return names
    from fewshot.integrations import parse_config

    found = parse_config(Path(label_config).read_text(encoding="utf-8"))
    controls = [c for c in found if c.kind == "choices" and c.modality == modality]
    if not controls:
        wanted = f"Choices for {_OBJECTS[modality]}"
        raise ValueError(f"{label_config} has no {wanted}; add them, or leave --label-config out")
    first = controls[0]
    missing = [label for label in classes if first.labels and label not in first.labels]
    if missing:
        note(
            f"Label Studio refuses an import with a choice that it does not have; the Choices {first.name!r} of "
            f"{label_config} lack: {', '.join(missing)}"
        )
    return LabelStudioNames(first.name, first.to_name, first.image)
