"""The command that removes classes, examples and negatives, or erases them."""

from __future__ import annotations

from dataclasses import asdict

import click

from fewshot.cli.output import note, print_result
from fewshot.cli.registry_access import open_registry


@click.command(epilog="Example: fewshot remove parts.fewshot bolt; or: fewshot remove faces.fewshot alice --forget")
@click.argument("registry")
@click.argument("labels", nargs=-1, metavar="[LABEL]...")
@click.option(
    "--example", "examples", type=int, multiple=True, help="One example, by its id in `fewshot classes REGISTRY LABEL`."
)
@click.option(
    "--negative",
    "negatives",
    type=int,
    multiple=True,
    help="One negative, by its id in `fewshot classes REGISTRY --negatives`.",
)
@click.option("--forget", is_flag=True, help="Erase them, and verify that no byte is left in the file.")
def remove(
    registry: str, labels: tuple[str, ...], examples: tuple[int, ...], negatives: tuple[int, ...], forget: bool
) -> None:
    """Remove a class, one example, or one negative.

    With --forget any number of them; the file is rebuilt and its bytes are searched, and the result says what was found
    elsewhere and what cannot be known. Without any, what was removed before is erased from the file's free pages, and
    an erasure that was cut short is finished.
    """
    if not forget:
        _remove(registry, labels, examples, negatives)
        return
    with open_registry(registry) as opened:
        report = opened.forget(*labels, examples=examples, negatives=negatives)
    for sentence in report.remaining:
        note(f"not erased: {sentence}")
    if report.originals:
        note(f"not erased: {len(report.originals)} files that examples were registered from: see originals")
    print_result(asdict(report))


def _remove(registry: str, labels: tuple[str, ...], examples: tuple[int, ...], negatives: tuple[int, ...]) -> None:
    if len(labels) + len(examples) + len(negatives) != 1:
        raise click.UsageError("give one of LABEL, --example ID and --negative ID; several go with --forget")
    with open_registry(registry) as opened:
        if negatives:
            opened.remove_negative(*negatives)
            print_result({"label": None, "removed": 1, "negatives": opened.rejection.n_negatives})
            return
        if labels:
            label, count = labels[0], opened.remove(*labels)
        else:
            label, count = opened.remove_example(*examples), 1
        print_result({"label": label, "removed": count, "classes": opened.info().classes})
