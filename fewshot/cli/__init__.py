"""The command line: one JSON value on stdout, everything meant for people on stderr."""

from __future__ import annotations

import click

from fewshot import __version__
from fewshot.cli import answers, care, confidence, contents, refusing, research, serving
from fewshot.cli.common import Commands

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
    contents.add,
    answers.predict,
    answers.evaluate,
    contents.classes,
    contents.remove,
    contents.rename,
    contents.merge,
    contents.export_,
    contents.import_,
    contents.reindex,
    contents.tune,
    refusing.threshold,
    serving.serve,
    contents.info,
    care.backup,
    care.check,
    care.repair,
    research.encoders,
    research.bench,
    confidence.calibrate,
    research.train,
    research.demo,
):
    main.add_command(_command)
