"""A registry's file: its tables, its checks at opening, its transactions. SQL lives here and nowhere else."""

from __future__ import annotations

import difflib
import errno
import os
import shlex
import sqlite3
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from fewshot.errors import RegistryError
from fewshot.files import DISK, code_of, identity_of, why_not
from fewshot.media import Modality
from fewshot.registry.connection import SharedConnection
from fewshot.registry.schema import (
    APPLICATION_ID,
    CHANGE_TRIGGERS,
    DAMAGE,
    MIGRATIONS,
    checksum,
    is_bare,
    storable,
)
from fewshot.validation import normalised_label

_BUSY_SECONDS = 120.0
# Labels compared with one that is not there: each takes quadratic time in its length.
_COMPARED = 200
_ID_OF = "SELECT id FROM classes WHERE label = ?1 UNION ALL SELECT 0 FROM descriptions WHERE label = ?1 ORDER BY 1 DESC"
_DESCRIBED_ONLY = (
    "SELECT label FROM descriptions WHERE NOT EXISTS "
    "(SELECT 1 FROM classes JOIN examples ON class_id = classes.id WHERE classes.label = descriptions.label)"
)


@dataclass(frozen=True)
class NewExample:
    """One example to be stored."""

    label: str
    sha256: bytes
    source: str
    path: str | None
    vector: NDArray[np.float32]
    data: bytes | None
    augment: str | None = None


