"""Commands that copy, check and repair a registry."""

from __future__ import annotations

import click

from fewshot.cli.output import exit_if_failed, note, print_result
from fewshot.cli.registry_access import open_registry


@click.command(epilog="Example: fewshot backup parts.fewshot /backups/parts.fewshot")
@click.argument("registry")
@click.argument("file")
def backup(registry: str, file: str) -> None:
    """Copy a registry to FILE, and check the copy.

    Others may write to the registry meanwhile. An older copy in FILE is replaced.
    """
    from fewshot.registry import encoder_folder

    with open_registry(registry) as opened:
        about = opened.info()
        print_result({"file": file, "bytes": opened.backup(file), "examples": about.examples})
        if folder := encoder_folder(about.encoder):
            note(f"the copy does not hold the encoder: back up {folder} as well")


@click.command(epilog="Example: fewshot check parts.fewshot")
@click.argument("registry")
def check(registry: str) -> None:
    """Check a registry for damage.

    Its database, its vectors and examples, and the folder of its encoder are checked.
    """
    from fewshot.registry import lost_encoder

    with open_registry(registry) as opened:
        problems, remedy = opened.check(), opened.remedy
        lost = None if problems else lost_encoder(registry, opened.info().encoder)
    for problem in problems:
        note(problem)
    if problems:
        note(remedy)
    if lost:
        note(lost)
        problems.append(lost)
    print_result({"registry": registry, "problems": problems})
    exit_if_failed(bool(problems))


@click.command(epilog="Example: fewshot repair parts.fewshot parts-repaired.fewshot")
@click.argument("registry")
@click.argument("new")
def repair(registry: str, new: str) -> None:
    """Recover what can be read of a damaged registry.

    It is written to NEW; the damaged registry is not changed.
    """
    from dataclasses import asdict

    from fewshot.registry import repair_registry as repaired

    found = repaired(registry, new)
    for sentence in found.lost:
        note(f"lost: {sentence}")
    print_result(asdict(found))
