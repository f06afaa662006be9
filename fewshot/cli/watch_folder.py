"""Predicting files as they arrive in a folder, until Ctrl-C."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from fewshot.cli.example_paths import registry_medium
from fewshot.cli.interrupt import keep_on_interrupt
from fewshot.cli.output import chosen_format, note, write

if TYPE_CHECKING:
    from fewshot.media import Arrivals, Medium
    from fewshot.registry import ClassRegistry, Failure, Prediction

# So many are answered before the next are read.
_FILES_AT_ONCE = 64


def check_watch_options(**given: object) -> None:
    """Refuse what does not go with ``--watch``: options, by name, and formats that are whole only at the end."""
    for name, value in given.items():
        if value not in (None, ()):
            option = name if name.isupper() else f"--{name.replace('_', '-')}"
            raise click.UsageError(f"{option} does not go with --watch, which predicts one file at a time")
    source = click.get_current_context().get_parameter_source("format")
    if source == click.core.ParameterSource.COMMANDLINE and chosen_format() != "jsonl":
        raise click.UsageError(f"--watch writes a JSON object per line: --format jsonl, not {chosen_format()}")


def watch_folder(registry: ClassRegistry, folder: str, **asked: Any) -> None:
    """Write an answer for each file that arrives, as soon as it is known; ``asked`` is ``predict_valid``'s."""
    from fewshot.errors import NoClasses
    from fewshot.integrations import formats
    from fewshot.media import Arrivals
    from fewshot.registry import Prediction

    medium = registry_medium(registry)
    arrivals = Arrivals(folder, medium)
    if registry.is_empty:
        raise NoClasses(f"{registry.path} holds no classes yet; register some with: fewshot add {registry.path} ...")
    registry.encoder  # noqa: B018  # loaded before the first file comes, or refused
    answered = failed = 0
    keep_on_interrupt(f"no {medium.noun} arrived in {folder}")
    for number, arrived in enumerate(arrivals):
        if number == 0:
            note(f"watching {folder} for new {medium.noun}s; Ctrl-C ends it")
        for name in arrived.ignored:
            note(f"ignored, not {medium.one} by its name: {name}")
        for name in arrived.gone:
            note(f"gone before it was read: {name}")
        for start in range(0, len(arrived.files), _FILES_AT_ONCE):
            some = arrived.files[start : start + _FILES_AT_ONCE]
            for name, answer in _answers(registry, arrivals, medium, some, asked):
                read = isinstance(answer, Prediction)
                answered, failed = answered + read, failed + (not read)
                unread = f", {failed:,} could not be read" if failed else ""
                keep_on_interrupt(f"{medium.counted(answered)} of {folder} predicted{unread}")
                write(formats.to_jsonl([(name, answer)]))


def _answers(
    registry: ClassRegistry, arrivals: Arrivals, medium: Medium, files: tuple[str, ...], asked: dict[str, Any]
) -> Iterator[tuple[str, Prediction | Failure]]:
    """Yield an answer for each file, but for one that may not be whole yet."""
    found = registry.predict_valid([medium.from_path(name) for name in files], **asked)
    answers = dict(zip(found.positions, found.predictions, strict=True))
    failures = iter(found.failed)
    for n, name in enumerate(files):
        if n in answers:
            yield name, answers[n]
            continue
        failure = next(failures)
        if not arrivals.again(name):
            yield name, failure
