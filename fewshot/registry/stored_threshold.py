"""The threshold that is stored in a registry's file, and how long it is valid."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fewshot.registry.snapshot import Snapshot

if TYPE_CHECKING:
    from fewshot.openset import Threshold

Keys: TypeAlias = tuple[tuple[int | None, int | None], tuple[int | None, int | None]]
"""Of negatives and of the background: the largest id and the sum of the checksums."""

_KEY = "threshold"
# Counts the ways in which thresholds have been estimated: one of an older way is estimated again.
_VERSION = 6
# Beside thousands of classes a threshold stays valid until this share of them may have changed.
_CHANGED_SHARE = 0.1


@dataclass(frozen=True)
class Basis:
    """What a threshold was estimated from.

    It stays valid while examples, descriptions and background are the same, and the negatives where it depends on
    these. Beside more than ``fewshot.openset.SAMPLE_CLASSES`` classes it does until the numbers of examples or of
    classes have changed by a tenth, or there have been as many changes as a tenth of the classes: a few more classes
    hardly move it, and to estimate it anew takes seconds.
    """

    version: int
    fingerprint: str
    negatives: tuple[int | None, int | None]
    background: tuple[int | None, int | None]
    revision: int
    rewrites: int
    last: int
    examples: int
    classes: int
    texts: str

    @classmethod
    def of(cls, snapshot: Snapshot, others: Keys, texts: str, revision: int) -> Basis:
        """Describe a snapshot's examples, negatives, background and texts, by a hash of these."""
        return cls(
            _VERSION,
            str(snapshot.settings["fingerprint"]),
            *others,
            revision,
            snapshot.state[1],
            int(snapshot.ids[-1]),
            len(snapshot),
            len(snapshot.labels),
            texts,
        )

    def holds(self, now: Basis) -> bool:
        """Whether a threshold of this basis is valid for another, later one."""
        from fewshot.openset import SAMPLE_CLASSES

        same = (self.version, self.fingerprint, self.background, self.texts)
        if same != (now.version, now.fingerprint, now.background, now.texts):
            return False
        if min(self.classes, now.classes) <= SAMPLE_CLASSES:
            return (self.rewrites, self.last, self.examples) == (now.rewrites, now.last, now.examples)
        share = _CHANGED_SHARE
        return (
            abs(now.examples - self.examples) <= share * self.examples
            and abs(now.classes - self.classes) <= share * self.classes
            and 0 <= now.revision - self.revision <= share * self.classes
        )


def texts_key(texts: NDArray[np.float32] | None) -> str:
    """Return a hash of the texts' vectors; "" without any."""
    return "" if texts is None else hashlib.sha256(texts.tobytes()).hexdigest()[:16]


def read_threshold(settings: Mapping[str, Any], now: Basis, max_false_accept: float) -> Threshold | None:
    """Return the stored threshold, if it is one for this limit and still valid."""
    from fewshot.openset import Threshold

    with suppress(ValueError, TypeError, KeyError):
        stored = json.loads(settings[_KEY])
        basis = stored.pop("basis")
        before = Basis(**{**basis, **{kind: tuple(basis[kind]) for kind in ("negatives", "background")}})
        found = Threshold(**stored)
        independent = found.met and found.source != "negatives"  # of negatives
        same = before.holds(now) and (independent or before.negatives == now.negatives)
        return found if same and found.max_false_accept == max_false_accept else None
    return None


def write_threshold(connection: sqlite3.Connection, threshold: Threshold, basis: Basis) -> None:
    """Store a threshold; inside ``store.write``."""
    text = json.dumps({**asdict(threshold), "basis": asdict(basis)})
    connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (_KEY, text))


def delete_threshold(connection: sqlite3.Connection) -> None:
    """Forget the stored threshold; inside ``store.write``."""
    connection.execute("DELETE FROM meta WHERE key = ?", (_KEY,))
