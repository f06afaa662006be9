"""Ctrl-C: one line that says what is left of a command's work, and exit status 130."""

from __future__ import annotations

from typing import NoReturn

import click

from fewshot.cli.output import note

_KEPT = "fewshot.kept"  # in click's context


def keep_on_interrupt(sentence: str) -> None:
    """Set what is said of this command's work if Ctrl-C ends it from now on; by default, that nothing was changed."""
    click.get_current_context().meta[_KEPT] = sentence


def exit_interrupted(context: click.Context, error: KeyboardInterrupt) -> NoReturn:
    """Say in one line what an interrupted command has left, and end with exit status 130."""
    note(f"Interrupted: {str(error) or context.meta.get(_KEPT, 'nothing was changed')}")
    raise click.exceptions.Exit(130) from error
