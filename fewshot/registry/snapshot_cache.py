"""The current snapshot of a registry: the file is read once, and then what others or this process change in it."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from fewshot.errors import RegistryError
from fewshot.registry.snapshot import Snapshot
from fewshot.registry.store import RegistryStore

# So few that they stay in the processor's cache, and that Python's garbage collector does not come upon them.
_ROWS_AT_ONCE = 256
_ROWS_COPIED = 2**13
# Beyond this share of changed rows all are read in one go.
_FEW = 0.25
_TINY = 1e-12
# Of hash and source only the checksum is asked for: as one value they take less time.
_COLUMNS = "id, class_id, checksum, CAST(sha256 || source AS BLOB), vector"


class SnapshotCache:
    """Gives the snapshot of a registry as it is now.

    Examples appended since the last one are read on top of it, in the same memory. After any other change the file
    lists what was changed or removed, and that is read; where it does not any more, rows are compared by id and
    checksum.

    Parameters
    ----------
    store : RegistryStore
    """

    def __init__(self, store: RegistryStore) -> None:
        self._store = store
        self._held: Snapshot | None = None
        self._room = np.empty((0, 0), np.float32)  # begins with the vectors of the one held

    def current(self) -> Snapshot:
        """Return the snapshot of the file's present state, read in one transaction with the settings.

        Raises
        ------
        RegistryError : if an example is not what was stored, or the file cannot be read.
        """
        with self._store.read() as connection:  # its lock is this cache's, too
            settings, held = self._store.meta(), self._held
            if held is not None and held.settings["revision"] == settings["revision"]:
                return held
            self._held = None  # if this is interrupted, the next one begins anew
            if held is not None and held.erased != settings.get("erased", 0):
                held = None  # nothing of it may stay in memory
            if held is None or not len(held) or held.settings.get("dim") != settings.get("dim"):
                self._held = self._read_all(connection, settings)
            elif held.settings["rewrites"] == settings["rewrites"]:
                self._held = self._appended(connection, settings, held)
            else:
                self._held = self._changed(connection, settings, held)
            return self._held

    def _read_all(self, connection: sqlite3.Connection, settings: Mapping[str, Any]) -> Snapshot:
        (n,) = connection.execute("SELECT count(*) FROM examples").fetchone()
        self._room = _with_slack(n, int(settings.get("dim", 0)))
        rows = _Rows(n, self._room[:n])
        self._read(connection.execute(f"SELECT {_COLUMNS} FROM examples ORDER BY id"), rows)
        return self._made(settings, rows, *_classes(connection.execute("SELECT id, label FROM classes ORDER BY id")))

    def _appended(self, connection: sqlite3.Connection, settings: Mapping[str, Any], held: Snapshot) -> Snapshot:
        last, n = int(held.ids[-1]), len(held)
        (more,) = connection.execute("SELECT count(*) FROM examples WHERE id > ?", (last,)).fetchone()
        if n + more > len(self._room):
            grown = _with_slack(n + more, self._room.shape[1])
            grown[:n] = held.vectors
            self._room = grown
        fresh = _Rows(more, self._room[n : n + more])
        self._read(connection.execute(f"SELECT {_COLUMNS} FROM examples WHERE id > ? ORDER BY id", (last,)), fresh)
        rows = _Rows(n + more, self._room[: n + more])
        rows.ids, rows.checksums = (
            np.concatenate([held.ids, fresh.ids]),
            np.concatenate([held.checksums, fresh.checksums]),
        )
        rows.lengths = np.concatenate([held.lengths, fresh.lengths])
        new = connection.execute("SELECT id, label FROM classes WHERE id > ? ORDER BY id", (int(held.class_ids[-1]),))
        ids, labels = _classes(new)
        class_ids = np.concatenate([held.class_ids, ids])
        codes = np.concatenate([held.codes, self._codes(fresh.class_ids, class_ids)])
        labels = [*held.labels, *labels]
        found = Snapshot(settings, rows.ids, rows.vectors, rows.lengths, rows.checksums, codes, labels, class_ids)
        found.appended_to(held)
        return found

    def _changed(self, connection: sqlite3.Connection, settings: Mapping[str, Any], held: Snapshot) -> Snapshot:
        changes = _changes_since(connection, int(held.settings["rewrites"]), int(settings["rewrites"]))
        ids, class_ids, checksums = _listed(connection, held, changes)
        n = len(ids)
        at = np.searchsorted(held.ids, ids).clip(max=len(held) - 1)
        known = (held.ids[at] == ids) & (held.checksums[at] == checksums)
        if known.sum() < (1.0 - _FEW) * n:
            return self._read_all(connection, settings)
        if n == len(held) and known.all():
            rows = _Rows(n, held.vectors)
            rows.lengths = held.lengths
        else:
            self._room = _with_slack(n, self._room.shape[1])
            rows = _Rows(n, self._room[:n])
            rows.lengths[known] = held.lengths[at[known]]
            for start in range(0, n, _ROWS_COPIED):
                some = at[start : start + _ROWS_COPIED]  # of those that are not known anything: they are read below
                first, last = int(some[0]), int(some[-1]) + 1
                adjacent = last - first == len(some) and bool((np.diff(some) == 1).all())
                rows.vectors[start : start + len(some)] = held.vectors[first:last] if adjacent else held.vectors[some]
            for place in np.flatnonzero(~known).tolist():
                one = _Rows(1, rows.vectors[place : place + 1])
                self._read(connection.execute(f"SELECT {_COLUMNS} FROM examples WHERE id = ?", (int(ids[place]),)), one)
                rows.lengths[place] = one.lengths[0]
        rows.ids, rows.class_ids, rows.checksums = ids.copy(), class_ids, checksums.copy()
        return self._made(settings, rows, *_labels(connection, held, changes, class_ids[~known]))

    def _made(
        self, settings: Mapping[str, Any], rows: _Rows, class_ids: NDArray[np.int64], labels: list[str]
    ) -> Snapshot:
        codes = self._codes(rows.class_ids, class_ids)
        used = np.bincount(codes, minlength=len(labels)) > 0
        if not used.all():  # a class without examples is none
            class_ids, labels = class_ids[used], [labels[code] for code in np.flatnonzero(used).tolist()]
            codes = self._codes(rows.class_ids, class_ids)
        return Snapshot(settings, rows.ids, rows.vectors, rows.lengths, rows.checksums, codes, labels, class_ids)

    def _codes(self, of_rows: NDArray[np.int64], class_ids: NDArray[np.int64]) -> NDArray[np.int64]:
        codes = np.searchsorted(class_ids, of_rows)
        lost = (
            np.count_nonzero(class_ids[codes.clip(max=len(class_ids) - 1)] != of_rows) if len(class_ids) else len(codes)
        )
        if lost:
            raise RegistryError(
                f"{self._store.path} is damaged: {lost} of its examples are of no class. {self._store.remedy}"
            )
        return codes

    def _read(self, cursor: sqlite3.Cursor, rows: _Rows) -> None:
        done, dim = 0, rows.vectors.shape[1]
        while some := cursor.fetchmany(_ROWS_AT_ONCE):
            ids, class_ids, checksums, heads, blobs = zip(*some, strict=True)
            part = slice(done, done + len(some))
            try:
                whole = tuple(map(crc32, blobs, map(crc32, heads))) == checksums
                if whole:
                    rows.vectors[part] = np.frombuffer(b"".join(blobs), "<f4").reshape(-1, dim)
            except (TypeError, ValueError):  # a number for bytes, or the like
                whole = False
            if not whole:
                self._refuse(some, dim)
            rows.ids[part], rows.class_ids[part], rows.checksums[part] = ids, class_ids, checksums
            vectors = rows.vectors[part]
            rows.lengths[part] = np.sqrt(np.einsum("ij,ij->i", vectors, vectors)).clip(_TINY)
            done = part.stop

    def _refuse(self, rows: Sequence[tuple[Any, ...]], dim: int) -> None:
        """Raise the error that names the first of some rows that is not what was stored."""
        for id_, _, stored, head, blob in rows:
            if not (isinstance(blob, bytes) and len(blob) == 4 * dim and crc32(blob, crc32(head or b"")) == stored):
                source = self._store.sources([id_])[id_]
                raise RegistryError(
                    f"{self._store.path} is damaged: example {id_}, {source}, is not what was stored. "
                    f"{self._store.remedy}"
                )


class _Rows:
    """Arrays for n rows of the table, vectors among them in memory that is given."""

    def __init__(self, n: int, vectors: NDArray[np.float32]) -> None:
        self.ids, self.class_ids, self.checksums = (np.empty(n, np.int64) for _ in range(3))
        self.lengths = np.empty(n, np.float32)
        self.vectors = vectors


def _with_slack(n: int, dim: int) -> NDArray[np.float32]:
    """Room for n vectors and a quarter more, which takes no memory before it is used."""
    return np.empty((n + n // 4 + 64, dim), np.float32)


@dataclass(frozen=True)
class _Changes:
    """Ids of examples and of classes that were changed or removed."""

    examples: NDArray[np.int64]
    classes: NDArray[np.int64]


def _changes_since(connection: sqlite3.Connection, rewrites: int, now: int) -> _Changes | None:
    """What has changed since the file was at ``rewrites``; None where it does not say, or too much.

    Nor does it say where the last change is not listed, as one by who opened it before changes were.
    """
    numbers = dict(connection.execute("SELECT id, max(number) FROM changes WHERE kind = 'rewrites' GROUP BY id"))
    seen, last = numbers.get(rewrites), numbers.get(now)
    if seen is None or last is None or last < max(numbers.values()):
        return None
    found = connection.execute("SELECT DISTINCT kind, id FROM changes WHERE number > ?", (seen,)).fetchall()
    examples, classes = ([id_ for kind, id_ in found if kind == wanted] for wanted in ("example", "class"))
    return _Changes(np.array(sorted(examples), np.int64), np.array(sorted(classes), np.int64))


def _listed(
    connection: sqlite3.Connection, held: Snapshot, changes: _Changes | None
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Ids, of rising order, class ids and checksums of all examples: (n,) each."""
    query = "SELECT id, class_id, checksum FROM examples"
    if changes is None:
        return _columns(connection.execute(f"{query} ORDER BY id").fetchall())
    last = int(held.ids[-1])
    fresh = connection.execute(f"{query} WHERE id > ?", (last,)).fetchall()
    for id_ in changes.examples[changes.examples <= last].tolist():
        fresh += connection.execute(f"{query} WHERE id = ?", (id_,)).fetchall()
    same = np.isin(held.ids, changes.examples, invert=True)
    known = held.ids[same], held.class_ids[held.codes[same]], held.checksums[same]
    ids, class_ids, checksums = (np.concatenate(parts) for parts in zip(known, _columns(fresh), strict=True))
    order = np.argsort(ids, kind="stable")
    return ids[order], class_ids[order], checksums[order]


