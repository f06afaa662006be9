"""The command line: a result on standard output, messages for people on standard error."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from fewshot import __version__
from fewshot.cli import (
    bundle_commands,
    calibrate_command,
    class_commands,
    classifier_command,
    describe_command,
    detect_command,
    doctor_command,
    evaluate_command,
    experiment_commands,
    maintenance_commands,
    move_command,
    predict_commands,
    remove_command,
    serve_command,
    threshold_commands,
    tune_command,
)
from fewshot.cli.interrupt import exit_interrupted
from fewshot.cli.loading_notice import loading_notice
from fewshot.cli.output import format_option, note
from fewshot.cli.text_table import printable
from fewshot.errors import FewShotError
from fewshot.files import DISK, unwritable

__all__ = ["main"]


@contextmanager
def _warnings_as_notes() -> Iterator[None]:
    """Show a library's warnings to users as messages, without a line of its source."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*decompression bomb")  # Pillow's; such images are refused anyway
        show = warnings.showwarning

        def shown(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if category is UserWarning:
                note(str(message))
            else:
                show(message, category, *where, **more)

        warnings.showwarning = shown
        yield


class Commands(click.Group):
    """Commands in the order they were added; an error a user can mend is one line, with exit status 1."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands, unsorted."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; FewShotError, OSError, ValueError, TypeError and KeyError become one line on stderr."""
        try:
            with _warnings_as_notes(), loading_notice():
                return super().invoke(ctx)
        except click.NoSuchOption as error:
            command = error.ctx.command if error.ctx is not None else self
            takes_names = any(parameter.name in ("label", "labels", "images") for parameter in command.params)
            if error.possibilities or not takes_names:
                raise
            raise click.UsageError(
                f"{error.format_message()} A label or file that begins with '-' is given after --, as in: "
                "fewshot add REGISTRY -- -lemon FILE...",
                error.ctx,
            ) from error
        except KeyboardInterrupt as error:
            exit_interrupted(ctx, error)
        except BrokenPipeError:
            raise  # click ends quietly where the reader, as `head`, has gone
        except OSError as error:
            if error.errno in DISK and error.filename is not None:
                error = unwritable(error.filename, error)
            raise click.ClickException(printable(str(error))) from error
        except (FewShotError, ValueError, TypeError) as error:
            raise click.ClickException(printable(str(error))) from error
        except KeyError as error:
            raise click.ClickException(printable(str(error.args[0]))) from error


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Example: fewshot add parts.fewshot bolt b1.jpg b2.jpg, then: fewshot predict parts.fewshot new.jpg",
)
@click.version_option(__version__)
def main() -> None:
    """Learn a new class of images, texts or sounds from one to five examples.

    A REGISTRY is a file that holds the classes. A command prints its result as a table on a terminal, and elsewhere as
    one JSON value on one line; --format decides. Messages go to standard error. Exit status: 0 done; 1 an error, or
    some inputs failed (the result lists them); 2 wrong usage; 130 interrupted.
    """


# In the order in which a newcomer meets them.
for _command in (
    class_commands.add,
    predict_commands.predict,
    evaluate_command.evaluate,
    detect_command.detect,
    doctor_command.doctor,
    class_commands.classes,
    remove_command.remove,
    move_command.move,
    class_commands.rename,
    class_commands.merge,
    describe_command.describe,
    bundle_commands.export_,
    class_commands.import_,
    class_commands.reindex,
    tune_command.tune,
    threshold_commands.threshold,
    classifier_command.classifier,
    serve_command.serve,
    class_commands.info,
    maintenance_commands.backup,
    maintenance_commands.check,
    maintenance_commands.repair,
    experiment_commands.encoders,
    experiment_commands.bench,
    calibrate_command.calibrate,
    experiment_commands.train,
    experiment_commands.demo,
):
    if all(parameter.name != "format" for parameter in _command.params):
        format_option()(_command)
    main.add_command(_command)
