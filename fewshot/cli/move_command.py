"""The command that gives an example to another class."""

from __future__ import annotations

import click

from fewshot.cli.output import print_result
from fewshot.cli.registry_access import open_registry


@click.command(epilog="Example: fewshot move parts.fewshot bolt --example 17")
@click.argument("registry")
@click.argument("label")
@click.option("--example", type=int, required=True, help="Its id in `fewshot classes REGISTRY LABEL`.")
def move(registry: str, label: str, example: int) -> None:
    """Move an example to another class.

    LABEL is a class, known or new. Where it holds the same file already, the one it has is kept, and its id printed.
    """
    with open_registry(registry) as opened:
        moved = opened.move_example(example, label)
        print_result({"example": moved.id, "label": moved.label, "source": moved.source})