def _columns(rows: list[tuple[int, int, int]]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    ids, class_ids, checksums = np.array(rows, np.int64).reshape(len(rows), 3).T
    return ids, class_ids, checksums


def _labels(
    connection: sqlite3.Connection, held: Snapshot, changes: _Changes | None, of_new: NDArray[np.int64]
) -> tuple[NDArray[np.int64], list[str]]:
    """Ids, of rising order, and labels of all classes, among them those ``of_new`` examples."""
    query = "SELECT id, label FROM classes"
    if changes is None:
        return _classes(connection.execute(f"{query} ORDER BY id"))
    last, changed = int(held.class_ids[-1]), np.union1d(changes.classes, of_new)
    fresh = dict(connection.execute(f"{query} WHERE id > ?", (last,)).fetchall())
    for id_ in changed[changed <= last].tolist():
        fresh.update(connection.execute(f"{query} WHERE id = ?", (id_,)).fetchall())
    same = np.isin(held.class_ids, changed, invert=True)
    labels = [held.labels[code] for code in np.flatnonzero(same).tolist()] + list(fresh.values())
    ids = np.concatenate([held.class_ids[same], np.array(list(fresh), np.int64)])
    order = np.argsort(ids, kind="stable")
    if np.array_equal(order, np.arange(len(order))):
        return ids, labels
    return ids[order], [labels[place] for place in order.tolist()]


def _classes(cursor: sqlite3.Cursor) -> tuple[NDArray[np.int64], list[str]]:
    ids: list[int] = []
    labels: list[str] = []
    while some := cursor.fetchmany(_ROWS_AT_ONCE):
        some_ids, some_labels = zip(*some, strict=True)
        ids += some_ids
        labels += some_labels
    return np.array(ids, np.int64), labels
