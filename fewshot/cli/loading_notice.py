"""One line on a terminal before the seconds that torch's import takes."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType

import click


class _Notice:
    """A finder of modules that finds none, but says on standard error when torch is about to be imported."""

    def __init__(self) -> None:
        self._shown = False

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        """Print the line before the first import of torch; return None, so that the next finder is asked."""
        if name == "torch" and not self._shown:
            self._shown = True
            click.echo("Loading ...", err=True)


@contextmanager
def loading_notice() -> Iterator[None]:
    """Within this context, say on a terminal when torch is about to be imported, if it was not yet."""
    if "torch" in sys.modules or not sys.stderr.isatty():
        yield
        return
    notice = _Notice()
    sys.meta_path.insert(0, notice)
    try:
        yield
    finally:
        sys.meta_path.remove(notice)
