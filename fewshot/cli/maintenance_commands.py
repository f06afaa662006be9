"""Commands that keep a registry safe."""

from __future__ import annotations

import click

from fewshot.cli.options import finish, note, opened_registry, say


@click.command(epilog="Example: fewshot backup parts.fewshot /backups/parts.fewshot")
@click.argument("registry")
@click.argument("file")
def backup(registry: str, file: str) -> None:
    """Copy a registry to FILE, checked and whole, while others may write; an older copy there is replaced."""
    from fewshot.registry import encoder_folder

    with opened_registry(registry) as opened:
        about = opened.info()
        say({"file": file, "bytes": opened.backup(file), "examples": about.examples})
        if folder := encoder_folder(about.encoder):
            note(f"its encoder is not in the copy: keep {folder}, too")


@click.command(epilog="Example: fewshot check parts.fewshot")
@click.argument("registry")
def check(registry: str) -> None:
    """Say whether a registry is what was stored: its pages, vectors and pictures, and its encoder's folder."""
    from fewshot.registry import lost_encoder

    with opened_registry(registry) as opened:
        problems, remedy = opened.check(), opened.remedy
        lost = None if problems else lost_encoder(registry, opened.info().encoder)
    for problem in problems:
        note(problem)
    if problems:
        note(remedy)
    if lost:
        note(lost)
        problems.append(lost)
    say({"registry": registry, "problems": problems})
    finish(bool(problems))


@click.command(epilog="Example: fewshot repair parts.fewshot parts-repaired.fewshot")
@click.argument("registry")
@click.argument("new")
def repair(registry: str, new: str) -> None:
    """Write a NEW registry with all that can be read of a damaged one, which is left as it is."""
    from dataclasses import asdict

    from fewshot.registry import repair_registry as repaired

    found = repaired(registry, new)
    for sentence in found.lost:
        note(f"lost: {sentence}")
    say(asdict(found))
