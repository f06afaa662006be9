"""Answers in the format another program imports: the options, and what is told beside it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fewshot.cli.options import counted, note, say

if TYPE_CHECKING:
    from fewshot.integrations import ImagePredictions, LabelStudioNames

F = TypeVar("F", bound=Callable[..., Any])

LOCAL_FILES = "/data/local-files/?d="
"""Where a Label Studio server serves its local files."""


@dataclass(frozen=True)
class Writing:
    """What was asked: a format, and for Label Studio the prefix of paths and the project's configuration file."""

    format: str
    prefix: str | None
    label_config: str | None

    @property
    def ranked(self) -> bool:
        """Whether the format tells of more than the closest class."""
        return self.format in ("json", "jsonl")


def writing_options(command: F) -> F:
    """Add the options that choose the format, as one ``Writing``."""

    @functools.wraps(command)
    def gathered(*args: Any, **kwargs: Any) -> Any:
        asked = Writing(*(kwargs.pop(name) for name in ("format", "prefix", "label_config")))
        for option, value in (("--prefix", asked.prefix), ("--label-config", asked.label_config)):
            if value is not None and asked.format != "label-studio":
                raise click.UsageError(f"{option} is for --format label-studio, not {asked.format}")
        return command(*args, writing=asked, **kwargs)

    options = [
        click.option(
            "--format",
            type=click.Choice(["json", "jsonl", "csv", "label-studio", "coco", "fiftyone"]),
            default="json",
            show_default=True,
            help="Who is to read the answers.",
        ),
        click.option(
            "--prefix",
            metavar="URL",
            help=f"For label-studio: put before each path, for the current folder; by default {LOCAL_FILES}",
        ),
        click.option(
            "--label-config",
            metavar="FILE",
            help="For label-studio: the project's labelling interface, if its names are not those of the template.",
        ),
    ]
    for option in reversed(options):
        gathered = option(gathered)
    return gathered  # type: ignore[return-value]


def write_answers(answers: ImagePredictions, asked: Writing, *, registry: str, classes: Sequence[str]) -> bool:
    """Write answers to standard output and failures to standard error; says whether there were failures."""
    from fewshot.integrations import formats
    from fewshot.registry import Failure

    if asked.format == "coco":
        answers, sizes = _measured(answers)
    if asked.format == "json":
        say([formats.row(path, answer) for path, answer in answers])
    elif asked.format == "jsonl":
        _put(formats.to_jsonl(answers))
    elif asked.format == "csv":
        _put(formats.to_csv(answers))
        _note_changed(answers)
    elif asked.format == "label-studio":
        names = _names(asked.label_config, classes)
        prefix = LOCAL_FILES if asked.prefix is None else asked.prefix
        version = Path(registry).name
        _say(formats.to_label_studio(answers, prefix=prefix, model_version=version, names=names))
    elif asked.format == "coco":
        _say(formats.to_coco(answers, sizes=sizes, classes=classes))
    else:
        _say(formats.to_fiftyone(answers, classes=classes))
    failures = [(path, answer.reason) for path, answer in answers if isinstance(answer, Failure)]
    for path, reason in failures:
        note(f"not recognised: {path}: {reason}")
    return bool(failures)


def _put(text: str) -> None:
    click.echo(text.encode(), nl=False)  # in UTF-8 whatever the terminal's encoding, for it is read by a program


def _say(value: Any) -> None:
    from fewshot.integrations import as_json

    _put(as_json(value) + "\n")


def _measured(answers: ImagePredictions) -> tuple[ImagePredictions, dict[str, tuple[int, int]]]:
    """Find the size of each picture as it is seen; one that has gone meanwhile becomes a failure."""
    from fewshot.errors import ImageError
    from fewshot.media import map_ahead, open_image
    from fewshot.registry import Failure, Prediction

    paths = [path for path, answer in dict(answers).items() if isinstance(answer, Prediction)]
    found = dict(zip(paths, map_ahead(lambda path: open_image(path).size, paths), strict=True))
    gone = {path: Failure(path, size.reason) for path, size in found.items() if isinstance(size, ImageError)}
    sizes = {path: size for path, size in found.items() if not isinstance(size, ImageError)}
    return [(path, gone.get(path, answer)) for path, answer in answers], sizes


def _note_changed(answers: ImagePredictions) -> None:
    from fewshot.integrations import csv_cell
    from fewshot.registry import Prediction

    told = {path for path, _ in answers}
    told |= {label for _, answer in answers if isinstance(answer, Prediction) for label, _ in answer.top[:1]}
    changed = sorted(csv_cell(text) for text in told if csv_cell(text) != text)
    if changed:
        note(
            f"{counted(len(changed), 'name')} changed for the table, which a spreadsheet would compute or not read: "
            f"{', '.join(changed[:3])}{', ...' if len(changed) > 3 else ''}; --format jsonl keeps them"
        )


def _names(label_config: str | None, classes: Sequence[str]) -> LabelStudioNames:
    from fewshot.integrations import LabelStudioNames

    if label_config is None:
        names = LabelStudioNames()
        note(f"for a labelling interface that takes these: {names.config(classes)}")
        return names
    from fewshot.integrations import parse_config

    controls = [c for c in parse_config(Path(label_config).read_text(encoding="utf-8")) if c.kind == "choices"]
    if not controls:
        raise ValueError(f"{label_config} has no Choices for an Image; add them, or leave --label-config out")
    first = controls[0]
    missing = [label for label in classes if first.labels and label not in first.labels]
    if missing:
        note(
            f"Label Studio refuses a whole import for a choice it does not have; the Choices {first.name!r} of "
            f"{label_config} lack: {', '.join(missing)}"
        )
    return LabelStudioNames(first.name, first.to_name, first.image)
