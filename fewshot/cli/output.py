"""What a command gives: one JSON value on standard output, messages on standard error, and files."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import click

from fewshot.integrations import as_json


def print_json(value: Any) -> None:
    """Print a command's one JSON value, with ASCII escapes where the stream's encoding lacks a character."""
    text = as_json(value)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        text = "".join(c if c.isascii() else json.dumps(c)[1:-1] for c in text)  # non-ASCII is in strings only
    click.echo(text)


def note(message: str) -> None:
    """Print a message on standard error."""
    click.echo(printable(message), err=True)


def exit_if_failed(failed: bool) -> None:
    """End with exit status 1 if some inputs failed."""
    if failed:
        raise click.exceptions.Exit(1)


def printable(message: str) -> str:
    """Escape characters that do not print, so that a file's name cannot control the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in message)


def counted(n: int, noun: str) -> str:
    """Return "1 file" or "2 files"."""
    return f"{n} {noun}" + ("" if n == 1 else "s")


def check_writable(path: str) -> None:
    """Raise ValueError for an output file whose folder does not exist, before the work rather than after it."""
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        raise ValueError(f"cannot write {path}: there is no folder {folder}")
    if os.path.isdir(path):
        raise ValueError(f"cannot write {path}: it is a folder; give a file")
