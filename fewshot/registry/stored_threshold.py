"""The threshold that is stored in a registry's file, and how long it is valid."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from fewshot.registry.snapshot import Snapshot

if TYPE_CHECKING:
    from fewshot.openset import Threshold

_KEY = "threshold"
# Counts the ways in which thresholds have been estimated: one of an older way is estimated again.
_VERSION = 4
# Beside thousands of classes a threshold stays valid until this share of them may have changed.
_CHANGED_SHARE = 0.1


@dataclass(frozen=True)
class Basis:
    """What a threshold was estimated from.

    It stays valid while examples and background are the same. Beside more than ``fewshot.openset.SAMPLE_CLASSES``
    classes it does until the numbers of examples or of classes have changed by a tenth, or there have been as many
    changes as a tenth of the classes: a few more classes hardly move it, and to estimate it anew takes seconds.
    """

    version: int
    fingerprint: str
    background: tuple[int | None, int | None]
    revision: int
    rewrites: int
    last: int
    examples: int
    classes: int

    @classmethod
    def of(cls, snapshot: Snapshot, background: tuple[int | None, int | None], revision: int) -> Basis:
        """Describe a snapshot's examples, and a background by its largest id and the sum of its checksums."""
        return cls(
            _VERSION,
            str(snapshot.settings["fingerprint"]),
            background,
            revision,
            snapshot.state[1],
            int(snapshot.ids[-1]),
            len(snapshot),
            len(snapshot.labels),
        )

    def holds(self, now: Basis) -> bool:
        """Whether a threshold of this basis is valid for another, later one."""
        from fewshot.openset import SAMPLE_CLASSES

        if (self.version, self.fingerprint, self.background) != (now.version, now.fingerprint, now.background):
            return False
        if min(self.classes, now.classes) <= SAMPLE_CLASSES:
            return (self.rewrites, self.last, self.examples) == (now.rewrites, now.last, now.examples)
        share = _CHANGED_SHARE
        return (
            abs(now.examples - self.examples) <= share * self.examples
            and abs(now.classes - self.classes) <= share * self.classes
            and 0 <= now.revision - self.revision <= share * self.classes
        )


def read_threshold(settings: Mapping[str, Any], now: Basis, max_false_accept: float) -> Threshold | None:
    """Return the stored threshold, if it is one for this limit and still valid."""
    from fewshot.openset import Threshold

    with suppress(ValueError, TypeError, KeyError):
        stored = json.loads(settings[_KEY])
        basis = stored.pop("basis")
        before = Basis(**{**basis, "background": tuple(basis["background"])})
        if stored["max_false_accept"] == max_false_accept and before.holds(now):
            return Threshold(**stored)
    return None


def write_threshold(connection: sqlite3.Connection, threshold: Threshold, basis: Basis) -> None:
    """Store a threshold; inside ``store.write``."""
    text = json.dumps({**asdict(threshold), "basis": asdict(basis)})
    connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (_KEY, text))


def delete_threshold(connection: sqlite3.Connection) -> None:
    """Forget the stored threshold; inside ``store.write``."""
    connection.execute("DELETE FROM meta WHERE key = ?", (_KEY,))
