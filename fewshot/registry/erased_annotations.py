"""What a registry holds of annotations, erased with the examples, negatives and labels that they give."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass

from fewshot.registry.schema import BY_HAND
from fewshot.registry.traces import occurs_as_word

_GIVES_MORE = "SELECT 1 FROM lessons WHERE annotation = ? LIMIT 1"


@dataclass(frozen=True)
class ErasedAnnotations:
    """How many annotations something was erased of, which labels they named, and what is left to do elsewhere."""

    erased: int
    labels: frozenset[str]
    remaining: tuple[str, ...]


def erase_annotations(
    connection: sqlite3.Connection,
    examples: Iterable[int],
    negatives: Iterable[int],
    labels: Iterable[str],
    sources: Iterable[str],
) -> ErasedAnnotations:
    """Erase what annotations give these examples, negatives and labels; inside ``store.write``.

    An annotation that gives nothing else is marked as deleted, so that no later record of it brings them back. What is
    pending of one is erased if it names a label or a source.
    """
    touched: set[int] = set()
    named: set[str] = set()
    for kind, ids in (("example", examples), ("negative", negatives)):
        for id_ in ids:
            touched |= _given(connection, kind, id_)
    for label in labels:
        if given := _given(connection, "label", label):
            named.add(label)
            touched |= given
    words = {*labels, *(source.partition(", region ")[0] for source in sources)}
    pending, mentioned = _mentioning(connection, words)
    touched, named = (touched | pending) - {BY_HAND}, named | mentioned
    ended = {one for one in touched if not connection.execute(_GIVES_MORE, (one,)).fetchone()}
    connection.executemany(
        "INSERT OR REPLACE INTO annotations (id, updated, state) VALUES (?, 0, 'gone')", [(one,) for one in ended]
    )
    connection.executemany(
        "UPDATE annotations SET state = 'learned', body = NULL, reason = NULL WHERE id = ? AND state <> 'gone'",
        [(one,) for one in touched - ended],
    )
    told = []
    if ended:
        told.append(f"annotations {_listed(ended)} in the labelling tool: they are not read again, but stay there")
    if touched - ended:
        told.append(
            f"annotations {_listed(touched - ended)} in the labelling tool: they give other labels, too, and are read "
            "again when they are changed; remove what is erased there first"
        )
    row = connection.execute("SELECT value FROM meta WHERE key = 'learn_again'").fetchone()
    if row is not None and any(_mentions(label, str(row[0])) for label in labels):
        connection.execute("DELETE FROM meta WHERE key = 'learn_again'")
        told.append("a request to read the labelling project again was dropped, for it names the label: ask again")
    return ErasedAnnotations(len(touched), frozenset(named), tuple(told))


def _mentioning(connection: sqlite3.Connection, words: Iterable[str]) -> tuple[set[int], set[str]]:
    """Return the annotations whose pending labels or problems have one of the words, and those words."""
    touched, named = set(), set()
    for id_, *texts in connection.execute(
        "SELECT id, coalesce(body, ''), coalesce(reason, '') FROM annotations WHERE state <> 'gone'"
    ):
        if mentioned := {word for word in words if any(_mentions(word, text) for text in texts)}:
            touched.add(id_)
            named |= mentioned
    return touched, named


def _given(connection: sqlite3.Connection, column: str, value: object) -> set[int]:
    """Delete what annotations gave by a column's value; returns the annotations."""
    found = {id_ for (id_,) in connection.execute(f"SELECT annotation FROM lessons WHERE {column} = ?", (value,))}
    connection.execute(f"DELETE FROM lessons WHERE {column} = ?", (value,))
    return found


def _mentions(word: str, text: str) -> bool:
    """Whether a text, or one in JSON, has a word."""
    return bool(word) and (occurs_as_word(word, text) or occurs_as_word(json.dumps(word)[1:-1], text))


def _listed(annotations: set[int]) -> str:
    return ", ".join(map(str, sorted(annotations)[:20])) + (", ..." if len(annotations) > 20 else "")
