"""How many fetches may be in progress at once, in all and from one host."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from fewshot.integrations.label_studio.origin import Origin


class NoSlot(OSError):
    """All slots are taken by fetches that have lasted too long to wait for."""


class FetchSlots:
    """Bounds the fetches in progress, so that hosts that hang leave threads to requests that do not need them.

    Parameters
    ----------
    total : int, default 12
        Of all hosts together.
    per_host : int, default 4
        Of one host.
    patience : float, default 10
        In seconds. A fetch waits for a slot as long as one of those in its way has lasted less, and fails then.
    """

    def __init__(self, total: int = 12, per_host: int = 4, patience: float = 10.0) -> None:
        self._total, self._per_host, self._patience = total, per_host, patience
        self._begun: list[tuple[Origin, float]] = []
        self._changed = threading.Condition()

    @contextmanager
    def take(self, host: Origin, deadline: float) -> Iterator[None]:
        """Hold a slot for a fetch from ``host``.

        Raises
        ------
        NoSlot : if there is none until ``deadline``, by ``time.monotonic``, or no use in waiting for one.
        """
        with self._changed:
            while ahead := self._ahead(host):
                seconds = min(deadline, max(begun for _, begun in ahead) + self._patience) - time.monotonic()
                if seconds <= 0:
                    where = "it" if len({origin for origin, _ in ahead}) == 1 else "it and other hosts"
                    raise NoSlot(f"{len(ahead)} fetches from {where} are in progress and do not end")
                self._changed.wait(seconds)
            slot = (host, time.monotonic())
            self._begun.append(slot)
        try:
            yield
        finally:
            with self._changed:
                self._begun.remove(slot)
                self._changed.notify_all()

    def _ahead(self, host: Origin) -> list[tuple[Origin, float]]:
        """Return the fetches one of which must end before another from ``host`` begins."""
        same = [one for one in self._begun if one[0] == host]
        if len(same) >= self._per_host:
            return same
        return list(self._begun) if len(self._begun) >= self._total else []
