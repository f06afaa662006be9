"""Annotations applied to a registry's examples and negatives, and removed again; all inside ``store.write``."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fewshot.registry import negative_examples
from fewshot.registry.annotations.annotation_records import FetchedAnnotation, LabelledImage
from fewshot.registry.ingest import add_examples
from fewshot.registry.schema import BY_HAND, storable
from fewshot.registry.store import NewExample, RegistryStore
from fewshot.validation import check_label, normalised_label

if TYPE_CHECKING:
    from fewshot.encoders import Encoder


AppliedImages: TypeAlias = dict[tuple[str, str, str], tuple[bytes, str]]
"""By control, region id and label: the SHA-256 of the image, and the class that its example is of now."""


class AnnotationApplier:
    """Applies fetched annotations, inside one transaction.

    ``before`` is shared by the parts of an annotation: what of it was applied before its first part.
    """

    def __init__(
        self,
        store: RegistryStore,
        connection: sqlite3.Connection,
        encoder: Encoder,
        keep_images: bool,
        before: dict[int, AppliedImages],
    ) -> None:
        self._store, self._connection, self._encoder = store, connection, encoder
        self._keep_images, self._before = keep_images, before

    def apply(
        self, fetched: FetchedAnnotation, vectors: Mapping[bytes, NDArray[np.float32]], reasons: Mapping[bytes, str]
    ) -> None:
        """Apply an annotation or a part of it, in place of what was applied of it before.

        An image that keeps its label keeps the class that its example was moved to by hand, if it was.

        Parameters
        ----------
        fetched : FetchedAnnotation
        vectors, reasons : mapping
            By the SHA-256 of an image, its embedding (d,), or why there is none.
        """
        annotation, problems = fetched.record.annotation, list(fetched.problems)
        old = supported(self._connection, annotation) if fetched.is_first else set()
        if fetched.is_first:
            self._before.clear()
            self._before[annotation] = _applied_images(self._connection, annotation)
            self._connection.execute("DELETE FROM lessons WHERE annotation = ?", (annotation,))
            self._connection.execute("UPDATE annotations SET reason = NULL WHERE id = ?", (annotation,))
        before = self._before.get(annotation, {})
        for image in fetched.images:
            digest = image.digest
            if digest not in vectors:
                problems.append(f"{image.source}: {reasons[digest]}")
                continue
            if not image.labels:
                self._support(annotation, image, "", "negative", self._negative(image, vectors[digest]), old)
            for label in dict.fromkeys(map(normalised_label, image.labels)):
                try:
                    check_label(label)
                except ValueError as error:
                    problems.append(f"{image.source}: {error}")
                else:
                    was, place = before.get((image.control, image.region_id, label), (digest, label))
                    found = self._example(image, place if was == digest else label, vectors[digest])
                    self._support(annotation, image, label, "example", found, old)
        drop_unsupported(self._store, self._connection, old)
        if problems:
            self._connection.execute(
                "UPDATE annotations SET reason = coalesce(reason || '; ', '') || ? WHERE id = ?",
                (storable("; ".join(problems)), annotation),
            )
        if fetched.is_last:
            self._connection.execute(
                "UPDATE annotations SET state = 'learned', body = ? WHERE id = ?", (fetched.record.digest, annotation)
            )

    def _support(
        self,
        annotation: int,
        image: LabelledImage,
        label: str,
        kind: str,
        found: tuple[int, bool],
        old: set[tuple[str, int]],
    ) -> None:
        id_, new = found
        insert = f"INSERT OR REPLACE INTO lessons (annotation, control, region, label, {kind}) VALUES (?, ?, ?, ?, ?)"
        supported = self._connection.execute(f"SELECT 1 FROM lessons WHERE {kind} = ? LIMIT 1", (id_,)).fetchone()
        if not new and not supported and (kind, id_) not in old:
            self._connection.execute(insert, (BY_HAND, "", f"{kind} {id_}", "", id_))
        self._connection.execute(insert, (annotation, image.control, image.region_id, label, id_))

    def _example(self, image: LabelledImage, label: str, vector: NDArray[np.float32]) -> tuple[int, bool]:
        """Return the id of the class's example of this image, and whether it is new."""
        data = image.image if self._keep_images else None
        example = NewExample(label, image.digest, image.source, None, vector, data)
        added = add_examples(self._store, [example], allow_conflict=True).added
        (id_,) = self._connection.execute(
            "SELECT examples.id FROM examples JOIN classes ON classes.id = class_id WHERE label = ? AND sha256 = ?",
            (label, image.digest),
        ).fetchone()
        return int(id_), bool(added)

    def _negative(self, image: LabelledImage, vector: NDArray[np.float32]) -> tuple[int, bool]:
        added = negative_examples.insert(
            self._connection,
            "negative",
            vector,
            self._encoder.fingerprint,
            digest=image.digest,
            source=image.source,
            data=image.image if self._keep_images else None,
        )
        (id_,) = self._connection.execute(
            "SELECT id FROM outsiders WHERE kind = 'negative' AND sha256 = ?", (image.digest,)
        ).fetchone()
        return int(id_), added


def _applied_images(connection: sqlite3.Connection, annotation: int) -> AppliedImages:
    rows = connection.execute(
        "SELECT control, region, lessons.label, sha256, classes.label FROM lessons "
        "JOIN examples ON examples.id = example JOIN classes ON classes.id = class_id WHERE annotation = ?",
        (annotation,),
    )
    return {(control, region, label): (sha256, place) for control, region, label, sha256, place in rows}


def supported(connection: sqlite3.Connection, annotation: int) -> set[tuple[str, int]]:
    """Return the examples and negatives that an annotation supports, as (kind, id)."""
    rows = connection.execute("SELECT example, negative FROM lessons WHERE annotation = ?", (annotation,)).fetchall()
    held = {(kind, id_) for row in rows for kind, id_ in zip(("example", "negative"), row, strict=True)}
    return {(kind, id_) for kind, id_ in held if id_ is not None}


def drop_unsupported(store: RegistryStore, connection: sqlite3.Connection, held: Iterable[tuple[str, int]]) -> None:
    """Delete those of the examples and negatives that no annotation supports any more."""
    for kind, id_ in held:
        if connection.execute(f"SELECT 1 FROM lessons WHERE {kind} = ? LIMIT 1", (id_,)).fetchone():
            continue
        if kind == "negative":
            connection.execute("DELETE FROM outsiders WHERE id = ?", (id_,))
        elif connection.execute("SELECT 1 FROM examples WHERE id = ?", (id_,)).fetchone():
            store.delete([id_])
            connection.execute("UPDATE meta SET value = abs(random() / 2) WHERE key = 'rewrites'")
