"""The command line: one JSON value on stdout, everything meant for people on stderr."""

from __future__ import annotations

import click

from fewshot import __version__
from fewshot.cli import (
    calibrate_command,
    class_commands,
    experiment_commands,
    maintenance_commands,
    predict_commands,
    serve_command,
    threshold_commands,
)
from fewshot.cli.options import Commands

__all__ = ["main"]


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Example: fewshot add parts.fewshot bolt b1.jpg b2.jpg, then: fewshot predict parts.fewshot new.jpg",
)
@click.version_option(__version__)
def main() -> None:
    """Learn a new image class from one to five pictures.

    A REGISTRY is one file that holds the classes. Every command prints one JSON value on one line; exit status 0 is
    done, 1 an error or some inputs failed (the JSON lists them), 2 wrong usage.
    """


# In the order in which a newcomer meets them.
for _command in (
    class_commands.add,
    predict_commands.predict,
    predict_commands.evaluate,
    class_commands.classes,
    class_commands.remove,
    class_commands.rename,
    class_commands.merge,
    class_commands.export_,
    class_commands.import_,
    class_commands.reindex,
    class_commands.tune,
    threshold_commands.threshold,
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
    main.add_command(_command)