class RegistryStore:
    """The SQLite file of a registry.

    A rollback journal is used, not a write-ahead log, so that at rest the registry is truly one file to copy. Every
    change is one transaction; a killed process leaves all of it or none.

    Parameters
    ----------
    path : path
    create : bool
        Whether a missing file is made.
    busy_seconds : float, optional
        How long another process that writes is waited for, by default 120.
    on_wait : callable, optional
        Called with the seconds of each such wait.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        create: bool,
        busy_seconds: float | None = None,
        on_wait: Callable[[float], None] | None = None,
    ) -> None:
        self.path = os.fsdecode(path)
        self.file = os.path.abspath(self.path)  # SQLite takes "" and ":memory:" for something else
        self._settings: tuple[int, dict[str, Any]] | None = None  # with the data_version that they were read at
        self._writing = False
        found = identity_of(self.file)
        self._made = found is None
        self._check_file(create)
        try:
            wait = _BUSY_SECONDS if busy_seconds is None else busy_seconds
            self.shared = SharedConnection(self.path, self.file, wait, on_wait)
        except sqlite3.OperationalError as error:
            raise RegistryError(f"cannot open {self.path}: {why_not(error)}") from error
        self._connection = self.shared.raw
        self._identity = identity_of(self.file)
        try:
            if self._identity is None or found not in (None, self._identity):
                raise RegistryError(f"{self.path} was removed or replaced while it was opened; open it again")
            self._connection.execute("PRAGMA foreign_keys = ON")
            self._migrate()
        except BaseException:
            self.close(unmake=True)
            raise

    @property
    def remedy(self) -> str:
        """What to do about a damaged file."""
        return f"Put a copy of it back, or recover what can be read with: fewshot repair {shlex.quote(self.path)} NEW"

    def close(self, *, unmake: bool = False, patience: float | None = None) -> None:
        """Close the file, once the threads that read or write it have finished; what comes later is refused.

        Parameters
        ----------
        unmake : bool, default False
            Whether the file is removed if this opening made it and nothing was stored since.
        patience : float, optional
            Seconds after which those threads are interrupted; by default they are not.
        """
        with self.shared.closed(patience):
            if unmake and self._made:
                with suppress(sqlite3.Error, OSError):
                    self._remove_if_bare()

    @contextmanager
    def write(self, *, append: bool = False, silent: bool = False) -> Iterator[sqlite3.Connection]:
        """One transaction that changes the file: all of the block's statements, or on any error none.

        With ``append`` examples are only added, with ``silent`` nothing changes that an answer depends on.
        """
        try:
            with self.shared.transaction("IMMEDIATE") as connection:
                self._settings, self._writing = None, True
                try:
                    if self._identity != identity_of(self.file):  # what goes to a removed file is lost at its closing
                        raise RegistryError(f"{self.path} was removed or replaced since it was opened; open it again")
                    yield connection
                    if not silent:
                        connection.execute("UPDATE meta SET value = value + 1 WHERE key = 'revision'")
                    if not append and not silent:
                        connection.execute("UPDATE meta SET value = abs(random() / 2) WHERE key = 'rewrites'")
                    self.shared.commit()
                finally:
                    self._writing = False
        except sqlite3.DatabaseError as error:
            raise self._refusal(error) from error

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """One consistent view of the file."""
        try:
            with self.shared.transaction("DEFERRED") as connection:
                yield connection
        except DAMAGE as error:
            raise self._unreadable(error) from error

    def meta(self) -> dict[str, Any]:
        """Return all settings; they are read again only where the file has changed since."""
        with self.read() as connection:
            (version,) = connection.execute("PRAGMA data_version").fetchone()  # another, once others have written
            if self._settings is None or self._settings[0] != version:
                settings = dict(connection.execute("SELECT key, value FROM meta").fetchall())
                self._settings = None if self._writing else (version, settings)
                return settings
            return dict(self._settings[1])

    @property
    def modality(self) -> Modality:
        """What the examples are; images before any was added."""
        return cast(Modality, self.meta().get("modality", "image"))

    def set_meta(self, **values: str | int) -> None:
        """Store settings; inside ``write``."""
        self._connection.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", list(values.items()))

    def state(self) -> tuple[int, int]:
        """Return (revision, rewrites)."""
        meta = self.meta()
        return int(meta["revision"]), int(meta["rewrites"])

    def labels_of(self, sha256: bytes) -> list[str]:
        """Return the classes that hold an image of this hash."""
        with self.read() as connection:
            found = connection.execute(
                "SELECT label FROM examples JOIN classes ON classes.id = class_id WHERE sha256 = ? ORDER BY label",
                (sha256,),
            )
            return [label for (label,) in found]

    def classes(self) -> dict[str, int]:
        """Return each class, in the order they came, with the number of its examples; then those only described."""
        with self.read() as connection:
            found = connection.execute(
                "SELECT label, count(*) FROM classes JOIN examples ON class_id = classes.id "
                "GROUP BY classes.id ORDER BY classes.id"
            ).fetchall()
            return dict(found) | {label: 0 for (label,) in connection.execute(_DESCRIBED_ONLY)}

    def is_empty(self) -> bool:
        """Whether there is neither an example nor a description."""
        with self.read() as connection:
            some = "SELECT EXISTS (SELECT 1 FROM examples) OR EXISTS (SELECT 1 FROM descriptions)"
            return not connection.execute(some).fetchone()[0]

    def counts(self) -> tuple[int, int, int]:
        """Return the numbers of classes, examples and images kept."""
        with self.read() as connection:
            (row,) = connection.execute(
                "SELECT (SELECT count(*) FROM classes), (SELECT count(*) FROM examples), "
                f"(SELECT count(*) FROM images), (SELECT count(*) FROM ({_DESCRIBED_ONLY}))"
            )
        classes, examples, images, described = row
        return classes + described, examples, images

    def examples(self, label: str) -> list[tuple[int, str]]:
        """Return (id, source) of each example of a class."""
        with self.read() as connection:
            return connection.execute(
                "SELECT id, source FROM examples WHERE class_id = ? ORDER BY id", (self.class_id(label),)
            ).fetchall()

    def origins(self) -> list[tuple[bytes, str]]:
        """Return (hash, source) of every example, in the order of their ids."""
        with self.read() as connection:
            return connection.execute("SELECT sha256, source FROM examples ORDER BY id").fetchall()

    def class_id(self, label: str) -> int:
        """Return a class's number, 0 of one only described, or raise KeyError naming close matches."""
        with self.read() as connection:
            row = connection.execute(_ID_OF, (normalised_label(label),)).fetchone()
            if row is None:
                close = difflib.get_close_matches(label, self._similar_labels(label), n=3)
                hint = f"did you mean {', '.join(map(repr, close))}?" if close else self._others()
                raise KeyError(f"no class {label!r} in {self.path}; {hint}")
        return int(row[0])

    def _others(self) -> str:
        return f"it has {self.counts()[0]} others; list them with: fewshot classes {shlex.quote(self.path)}"

    def _similar_labels(self, label: str) -> list[str]:
        """Return the few labels worth comparing, which takes quadratic time: of the same beginning, or length."""
        with self.read() as connection:
            found = connection.execute(
                "SELECT label FROM (SELECT label FROM classes UNION ALL SELECT label FROM descriptions) "
                "WHERE length(label) < 200 ORDER BY lower(label) = lower(?1) DESC, "
                "lower(substr(label, 1, 2)) = lower(substr(?1, 1, 2)) DESC, abs(length(label) - length(?1)) LIMIT ?2",
                (label, _COMPARED),
            )
            return [name for (name,) in found]

    def insert(self, examples: Iterable[NewExample]) -> None:
        """Store examples and, where given, their images; inside ``write``."""
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        for example in examples:
            self._connection.execute("INSERT OR IGNORE INTO classes (label) VALUES (?)", (example.label,))
            source, vector = storable(example.source), np.asarray(example.vector, "<f4").tobytes()
            self._connection.execute(
                "INSERT INTO examples (class_id, sha256, source, path, vector, added_at, checksum, augment) "
                "VALUES ((SELECT id FROM classes WHERE label = ?), ?, ?, ?, ?, ?, ?, ?)",
                (
                    example.label,
                    example.sha256,
                    source,
                    None if example.path is None else os.fsencode(example.path),
                    vector,
                    now,
                    checksum(example.sha256, source, vector),
                    example.augment,
                ),
            )
            if example.data is not None:
                self._connection.execute("INSERT OR IGNORE INTO images VALUES (?, ?)", (example.sha256, example.data))

    def set_vectors(self, vectors: Mapping[int, NDArray[np.float32]]) -> None:
        """Replace the vectors of examples, by id; inside ``write``."""
        for id_, vector in vectors.items():
            sha256, source = self._connection.execute(
                "SELECT sha256, source FROM examples WHERE id = ?", (id_,)
            ).fetchone()
            data = np.asarray(vector, "<f4").tobytes()
            self._connection.execute(
                "UPDATE examples SET vector = ?, checksum = ? WHERE id = ?", (data, checksum(sha256, source, data), id_)
            )

    def sources(self, ids: Iterable[int]) -> dict[int, str]:
        """Return the source names of the examples that exist."""
        found: dict[int, str] = {}
        with self.read() as connection:
            for id_ in ids:
                found.update(connection.execute("SELECT id, source FROM examples WHERE id = ?", (id_,)).fetchall())
        return found

    def delete(self, ids: Sequence[int]) -> None:
        """Drop examples, then classes and images that only they held; inside ``write``."""
        connection = self._connection
        for id_ in ids:
            class_id, sha256 = connection.execute(
                "SELECT class_id, sha256 FROM examples WHERE id = ?", (id_,)
            ).fetchone()
            connection.execute("DELETE FROM examples WHERE id = ?", (id_,))  # RETURNING needs SQLite 3.35
            connection.execute(
                "DELETE FROM classes WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM examples WHERE class_id = ?1)",
                (class_id,),
            )
            connection.execute(
                "DELETE FROM images WHERE sha256 = ?1 AND NOT EXISTS (SELECT 1 FROM examples WHERE sha256 = ?1)",
                (sha256,),
            )

    def rename(self, label: str, new: str) -> None:
        """Give a class a name that is not taken; inside ``write``."""
        class_id = self.class_id(label)
        if self._connection.execute(_ID_OF, (new,)).fetchone():
            raise ValueError(f"there is a class {new!r} already; to join the two: merge {label!r} into {new!r}")
        self._connection.execute("UPDATE classes SET label = ? WHERE id = ?", (new, class_id))

    def _refusal(self, error: Exception) -> RegistryError:
        if self.shared.closing:  # interrupted
            return self.shared.refusal()
        why = str(error) if code_of(error) is None else why_not(error)
        return RegistryError(f"{self.path} was left as it is: {why}")

    def _unreadable(self, error: Exception) -> RegistryError:
        if self.shared.closing:
            return self.shared.refusal()
        return RegistryError(f"{self.path} cannot be read: {error}. {self.remedy}")

    def _remove_if_bare(self) -> None:
        """Remove the file if it holds nothing; who has opened it meanwhile notices at the next ``write``."""
        size = os.path.getsize(self.file)
        if size:  # of an empty file, a full disk would give no lock
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            self._connection.execute("BEGIN EXCLUSIVE")
        if (self.shared.lockless and not size) or is_bare(self._connection):
            os.unlink(self.file)

    def _check_file(self, create: bool) -> None:
        if os.path.isdir(self.file):
            raise RegistryError(f"{self.path or self.file} is a folder; a registry is one file")
        if not create and os.path.isfile(self.file) and not os.path.getsize(self.file):
            raise RegistryError(f"{self.path} is empty, not a registry; it was left as it is. Put a copy of it back")
        if self._made:
            if not create:
                raise RegistryError(
                    f"there is no registry {self.path}; make it with: fewshot add {self.path} LABEL FILE..."
                )
            parent = os.path.dirname(self.file)
            if not os.path.isdir(parent):
                raise RegistryError(f"cannot make {self.path}: there is no folder {parent}")

    def _migrate(self) -> None:
        notes: list[str] = []
        try:
            with self.shared.transaction("DEFERRED"):
                newest = self._version() == len(MIGRATIONS)
            # With FULL, the default, a power cut may bring the removed journal back, which undoes the last change.
            self._connection.execute("PRAGMA synchronous = EXTRA")
            if not newest:
                with self.shared.transaction("IMMEDIATE"):
                    # Read again: another process may have migrated while this one waited.
                    for version in range(self._version(), len(MIGRATIONS)):
                        notes += MIGRATIONS[version](self._connection) or []
                        self._connection.execute(f"PRAGMA user_version = {version + 1}")
                    self._connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                    self.shared.commit()
            with self.shared.transaction("DEFERRED"):
                for statement in CHANGE_TRIGGERS:
                    self._connection.execute(statement)
                self.shared.commit()
        except DAMAGE as error:
            if code_of(error) in (*DISK, errno.EACCES):  # no room, or no right, to bring it up to date
                raise self._refusal(error) from error
            # Only SQLite may open the file: closing it elsewhere in this process would drop SQLite's POSIX locks.
            if "not a database" in str(error):
                raise RegistryError(
                    f"{self.path} is not a fewshot registry; it was left as it is. Choose another name"
                ) from error
            raise self._unreadable(error) from error
        for note in notes:
            warnings.warn(f"{self.path} was brought up to date: {note}", stacklevel=2)

    def _version(self) -> int:
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        (application,) = self._connection.execute("PRAGMA application_id").fetchone()
        (tables,) = self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if application != APPLICATION_ID and (application or version or tables):
            raise RegistryError(
                f"{self.path} is an SQLite file of another program, not a fewshot registry; it was left as it is"
            )
        if version > len(MIGRATIONS):
            raise RegistryError(
                f"{self.path} was written by a newer fewshot (schema {version}; this one knows {len(MIGRATIONS)}). "
                "Upgrade: pip install --upgrade fewshot"
            )
        return int(version)
