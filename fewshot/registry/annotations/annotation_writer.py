"""What annotations have taught a registry: written down before it is learned, and unlearned with the annotation."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fewshot.registry import negative_examples
from fewshot.registry.annotations.annotation_records import Asked, Memory, Note, Taught, Vote
from fewshot.registry.annotations.applying import Places, Pupil, drop_unsupported, supported
from fewshot.registry.encoder_identity import check_encoder, remember_encoder
from fewshot.registry.store import RegistryStore

if TYPE_CHECKING:
    from fewshot.encoders import Encoder


class Lessons:
    """The annotations that a registry learns from, kept in its file.

    An annotation's note is durable once ``note`` returns, and is learned later by ``learn``. Notes may come twice or
    out of order: the latest counts, and after ``forget`` none. An example stays as long as a lesson supports it; one
    that was there before any lesson stays for good.

    Parameters
    ----------
    path : path
        The registry's file, which must exist.

    Raises
    ------
    RegistryError : if it does not, or is none.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._store = RegistryStore(path, create=False)
        self._begun: dict[int, Places] = {}

    def close(self) -> None:
        """Close the file."""
        self._store.close()

    def __enter__(self) -> Lessons:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def state(self) -> tuple[int, int]:
        """Return (revision, rewrites): whenever anything is learned or unlearned, the first grows."""
        return self._store.state()

    def note(self, notes: Iterable[Note], *, again: bool = False) -> int:
        """Write notes down, to be learned; returns how many were new.

        Left out are notes older than what is known of their annotation, those that are known already, and those of
        annotations and tasks that were deleted. With ``again``, known ones are taken too where they say something
        else now, as when the project asks another question, or something of what they taught is missing.
        """
        fresh = [note for note in notes if self._is_news(note, again)]
        if not fresh:
            return 0
        with self._store.write(append=True) as connection:
            fresh = [note for note in fresh if self._is_news(note, again)]
            connection.executemany(
                "INSERT OR REPLACE INTO annotations (id, task, updated, state, body) VALUES (?, ?, ?, 'waiting', ?)",
                [(note.annotation, note.task, note.updated, note.body) for note in fresh],
            )
        return len(fresh)

    def forget(self, annotations: Iterable[int] = (), *, tasks: Iterable[int] = ()) -> None:
        """Unlearn deleted annotations, and all those of deleted tasks; notes of them that come later count no more."""
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
                self._unteach(connection, annotation)
            connection.executemany(
                "INSERT OR REPLACE INTO annotations (id, updated, state) VALUES (?, 0, 'gone')",
                [(annotation,) for annotation in annotations],
            )

    def missing(self, annotations: Iterable[int]) -> None:
        """Unlearn annotations that are not there at present; unlike deleted ones, they may come back."""
        with self._store.read() as connection:
            held = connection.execute(
                "SELECT annotation FROM lessons UNION SELECT id FROM annotations WHERE state = 'waiting'"
            )
            gone = {id_ for (id_,) in held} & set(annotations)
        if not gone:
            return
        with self._store.write(append=True) as connection:
            for annotation in gone:
                self._unteach(connection, annotation)
                connection.execute(
                    "UPDATE annotations SET state = 'learned', body = '', reason = NULL "
                    "WHERE id = ? AND state <> 'gone'",
                    (annotation,),
                )

    def ask_again(self, how: str) -> None:
        """Keep in the file that all is to be learned again from the project's export, and how, until ``answered``."""
        with self._store.write(silent=True):
            self._store.set_meta(learn_again=json.dumps([time.time_ns(), how]))

    def asked_again(self) -> Asked | None:
        """Return how all is to be learned again, where that was asked and is not done."""
        asked = self._store.meta().get("learn_again")
        return None if asked is None else Asked(*json.loads(asked))

    def answered(self, asked: Asked) -> None:
        """Take back what was asked by ``ask_again``, unless it was asked once more since."""
        with self._store.write(silent=True) as connection:
            connection.execute(
                "DELETE FROM meta WHERE key = 'learn_again' AND value = ?", (json.dumps([asked.when, asked.how]),)
            )

    def known(self) -> set[int]:
        """Return the annotations that were noted and not deleted."""
        with self._store.read() as connection:
            return {id_ for (id_,) in connection.execute("SELECT id FROM annotations WHERE state <> 'gone'")}

    def waiting(self, *, limit: int, after: int = 0) -> list[Note]:
        """Return notes still to be learned, of annotations with ids above ``after``, in their order."""
        with self._store.read() as connection:
            found = connection.execute(
                "SELECT id, task, updated, body FROM annotations WHERE state = 'waiting' AND id > ? "
                "ORDER BY id LIMIT ?",
                (after, limit),
            )
            return [Note(*row) for row in found]

    def problems(self, annotations: Iterable[int]) -> dict[int, str]:
        """Return of some annotations why they could not be learned, or not all of each, by their ids."""
        found: dict[int, str] = {}
        with self._store.read() as connection:
            for annotation in annotations:
                found.update(
                    connection.execute(
                        "SELECT id, reason FROM annotations WHERE id = ? AND reason IS NOT NULL", (annotation,)
                    )
                )
        return found

    def learn(self, taught: Sequence[Taught], encoder: Encoder) -> None:
        """Learn what notes teach, in place of what their annotations taught before, in one transaction.

        Notes that meanwhile were overtaken by a later one, or deleted, are left out. A lesson that cannot be learned
        is a problem of its annotation, see ``problems``; the others are learned.
        """
        remember_encoder(self._store, encoder)
        pictures = {lesson.digest: lesson.picture for one in taught for lesson in one.lessons}
        vectors, reasons = self._embedded(pictures, encoder)
        keep = bool(self._store.meta()["keep_images"])
        with self._store.write(append=True) as connection:
            check_encoder(self._store, encoder)
            for one in taught:
                row = connection.execute(
                    "SELECT updated, body FROM annotations WHERE id = ? AND state = 'waiting'", (one.note.annotation,)
                ).fetchone()
                if row == (one.note.updated, one.note.body):
                    Pupil(self._store, connection, encoder, keep, self._begun).take(one, vectors, reasons)

    def memory(self, encoder: Encoder) -> Memory:
        """Read all that was learned."""
        negative_examples.load(self._store, encoder, "negative")  # embeds anew those that another encoder made
        with self._store.read() as connection:
            check_encoder(self._store, encoder)
            meta = self._store.meta()
            votes = connection.execute(
                "SELECT annotation, control, region, label, example, negative FROM lessons ORDER BY id"
            )
            negatives = connection.execute(
                "SELECT id, vector FROM outsiders WHERE fingerprint = ? AND id IN (SELECT negative FROM lessons)",
                (encoder.fingerprint,),
            )
            return Memory(
                self._store.state(),
                str(meta["metric"]),
                self._store.rows(encoder.dim),
                [Vote(*row) for row in votes],
                {id_: np.frombuffer(vector, "<f4") for id_, vector in negatives},
            )

    def _is_news(self, note: Note, again: bool) -> bool:
        with self._store.read() as connection:
            if connection.execute("SELECT 1 FROM deleted_tasks WHERE id = ?", (note.task,)).fetchone():
                return False
            row = connection.execute(
                "SELECT state, updated, body, reason FROM annotations WHERE id = ?", (note.annotation,)
            ).fetchone()
            if row is None:
                return True
            state, updated, body, reason = row
            if state == "gone" or updated > note.updated:
                return False
            return updated < note.updated or (again and self._is_wanting(note, state, body, reason))

    def _is_wanting(self, note: Note, state: str, body: str | None, reason: str | None) -> bool:
        if state == "waiting":
            return body != note.body
        with self._store.read() as connection:
            (taught, there) = connection.execute(
                "SELECT count(*), count(example) + count(negative) FROM lessons WHERE annotation = ?",
                (note.annotation,),
            ).fetchone()
        changed = body is not None and body != note.digest  # None: learned before digests were kept
        return changed or reason is not None or there < taught

    def _unteach(self, connection: sqlite3.Connection, annotation: int) -> None:
        old = supported(connection, annotation)
        connection.execute("DELETE FROM lessons WHERE annotation = ?", (annotation,))
        drop_unsupported(self._store, connection, old)

    def _embedded(
        self, pictures: Mapping[bytes, bytes], encoder: Encoder
    ) -> tuple[dict[bytes, NDArray[np.float32]], dict[bytes, str]]:
        """Return the vectors of pictures by their hashes, or why there is none; known ones are not embedded again."""
        from fewshot.encoders import encode_valid

        vectors: dict[bytes, NDArray[np.float32]] = {}
        with self._store.read() as connection:
            check_encoder(self._store, encoder)
            for digest in pictures:
                row = connection.execute("SELECT vector FROM examples WHERE sha256 = ? LIMIT 1", (digest,)).fetchone()
                if row is not None:
                    vectors[digest] = np.frombuffer(row[0], "<f4")
        fresh = [digest for digest in pictures if digest not in vectors]
        encoded = encode_valid(encoder, [pictures[digest] for digest in fresh])
        for n, vector in zip(encoded.kept.tolist(), encoded.vectors, strict=True):
            vectors[fresh[n]] = vector
        return vectors, {fresh[n]: error.reason for n, error in encoded.failed}
