"""The one progress bar: on stderr, on a terminal only, and only for work longer than two seconds."""

from __future__ import annotations

import sys
import threading
from functools import cache
from types import TracebackType
from typing import Any

_PATIENCE_SECONDS = 2.0


class Progress:
    """A bar for work counted in pictures, or another unit: ``with Progress(total, "add") as bar: ... bar.advance(8)``.

    Work inside such work shows no bar of its own; its notes stand behind the outer one.
    """

    _depth = 0
    _outer: Any = None

    def __init__(self, total: int | None, what: str, *, unit: str = "image") -> None:
        self._total, self._what, self._unit = total, what, unit

    def __enter__(self) -> Progress:
        Progress._depth += 1
        self._bar: Any = None
        if Progress._depth == 1 and sys.stderr is not None and sys.stderr.isatty():
            self._bar = _bar_type()(
                total=self._total, desc=self._what, delay=_PATIENCE_SECONDS, leave=False, unit=self._unit
            )
            Progress._outer = self._bar
        return self

    def advance(self, pictures: int) -> None:
        """Count more pictures as done."""
        if self._bar is not None:
            self._bar.update(pictures)

    def note(self, text: str) -> None:
        """Show a few words behind the bar, such as the loss, when it is next drawn."""
        if Progress._outer is not None:
            Progress._outer.set_postfix_str(text, refresh=False)

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        Progress._depth -= 1
        if self._bar is not None:
            Progress._outer = None
            self._bar.close()


@cache
def _bar_type() -> Any:
    """A bar with a lock of this process alone: tqdm's is shared with forked ones, and one killed with it stops all."""
    from tqdm import tqdm

    class Bar(tqdm):  # type: ignore[misc, type-arg, unused-ignore]
        monitor_interval = 0

    Bar.set_lock(threading.RLock())
    return Bar
