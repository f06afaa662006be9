"""The command that fine-tunes a registry's encoder."""

from __future__ import annotations

import shlex
from typing import Any

import click

from fewshot.cli.output import note, print_result
from fewshot.cli.registry_access import open_registry


@click.command(epilog="Example: fewshot tune parts.fewshot; to undo: fewshot reindex parts.fewshot --encoder pocket")
@click.argument("registry")
@click.option("--trainable", help="Layers: last, last-N, all, norms or lora; by default last-2, of texts last-4.")
@click.option(
    "--loss",
    type=click.Choice(["cross-entropy", "prototypical"]),
    default="cross-entropy",
    show_default=True,
    help="Training loss.",
)
@click.option(
    "--schedule",
    type=click.Choice(["together", "progressive"]),
    default="together",
    show_default=True,
    help="Train the layers together, or unfreeze them one after another.",
)
@click.option("--steps", type=click.IntRange(1), help="Gradient steps; by default chosen by cross-validation.")
@click.option("--learning-rate", type=float, help="By default chosen by cross-validation.")
@click.option("--views", type=click.IntRange(1), default=8, show_default=True, help="Augmented views of each image.")
@click.option("--rank", type=click.IntRange(1), default=4, show_default=True, help="Rank of lora.")
@click.option("--flip", is_flag=True, help="Augment by horizontal flips; not for characters.")
@click.option("--memory", type=float, default=1.0, show_default=True, help="Memory to use, in GiB.")
@click.option(
    "--seed", "random_state", type=click.IntRange(0), default=0, show_default=True, help="Seed of views and folds."
)
@click.option("--out", "folder", metavar="DIR", help="Folder of the new encoder; by default beside the registry.")
def tune(registry: str, folder: str | None, **settings: Any) -> None:
    """Fine-tune the encoder on a registry's own images or texts.

    A copy of the encoder is trained, and the examples are embedded again with it. If no setting improves on the encoder
    in cross-validation of the registry's classifier, nothing is changed. The old encoder is not deleted: `fewshot
    reindex` returns to it.
    """
    from dataclasses import asdict

    from fewshot.finetuning import tune_registry

    with open_registry(registry) as opened:
        report = tune_registry(opened, folder=folder, **settings)
        for why in opened.rejection.renewed():
            note(why)
    if report.examples:
        extras = [f"--{key} {report.was[key]}" for key in ("layer", "pool") if report.was.get(key) is not None]
        encoder = " ".join([shlex.quote(report.was["name"]), *extras])
        note(f"to undo: fewshot reindex {shlex.quote(registry)} --encoder {encoder}")
    else:
        note("no setting improved on the encoder in cross-validation, so nothing was changed")
    print_result(asdict(report))
