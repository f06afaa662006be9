"""The annotations of a labelling tool in a registry: recorded first, applied later, removed when they are deleted."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fewshot.registry.annotations.annotation_applier import (
    AnnotationApplier,
    AppliedImages,
    drop_unsupported,
    supported,
)
from fewshot.registry.annotations.annotation_records import (
    AnnotationRecord,
    FetchedAnnotation,
    ResyncRequest,
)
from fewshot.registry.encoder_identity import check_encoder, remember_encoder
from fewshot.registry.store import RegistryStore

if TYPE_CHECKING:
    from fewshot.encoders import Encoder


class AnnotationWriter:
    """Records annotations in a registry, and applies them to its examples and negatives.

    An annotation is durable once ``record`` returns, and pending until ``apply``. Records may come twice or out of
    order: the latest counts, and after ``delete`` none. An example is removed with the last annotation that gives it;
    one that was registered before any annotation gave it is never removed.

    Parameters
    ----------
    path : path
        The registry's file, which must exist.
    busy_seconds, on_wait : optional
        As of ``ClassRegistry``.

    Raises
    ------
    RegistryError : if it does not, or is none.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        busy_seconds: float | None = None,
        on_wait: Callable[[float], None] | None = None,
    ) -> None:
        self._store = RegistryStore(path, create=False, busy_seconds=busy_seconds, on_wait=on_wait)
        self._before: dict[int, AppliedImages] = {}

    def close(self) -> None:
        """Close the file."""
        self._store.close()

    def __enter__(self) -> AnnotationWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def state(self) -> tuple[int, int]:
        """Return (revision, rewrites): the first grows whenever examples or negatives change."""
        return self._store.state()

    def record(self, records: Iterable[AnnotationRecord], *, refresh: bool = False) -> int:
        """Record annotations, to be applied; returns how many were new.

        Left out are records older than the latest of their annotation, those recorded already, and those of deleted
        annotations and tasks. With ``refresh``, a record of the same time is taken too if its labels differ, as after
        a change of the labelling configuration, or if some of its images could not be applied or were removed.
        """
        fresh = [record for record in records if self._is_new(record, refresh)]
        if not fresh:
            return 0
        with self._store.write(append=True) as connection:
            fresh = [record for record in fresh if self._is_new(record, refresh)]
            connection.executemany(
                "INSERT OR REPLACE INTO annotations (id, task, updated, state, body) VALUES (?, ?, ?, 'waiting', ?)",
                [(record.annotation, record.task, record.updated, record.labels_json) for record in fresh],
            )
        return len(fresh)

    def delete(self, annotations: Iterable[int] = (), *, tasks: Iterable[int] = ()) -> None:
        """Remove deleted annotations, and all those of deleted tasks; later records of them are left out."""
        annotations, tasks = set(annotations), set(tasks)
        with self._store.read() as connection:
            annotations -= {id_ for (id_,) in connection.execute("SELECT id FROM annotations WHERE state = 'gone'")}
            tasks -= {id_ for (id_,) in connection.execute("SELECT id FROM deleted_tasks")}
        if not annotations and not tasks:
            return
        with self._store.write(append=True) as connection:
            connection.executemany("INSERT OR IGNORE INTO deleted_tasks VALUES (?)", [(task,) for task in tasks])
            for task in tasks:
                of_task = connection.execute("SELECT id FROM annotations WHERE task = ?", (task,))
                annotations |= {id_ for (id_,) in of_task}
            for annotation in annotations:
                self._remove(connection, annotation)
            connection.executemany(
                "INSERT OR REPLACE INTO annotations (id, updated, state) VALUES (?, 0, 'gone')",
                [(annotation,) for annotation in annotations],
            )

    def retract(self, annotations: Iterable[int]) -> None:
        """Remove annotations that are absent for now; unlike deleted ones, they may be recorded again."""
        with self._store.read() as connection:
            held = connection.execute(
                "SELECT annotation FROM lessons UNION SELECT id FROM annotations WHERE state = 'waiting'"
            )
            gone = {id_ for (id_,) in held} & set(annotations)
        if not gone:
            return
        with self._store.write(append=True) as connection:
            for annotation in gone:
                self._remove(connection, annotation)
                connection.execute(
                    "UPDATE annotations SET state = 'learned', body = '', reason = NULL "
                    "WHERE id = ? AND state <> 'gone'",
                    (annotation,),
                )

    def request_resync(self, config: str) -> None:
        """Record that the project's export is to be read again by a labelling configuration."""
        with self._store.write(silent=True):
            self._store.set_meta(learn_again=json.dumps([time.time_ns(), config]))

    def resync_request(self) -> ResyncRequest | None:
        """Return the request to read the project's export again, if there is one."""
        text = self._store.meta().get("learn_again")
        return None if text is None else ResyncRequest(*json.loads(text))

    def finish_resync(self, request: ResyncRequest) -> None:
        """Remove a request, unless there is a newer one."""
        with self._store.write(silent=True) as connection:
            connection.execute(
                "DELETE FROM meta WHERE key = 'learn_again' AND value = ?",
                (json.dumps([request.requested_at, request.config]),),
            )

    def recorded(self) -> set[int]:
        """Return the annotations that were recorded and not deleted."""
        with self._store.read() as connection:
            return {id_ for (id_,) in connection.execute("SELECT id FROM annotations WHERE state <> 'gone'")}

    def pending(self, *, limit: int, after: int = 0) -> list[AnnotationRecord]:
        """Return the annotations to be applied, of ids above ``after``, by id."""
        with self._store.read() as connection:
            found = connection.execute(
                "SELECT id, task, updated, body FROM annotations WHERE state = 'waiting' AND id > ? "
                "ORDER BY id LIMIT ?",
                (after, limit),
            )
            return [AnnotationRecord.from_json(*row) for row in found]

    def problems(self, annotations: Iterable[int]) -> dict[int, str]:
        """Return, by id, why annotations could not be applied, or not all of each."""
        found: dict[int, str] = {}
        with self._store.read() as connection:
            for annotation in annotations:
                found.update(
                    connection.execute(
                        "SELECT id, reason FROM annotations WHERE id = ? AND reason IS NOT NULL", (annotation,)
                    )
                )
        return found

    def apply(self, fetched: Sequence[FetchedAnnotation], encoder: Encoder) -> None:
        """Apply annotations, in place of what was applied of them before, in one transaction.

        Those that meanwhile have a later record, or were deleted, are left out. An image that cannot be embedded is a
        problem of its annotation, see ``problems``; the others are applied.
        """
        remember_encoder(self._store, encoder)
        images = {image.digest: image.image for one in fetched for image in one.images}
        vectors, reasons = self._embedded(images, encoder)
        keep_images = bool(self._store.meta()["keep_images"])
        with self._store.write(append=True) as connection:
            check_encoder(self._store, encoder)
            applier = AnnotationApplier(self._store, connection, encoder, keep_images, self._before)
            for one in fetched:
                row = connection.execute(
                    "SELECT updated, body FROM annotations WHERE id = ? AND state = 'waiting'",
                    (one.record.annotation,),
                ).fetchone()
                if row == (one.record.updated, one.record.labels_json):
                    applier.apply(one, vectors, reasons)

    def _is_new(self, record: AnnotationRecord, refresh: bool) -> bool:
        with self._store.read() as connection:
            if connection.execute("SELECT 1 FROM deleted_tasks WHERE id = ?", (record.task,)).fetchone():
                return False
            row = connection.execute(
                "SELECT state, updated, body, reason FROM annotations WHERE id = ?", (record.annotation,)
            ).fetchone()
            if row is None:
                return True
            state, updated, body, reason = row
            if state == "gone" or updated > record.updated:
                return False
            return updated < record.updated or (refresh and self._is_outdated(record, state, body, reason))

    def _is_outdated(self, record: AnnotationRecord, state: str, body: str | None, reason: str | None) -> bool:
        if state == "waiting":
            return body != record.labels_json
        with self._store.read() as connection:
            (applied, there) = connection.execute(
                "SELECT count(*), count(example) + count(negative) FROM lessons WHERE annotation = ?",
                (record.annotation,),
            ).fetchone()
        changed = body is not None and body != record.digest  # None: applied before digests were stored
        return changed or reason is not None or there < applied

    def _remove(self, connection: sqlite3.Connection, annotation: int) -> None:
        old = supported(connection, annotation)
        connection.execute("DELETE FROM lessons WHERE annotation = ?", (annotation,))
        drop_unsupported(self._store, connection, old)

    def _embedded(
        self, images: Mapping[bytes, bytes], encoder: Encoder
    ) -> tuple[dict[bytes, NDArray[np.float32]], dict[bytes, str]]:
        """Return the embeddings of images by their hashes, or why there is none; known ones are not embedded again."""
        from fewshot.encoders import encode_valid

        vectors: dict[bytes, NDArray[np.float32]] = {}
        with self._store.read() as connection:
            check_encoder(self._store, encoder)
            for digest in images:
                row = connection.execute("SELECT vector FROM examples WHERE sha256 = ? LIMIT 1", (digest,)).fetchone()
                if row is not None:
                    vectors[digest] = np.frombuffer(row[0], "<f4")
        fresh = [digest for digest in images if digest not in vectors]
        encoded = encode_valid(encoder, [images[digest] for digest in fresh])
        for n, vector in zip(encoded.kept.tolist(), encoded.vectors, strict=True):
            vectors[fresh[n]] = vector
        return vectors, {fresh[n]: error.reason for n, error in encoded.failed}
