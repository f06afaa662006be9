"""Lessons on their way into a registry's examples and negatives, and out again; all inside ``store.write``."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fewshot.registry import negative_examples
from fewshot.registry.annotations.annotation_records import Lesson, Taught
from fewshot.registry.ingest import add_examples
from fewshot.registry.schema import BY_HAND, storable
from fewshot.registry.store import NewExample, RegistryStore
from fewshot.validation import check_label

if TYPE_CHECKING:
    from fewshot.encoders import Encoder


Places: TypeAlias = dict[tuple[str, str, str], tuple[bytes, str]]
"""Of each lesson, by control, region and label: the hash of its picture, and the class that the example is of now."""


class Pupil:
    """Takes in what annotations teach; inside one transaction.

    ``begun`` is kept from part to part: what the annotation that was last begun had taught before.
    """

    def __init__(
        self,
        store: RegistryStore,
        connection: sqlite3.Connection,
        encoder: Encoder,
        keep: bool,
        begun: dict[int, Places],
    ) -> None:
        self._store, self._connection, self._encoder, self._keep = store, connection, encoder, keep
        self._begun = begun

    def take(self, one: Taught, vectors: Mapping[bytes, NDArray[np.float32]], reasons: Mapping[bytes, str]) -> None:
        """Take in a note or a part of it, in place of what its annotation taught before.

        What it says again of the same picture is learned of the class that the example was moved to by hand, if it was.

        Parameters
        ----------
        one : Taught
        vectors, reasons : mapping
            By the hash of a picture, its vector (d,), or why there is none.
        """
        annotation, problems = one.note.annotation, list(one.problems)
        old = supported(self._connection, annotation) if one.begins else set()
        if one.begins:
            self._begun.clear()
            self._begun[annotation] = _places(self._connection, annotation)
            self._connection.execute("DELETE FROM lessons WHERE annotation = ?", (annotation,))
            self._connection.execute("UPDATE annotations SET reason = NULL WHERE id = ?", (annotation,))
        before = self._begun.get(annotation, {})
        for lesson in one.lessons:
            digest = lesson.digest
            if digest not in vectors:
                problems.append(f"{lesson.source}: {reasons[digest]}")
                continue
            if not lesson.labels:
                self._support(annotation, lesson, "", "negative", self._negative(lesson, vectors[digest]), old)
            for label in lesson.labels:
                try:
                    check_label(label)
                except ValueError as error:
                    problems.append(f"{lesson.source}: {error}")
                else:
                    was, place = before.get((lesson.control, lesson.region, label), (digest, label))
                    found = self._example(lesson, place if was == digest else label, vectors[digest])
                    self._support(annotation, lesson, label, "example", found, old)
        drop_unsupported(self._store, self._connection, old)
        if problems:
            self._connection.execute(
                "UPDATE annotations SET reason = coalesce(reason || '; ', '') || ? WHERE id = ?",
                (storable("; ".join(problems)), annotation),
            )
        if one.ends:
            self._connection.execute(
                "UPDATE annotations SET state = 'learned', body = ? WHERE id = ?", (one.note.digest, annotation)
            )

    def _support(
        self, annotation: int, lesson: Lesson, label: str, kind: str, found: tuple[int, bool], old: set[tuple[str, int]]
    ) -> None:
        id_, new = found
        insert = f"INSERT OR REPLACE INTO lessons (annotation, control, region, label, {kind}) VALUES (?, ?, ?, ?, ?)"
        supported = self._connection.execute(f"SELECT 1 FROM lessons WHERE {kind} = ? LIMIT 1", (id_,)).fetchone()
        if not new and not supported and (kind, id_) not in old:
            self._connection.execute(insert, (BY_HAND, "", f"{kind} {id_}", "", id_))
        self._connection.execute(insert, (annotation, lesson.control, lesson.region, label, id_))

    def _example(self, lesson: Lesson, label: str, vector: NDArray[np.float32]) -> tuple[int, bool]:
        """Return the id of the class's example of this picture, and whether it was made for this lesson."""
        digest = lesson.digest
        example = NewExample(label, digest, lesson.source, None, vector, lesson.picture if self._keep else None)
        added = add_examples(self._store, [example], allow_conflict=True).added
        (id_,) = self._connection.execute(
            "SELECT examples.id FROM examples JOIN classes ON classes.id = class_id WHERE label = ? AND sha256 = ?",
            (label, digest),
        ).fetchone()
        return int(id_), bool(added)

    def _negative(self, lesson: Lesson, vector: NDArray[np.float32]) -> tuple[int, bool]:
        digest = lesson.digest
        picture = lesson.picture if self._keep else None
        added = negative_examples.insert(
            self._connection,
            "negative",
            vector,
            self._encoder.fingerprint,
            digest=digest,
            source=lesson.source,
            data=picture,
        )
        (id_,) = self._connection.execute(
            "SELECT id FROM outsiders WHERE kind = 'negative' AND sha256 = ?", (digest,)
        ).fetchone()
        return int(id_), added


def _places(connection: sqlite3.Connection, annotation: int) -> Places:
    rows = connection.execute(
        "SELECT control, region, lessons.label, sha256, classes.label FROM lessons "
        "JOIN examples ON examples.id = example JOIN classes ON classes.id = class_id WHERE annotation = ?",
        (annotation,),
    )
    return {(control, region, label): (sha256, place) for control, region, label, sha256, place in rows}


def supported(connection: sqlite3.Connection, annotation: int) -> set[tuple[str, int]]:
    """Return the examples and negatives that an annotation supports."""
    rows = connection.execute("SELECT example, negative FROM lessons WHERE annotation = ?", (annotation,)).fetchall()
    held = {(kind, id_) for row in rows for kind, id_ in zip(("example", "negative"), row, strict=True)}
    return {(kind, id_) for kind, id_ in held if id_ is not None}


def drop_unsupported(store: RegistryStore, connection: sqlite3.Connection, held: Iterable[tuple[str, int]]) -> None:
    """Delete those of the examples and negatives that no lesson supports any more."""
    for kind, id_ in held:
        if connection.execute(f"SELECT 1 FROM lessons WHERE {kind} = ? LIMIT 1", (id_,)).fetchone():
            continue
        if kind == "negative":
            connection.execute("DELETE FROM outsiders WHERE id = ?", (id_,))
        elif connection.execute("SELECT 1 FROM examples WHERE id = ?", (id_,)).fetchone():
            store.delete([id_])
            connection.execute("UPDATE meta SET value = abs(random() / 2) WHERE key = 'rewrites'")
