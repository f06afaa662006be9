"""What a registry's file holds, listed page by page; its classes, examples and negatives moved and removed."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewshot.errors import RegistryError
from fewshot.media import medium_of
from fewshot.registry.class_descriptions import delete_description, rename_description
from fewshot.registry.classifier_choice import classifier_name
from fewshot.registry.encoder_identity import check_settings
from fewshot.registry.reindex import image_of
from fewshot.registry.results import RegistryInfo
from fewshot.registry.schema import BY_HAND, checksum
from fewshot.registry.store import RegistryStore
from fewshot.validation import check_label, normalised_label

_HEAD = "substr(data, 1, 16)"  # which tells the media type


@dataclass(frozen=True)
class StoredExample:
    """An example, or a negative, whose label is then None; of what media type its bytes are.

    Where these are not kept, that is "image/*", "text/*" or "audio/*".
    """

    id: int
    label: str | None
    source: str
    media_type: str


@dataclass(frozen=True)
class ExportedExample:
    """An example with its vector (d,), by the encoder of that fingerprint, and the SHA-256 of its image, in hex."""

    id: int
    label: str
    source: str
    sha256: str
    vector: NDArray[np.float32]
    fingerprint: str


class RegistryQueries:
    """The part of ``ClassRegistry`` that needs no encoder."""

    _store: RegistryStore

    @property
    def path(self) -> str:
        """The registry's file."""
        return self._store.path

    @property
    def revision(self) -> int:
        """How many times the registry was changed."""
        return self._store.state()[0]

    @property
    def is_empty(self) -> bool:
        """Whether there is neither an example nor a description."""
        return self._store.is_empty()

    def __len__(self) -> int:
        """How many classes there are."""
        return self._store.counts()[0]

    def __bool__(self) -> bool:
        return True  # a registry without classes is still one

    @contextmanager
    def reading(self) -> Iterator[None]:
        """For a block, read one consistent state of the file, whatever other processes change meanwhile."""
        with self._store.read():
            yield

    def info(self) -> RegistryInfo:
        """Describe the registry; the encoder is not loaded."""
        with self._store.read():
            check_settings(self._store)
            meta, (classes, examples, images) = self._store.meta(), self._store.counts()
        return RegistryInfo(
            path=self.path,
            encoder=json.loads(meta.get("encoder", "{}")),
            fingerprint=meta.get("fingerprint", ""),
            dim=int(meta.get("dim", 0)),
            metric=meta["metric"],
            classes=classes,
            examples=examples,
            images_kept=images,
            bytes=os.path.getsize(self._store.file),
            max_false_accept=float(meta["max_false_accept"]) if "max_false_accept" in meta else None,
            classifier=classifier_name(meta, examples),
            modality=self._store.modality,
            multi_label=bool(meta.get("multi_label")),
        )

    def classes(self) -> dict[str, int]:
        """Return the registered labels, in the order they came, with the number of examples of each.

        Those that have a description only, and so 0 examples, come last.
        """
        return self._store.classes()

    def examples(self, label: str) -> list[tuple[int, str]]:
        """Return (id, source name) of each example of a class.

        Raises
        ------
        KeyError : if there is no such class, with close matches.
        """
        return self._store.examples(label)

    def list_examples(self, label: str | None = None, *, after: int = 0, limit: int = 100) -> list[StoredExample]:
        """Return up to ``limit`` examples with ids above ``after``, rising; of one class or, with None, of all.

        Raises
        ------
        KeyError : if there is no such class, with close matches.
        """
        with self._store.read() as connection:
            of_class = "" if label is None else "class_id = ? AND "
            values = (after, limit) if label is None else (self._store.class_id(label), after, limit)
            found = connection.execute(
                f"SELECT examples.id, label, source, {_HEAD} FROM examples JOIN classes ON classes.id = class_id "
                f"LEFT JOIN images USING (sha256) WHERE {of_class}examples.id > ? ORDER BY examples.id LIMIT ?",
                values,
            )
            return _stored(self._store, found)

    def first_examples(self, count: int) -> dict[str, list[int]]:
        """Return the first ``count`` example ids of each class, in the order in which the classes came."""
        with self._store.read() as connection:
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

    def find_examples(self, hashes: Sequence[bytes], label: str) -> list[int]:
        """Return the ids of a class's examples whose bytes have these SHA-256 hashes, in that order."""
        found: dict[int, None] = {}
        with self._store.read() as connection:
            for sha256 in hashes:
                rows = connection.execute(
                    "SELECT examples.id FROM examples JOIN classes ON classes.id = class_id "
                    "WHERE sha256 = ? AND label = ?",
                    (sha256, normalised_label(label)),
                )
                found.update((id_, None) for (id_,) in rows)
        return list(found)

    def export_page(self, *, after: int, limit: int) -> list[ExportedExample]:
        """Return up to ``limit`` examples with ids above ``after``, rising, with their vectors.

        Raises
        ------
        RegistryError : if one of them is not what was stored.
        """
        with self._store.read() as connection:
            rows = connection.execute(
                "SELECT examples.id, label, source, sha256, vector, checksum FROM examples "
                "JOIN classes ON classes.id = class_id WHERE examples.id > ? ORDER BY examples.id LIMIT ?",
                (after, limit),
            ).fetchall()
            fingerprint = str(self._store.meta().get("fingerprint", ""))
        for id_, _, source, sha256, vector, stored in rows:
            if checksum(sha256, source, vector) != stored:
                raise RegistryError(f"{self.path} is damaged: example {id_}, {source}, is not what was stored")
        return [
            ExportedExample(id_, label, source, sha256.hex(), np.frombuffer(vector, "<f4"), fingerprint)
            for id_, label, source, sha256, vector, _ in rows
        ]

    def image(self, example: int) -> bytes:
        """Return the original bytes of an example: an image or sound file, or a text in UTF-8.

        Raises
        ------
        KeyError : if there is no such example.
        ExampleError : if it was not kept and is no longer where it was.
        """
        return image_of(self._store, example)

    def stored_image(self, example: int) -> bytes:
        """Return the original bytes of an example from the registry itself; no other file is read.

        Raises
        ------
        KeyError : if there is no such example.
        ExampleError : if it was not kept.
        """
        with self._store.read() as connection:
            row = connection.execute(
                "SELECT source, data FROM examples LEFT JOIN images USING (sha256) WHERE id = ?", (example,)
            ).fetchone()
        if row is None:
            raise KeyError(f"no example {example} in {self.path}")
        source, data = row
        if data is None:
            medium = medium_of(self._store.modality)
            raise medium.error(source, f"its {medium.noun} is not kept in the registry")
        return bytes(data)

    def image_hash(self, example: int) -> bytes:
        """Return the SHA-256 of an example's bytes.

        Raises
        ------
        KeyError : if there is no such example.
        """
        with self._store.read() as connection:
            row = connection.execute("SELECT sha256 FROM examples WHERE id = ?", (example,)).fetchone()
        if row is None:
            raise KeyError(f"no example {example} in {self.path}")
        return bytes(row[0])

    def remove(self, label: str) -> int:
        """Remove a class; returns how many examples it had.

        Raises
        ------
        KeyError : if there is no such class, with close matches.
        """
        with self._store.write() as connection:
            ids = [id_ for id_, _ in self._store.examples(label)]
            self._store.delete(ids)
            delete_description(connection, label)
        return len(ids)

    def remove_example(self, example: int) -> str:
        """Remove one example by its id, and its class with the last one, unless described; returns the label.

        Raises
        ------
        KeyError : if there is no such example.
        """
        with self._store.write() as connection:
            row = connection.execute(
                "SELECT label FROM examples JOIN classes ON classes.id = class_id WHERE examples.id = ?", (example,)
            ).fetchone()
            if row is None:
                raise KeyError(f"no example {example} in {self.path}")
            self._store.delete([example])
        return str(row[0])

    def rename(self, label: str, new: str) -> None:
        """Give a class another name, one that is not taken (see ``merge``).

        Raises
        ------
        KeyError : if there is no such class, with close matches.
        ValueError : if the name is taken, or can be none.
        """
        new = check_label(new)
        with self._store.write() as connection:
            self._store.rename(label, new)
            rename_description(connection, label, new)

    def move_example(self, example: int, label: str) -> StoredExample:
        """Give an example to another class, known or new, in one transaction.

        Returns
        -------
        StoredExample
            If that class holds the same image already, the example it has there, and this one is dropped.

        Raises
        ------
        KeyError : if there is no such example.
        ValueError : if the label can be none.
        """
        label = check_label(label)
        with self._store.write() as connection:
            row = connection.execute("SELECT class_id, sha256 FROM examples WHERE id = ?", (example,)).fetchone()
            if row is None:
                raise KeyError(f"no example {example} in {self.path}")
            old, sha256 = row
            connection.execute("INSERT OR IGNORE INTO classes (label) VALUES (?)", (label,))
            target = self._store.class_id(label)
            if target == old:
                return self._example(example)
            twin = connection.execute(
                "SELECT id FROM examples WHERE class_id = ? AND sha256 = ?", (target, sha256)
            ).fetchone()
            if twin is not None:
                _drop_twins(self._store, connection, [(example, int(twin[0]))])
                return self._example(int(twin[0]))
            connection.execute("UPDATE examples SET class_id = ? WHERE id = ?", (target, example))
            connection.execute(
                "DELETE FROM classes WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM examples WHERE class_id = ?1)", (old,)
            )
            return self._example(example)

    def _example(self, example: int) -> StoredExample:
        return self.list_examples(after=example - 1, limit=1)[0]

    def merge(self, labels: Sequence[str], into: str) -> int:
        """Move the examples of classes into another, known or new, in one transaction; returns how many it then has.

        An image that both held is kept once.

        Raises
        ------
        KeyError : if there is no such class, with close matches.
        ValueError : if the label can be none.
        """
        into = check_label(into)
        if isinstance(labels, str):
            raise TypeError(f"merge takes a sequence of labels; for one, give [{labels!r}]")
        with self._store.write() as connection:
            sources = [self._store.class_id(label) for label in labels]
            if sources:
                connection.execute("INSERT OR IGNORE INTO classes (label) VALUES (?)", (into,))
            target = self._store.class_id(into)
            for source in sources:
                if source != target:
                    twins = connection.execute(
                        "SELECT old.id, new.id FROM examples old JOIN examples new USING (sha256) "
                        "WHERE old.class_id = ? AND new.class_id = ?",
                        (source, target),
                    ).fetchall()
                    _drop_twins(self._store, connection, twins)
                    connection.execute("UPDATE examples SET class_id = ? WHERE class_id = ?", (target, source))
                    connection.execute("DELETE FROM classes WHERE id = ?", (source,))
            for label in labels:
                rename_description(connection, label, into)
            (count,) = connection.execute("SELECT count(*) FROM examples WHERE class_id = ?", (target,)).fetchone()
            if not count:  # of classes that are only described
                connection.execute("DELETE FROM classes WHERE id = ?", (target,))
            return int(count)

    def list_negatives(self, *, after: int = 0, limit: int = 100) -> list[StoredExample]:
        """Return up to ``limit`` negatives with ids above ``after``, rising."""
        with self._store.read() as connection:
            found = connection.execute(
                f"SELECT id, NULL, source, {_HEAD} FROM outsiders "
                "WHERE kind = 'negative' AND id > ? ORDER BY id LIMIT ?",
                (after, limit),
            )
            return _stored(self._store, found)

    def find_negatives(self, hashes: Sequence[bytes]) -> list[int]:
        """Return the ids of the negatives whose bytes have these SHA-256 hashes, in that order."""
        found: dict[int, None] = {}
        with self._store.read() as connection:
            for sha256 in hashes:
                rows = connection.execute("SELECT id FROM outsiders WHERE kind = 'negative' AND sha256 = ?", (sha256,))
                found.update((id_, None) for (id_,) in rows)
        return list(found)

    def remove_negative(self, negative: int) -> None:
        """Remove one negative.

        Raises
        ------
        KeyError : if there is no such negative.
        """
        with self._store.write(append=True) as connection:
            gone = connection.execute("DELETE FROM outsiders WHERE kind = 'negative' AND id = ?", (negative,)).rowcount
            if not gone:
                raise KeyError(f"no negative {negative} in {self.path}")


def _stored(store: RegistryStore, rows: Iterable[Sequence[Any]]) -> list[StoredExample]:
    medium = medium_of(store.modality)
    kinds = {None: f"{medium.modality}/*"}
    return [StoredExample(n, label, name, kinds.get(head) or medium.media_type(head)) for n, label, name, head in rows]


def _drop_twins(store: RegistryStore, connection: sqlite3.Connection, twins: Sequence[tuple[int, int]]) -> None:
    """Drop examples for others of the same image, given as (dropped, kept); annotations follow. Inside ``write``."""
    for gone, kept in twins:
        annotated = [
            connection.execute("SELECT 1 FROM lessons WHERE example = ? LIMIT 1", (id_,)).fetchone() is not None
            for id_ in (gone, kept)
        ]
        if annotated[0] != annotated[1]:  # the other was registered by hand, and stays if the annotation is deleted
            connection.execute(
                "INSERT OR IGNORE INTO lessons (annotation, control, region, label, example) VALUES (?, '', ?, '', ?)",
                (BY_HAND, f"example {kept}", kept),
            )
        connection.execute("UPDATE lessons SET example = ? WHERE example = ?", (kept, gone))
    store.delete([gone for gone, _ in twins])
