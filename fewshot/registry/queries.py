"""A registry's file looked at page by page; its examples and negatives moved and dropped."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fewshot.errors import ImageError, RegistryError
from fewshot.registry.schema import BY_HAND, checksum
from fewshot.registry.store import RegistryStore


@dataclass(frozen=True)
class Kept:
    """An example, or a negative, whose label is then None."""

    id: int
    label: str | None
    source: str


@dataclass(frozen=True)
class Whole:
    """An example with its vector (d,), by the encoder of that fingerprint, and the SHA-256 of its picture, in hex."""

    id: int
    label: str
    source: str
    sha256: str
    vector: NDArray[np.float32]
    fingerprint: str


def examples(store: RegistryStore, label: str | None = None, *, after: int = 0, limit: int = 100) -> list[Kept]:
    """Return up to ``limit`` examples with ids above ``after``, rising; of one class or, with None, of all.

    Raises
    ------
    KeyError : if there is no such class.
    """
    with store.read() as connection:
        of_class = "" if label is None else "class_id = ? AND "
        values = (after, limit) if label is None else (store.class_id(label), after, limit)
        found = connection.execute(
            "SELECT examples.id, label, source FROM examples JOIN classes ON classes.id = class_id "
            f"WHERE {of_class}examples.id > ? ORDER BY examples.id LIMIT ?",
            values,
        )
        return [Kept(*row) for row in found]


def first_examples(store: RegistryStore, count: int) -> dict[str, list[int]]:
    """Return the first ``count`` example ids of each class, in the order in which the classes came."""
    with store.read() as connection:
        classes = connection.execute("SELECT id, label FROM classes ORDER BY id").fetchall()
        return {
            label: [
                id_
                for (id_,) in connection.execute(
                    "SELECT id FROM examples WHERE class_id = ? ORDER BY id LIMIT ?", (class_id, count)
                )
            ]
            for class_id, label in classes
        }


def with_hashes(store: RegistryStore, hashes: Sequence[bytes], label: str) -> list[int]:
    """Return the ids of a class's examples whose pictures have these hashes, in that order."""
    found: dict[int, None] = {}
    with store.read() as connection:
        for sha256 in hashes:
            rows = connection.execute(
                "SELECT examples.id FROM examples JOIN classes ON classes.id = class_id WHERE sha256 = ? AND label = ?",
                (sha256, label),
            )
            found.update((id_, None) for (id_,) in rows)
    return list(found)


def negatives_with_hashes(store: RegistryStore, hashes: Sequence[bytes]) -> list[int]:
    """Return the ids of the negatives of pictures with these hashes, in that order."""
    with store.read() as connection:
        rows = [
            connection.execute("SELECT id FROM outsiders WHERE kind = 'negative' AND sha256 = ?", (sha256,)).fetchone()
            for sha256 in hashes
        ]
    return list(dict.fromkeys(row[0] for row in rows if row is not None))


def whole_examples(store: RegistryStore, *, after: int, limit: int) -> list[Whole]:
    """Return up to ``limit`` examples with ids above ``after``, rising, with all that is known of each.

    Raises
    ------
    RegistryError : if one of them is not what was stored.
    """
    with store.read() as connection:
        rows = connection.execute(
            "SELECT examples.id, label, source, sha256, vector, checksum FROM examples "
            "JOIN classes ON classes.id = class_id WHERE examples.id > ? ORDER BY examples.id LIMIT ?",
            (after, limit),
        ).fetchall()
        fingerprint = str(store.meta().get("fingerprint", ""))
    for id_, _, source, sha256, vector, stored in rows:
        if checksum(sha256, source, vector) != stored:
            raise RegistryError(f"{store.path} is damaged: example {id_}, {source}, is not what was stored")
    return [
        Whole(id_, label, source, sha256.hex(), np.frombuffer(vector, "<f4"), fingerprint)
        for id_, label, source, sha256, vector, _ in rows
    ]


