"""Describing classes in words."""

from __future__ import annotations

import click

from fewshot.cli.options import encoder_options
from fewshot.cli.output import print_result
from fewshot.cli.registry_access import open_registry


@click.command(epilog='Example: fewshot describe parts.fewshot beans "a red tin of beans"')
@click.argument("registry")
@click.argument("label", required=False)
@click.argument("text", required=False)
@click.option("--names", is_flag=True, help='Describe each class that is not by its name: "a photo of a LABEL".')
@click.option("--remove", is_flag=True, help="Remove the description of LABEL or, without it, all.")
@encoder_options
def describe(
    registry: str, label: str | None, text: str | None, names: bool, remove: bool, encoding: dict[str, object]
) -> None:
    """Describe a class in words, or list the descriptions.

    Of images, with an encoder that reads texts, too: --encoder clip:NAME. The description is a prior: it counts the
    more, the fewer examples the class has, and alone where it has none. Without TEXT it is "a photo of a LABEL".
    REGISTRY is created if it does not exist.
    """
    if (text is not None or (names and label is not None)) and (remove or names):
        raise click.UsageError("give either TEXT, --names or --remove")
    if names and remove:
        raise click.UsageError("give either --names or --remove")
    with open_registry(registry, encoding, create=not remove and (names or label is not None)) as opened:
        if remove:
            for one in opened.descriptions() if label is None else [label]:
                opened.forget_description(one)
        elif label is not None:
            opened.describe(label, text)
        elif names:
            for one in [label for label in opened.classes() if label not in opened.descriptions()]:
                opened.describe(one)
        found = opened.descriptions()
        print_result(found, [{"class": one, "description": words} for one, words in found.items()])