def move(store: RegistryStore, example: int, label: str) -> int:
    """Give an example to another class, known or new, in one transaction.

    Returns
    -------
    int
        The example's id; if that class holds the same picture already, the id it has there, and this one is dropped.

    Raises
    ------
    KeyError : if there is no such example.
    """
    with store.write() as connection:
        row = connection.execute("SELECT class_id, sha256 FROM examples WHERE id = ?", (example,)).fetchone()
        if row is None:
            raise KeyError(f"no example {example} in {store.path}")
        was, sha256 = row
        connection.execute("INSERT OR IGNORE INTO classes (label) VALUES (?)", (label,))
        target = store.class_id(label)
        if target == was:
            return example
        there = connection.execute(
            "SELECT id FROM examples WHERE class_id = ? AND sha256 = ?", (target, sha256)
        ).fetchone()
        if there is not None:
            _join(store, connection, [(example, int(there[0]))])
            return int(there[0])
        connection.execute("UPDATE examples SET class_id = ? WHERE id = ?", (target, example))
        connection.execute(
            "DELETE FROM classes WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM examples WHERE class_id = ?1)", (was,)
        )
        return example


def merge(store: RegistryStore, labels: Sequence[str], into: str) -> int:
    """Move the examples of classes into one, known or new, in one transaction; returns how many it then has.

    Raises
    ------
    KeyError : if there is no such class, with close matches.
    """
    with store.write() as connection:
        sources = [store.class_id(label) for label in labels]
        if sources:
            connection.execute("INSERT OR IGNORE INTO classes (label) VALUES (?)", (into,))
        target = store.class_id(into)
        for source in sources:
            if source != target:
                twins = connection.execute(
                    "SELECT old.id, new.id FROM examples old JOIN examples new USING (sha256) "
                    "WHERE old.class_id = ? AND new.class_id = ?",
                    (source, target),
                ).fetchall()
                _join(store, connection, twins)
                connection.execute("UPDATE examples SET class_id = ? WHERE class_id = ?", (target, source))
                connection.execute("DELETE FROM classes WHERE id = ?", (source,))
        (count,) = connection.execute("SELECT count(*) FROM examples WHERE class_id = ?", (target,)).fetchone()
        return int(count)


def _join(store: RegistryStore, connection: sqlite3.Connection, twins: Sequence[tuple[int, int]]) -> None:
    """Drop examples for others of the same picture, given as (dropped, kept); lessons follow. Inside ``write``."""
    for gone, kept in twins:
        taught = [
            connection.execute("SELECT 1 FROM lessons WHERE example = ? LIMIT 1", (id_,)).fetchone() is not None
            for id_ in (gone, kept)
        ]
        if taught[0] != taught[1]:  # the other was registered by hand, and so stays whatever becomes of the lessons
            connection.execute(
                "INSERT OR IGNORE INTO lessons (annotation, control, region, label, example) VALUES (?, '', ?, '', ?)",
                (BY_HAND, f"example {kept}", kept),
            )
        connection.execute("UPDATE lessons SET example = ? WHERE example = ?", (kept, gone))
    store.delete([gone for gone, _ in twins])


def kept_picture(store: RegistryStore, example: int) -> bytes:
    """Return the original bytes of an example's picture from the registry itself; no other file is read.

    Raises
    ------
    KeyError : if there is no such example.
    ImageError : if its picture was not kept.
    """
    with store.read() as connection:
        row = connection.execute(
            "SELECT source, data FROM examples LEFT JOIN images USING (sha256) WHERE id = ?", (example,)
        ).fetchone()
    if row is None:
        raise KeyError(f"no example {example} in {store.path}")
    source, data = row
    if data is None:
        raise ImageError(source, "its picture is not kept in the registry")
    return bytes(data)


def list_negatives(store: RegistryStore, *, after: int = 0, limit: int = 100) -> list[Kept]:
    """Return up to ``limit`` negatives with ids above ``after``, rising."""
    with store.read() as connection:
        found = connection.execute(
            "SELECT id, NULL, source FROM outsiders WHERE kind = 'negative' AND id > ? ORDER BY id LIMIT ?",
            (after, limit),
        )
        return [Kept(*row) for row in found]


def remove_negative(store: RegistryStore, negative: int) -> None:
    """Forget one negative.

    Raises
    ------
    KeyError : if there is no such negative.
    """
    with store.write(append=True) as connection:
        gone = connection.execute("DELETE FROM outsiders WHERE kind = 'negative' AND id = ?", (negative,)).rowcount
        if not gone:
            raise KeyError(f"no negative {negative} in {store.path}")
