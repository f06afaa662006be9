"""Keeping a registry safe: copies made while others write, and whether it is what was stored."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from fewshot.errors import RegistryError
from fewshot.files import code_of, replacing, unwritable
from fewshot.progress import Progress
from fewshot.registry.class_descriptions import sound_description
from fewshot.registry.schema import APPLICATION_ID, DAMAGE, checksum, is_busy, noun_of, open_set_checksum
from fewshot.registry.store import RegistryStore

_PAGES_AT_ONCE = 1024


class BackupAndCheck:
    """The part of ``ClassRegistry`` that keeps it safe."""

    _store: RegistryStore

    def backup(self, path: str | os.PathLike[str]) -> int:
        """Copy the registry to a file, whole or not at all, while others may write; returns its bytes.

        Raises
        ------
        RegistryError : if the registry is damaged; an older copy at ``path`` then stays.
        """
        return backup(self._store, path)

    def check(self) -> list[str]:
        """Compare the whole file with its checksums; returns what is wrong, a sentence each."""
        return problems_of(self._store)

    @property
    def remedy(self) -> str:
        """What to do about a damaged file."""
        return self._store.remedy


def backup(store: RegistryStore, path: str | os.PathLike[str]) -> int:
    """Copy a registry to a file while others may write: one consistent state of it, whole or not at all.

    Parameters
    ----------
    store : RegistryStore
    path : path
        An older copy there is replaced, once the new one is complete and checked; any other file is left alone.

    Returns
    -------
    int
        Bytes of the copy.

    Raises
    ------
    RegistryError : if the registry is damaged, ``path`` is the registry itself, or a file that is no registry.
    OSError : if the copy cannot be written.
    """
    target = Path(path)
    if target.exists() and os.path.samefile(target, store.file):
        raise RegistryError(f"{target} is the registry itself: give another file for its copy")
    if target.is_file() and target.stat().st_size and not _is_registry(target):
        raise RegistryError(f"{target} is no registry, and was left as it is: give another file for the copy")
    problems: list[str] = []
    with replacing(target) as temporary:
        with written(temporary, target) as copy:
            with store.read() as connection, Progress(None, "backup") as bar:
                connection.execute("SELECT 1 FROM meta").fetchone()  # holds this state, or each change would begin anew
                try:
                    connection.backup(copy, pages=_PAGES_AT_ONCE, progress=lambda *_: bar.advance(1))
                except sqlite3.OperationalError as error:  # of a damaged source it is another error
                    raise unwritable(target, error) from error
            problems = problems_in(copy)
        if problems:
            raise RegistryError(
                f"{store.path} is damaged, so it was not copied, and {target} is as it was: {problems[0]}. "
                f"{store.remedy}"
            )
    return target.stat().st_size


def _is_registry(path: Path) -> bool:
    """Whether a file is marked as a registry, damaged or not; SQLite looks, for its locks go with others' handles."""
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            return bool(connection.execute("PRAGMA application_id").fetchone()[0] == APPLICATION_ID)
    except sqlite3.DatabaseError as error:
        return "not a database" not in str(error)


def problems_of(store: RegistryStore) -> list[str]:
    """Say what is wrong with a registry's file, a sentence each: in its pages, examples (by checksum) and images."""
    with store.read() as connection:
        return problems_in(connection)


def problems_in(connection: sqlite3.Connection) -> list[str]:
    """Say what is wrong in an open file, a sentence each."""
    try:
        found = [str(row[0]) for row in connection.execute("PRAGMA integrity_check(10)") if row[0] != "ok"]
        found += [
            f"an example of a class that is not there (row {id_})"
            if table == "examples"
            else f"a row of {table} about what is not there (row {id_})"
            for table, id_, *_ in connection.execute("PRAGMA foreign_key_check")
        ]
        return found or list(_changed(connection))
    except DAMAGE as error:
        if is_busy(error):
            raise
        return [str(error)]
    except (TypeError, AttributeError):
        return ["a row is not what was stored: it holds a number for bytes, or the like"]


def _changed(connection: sqlite3.Connection) -> Iterator[str]:
    """Compare rows and the bytes of examples with their checksums, and tell of each that differs."""
    for id_, sha256, source, vector, stored in connection.execute(
        "SELECT id, sha256, source, vector, checksum FROM examples"
    ):
        if checksum(sha256, source, vector) != stored:
            yield f"example {id_}, {source}, is not what was stored"
    for kind, label, sha256, source, vector, fingerprint, stored, id_, data in connection.execute(
        "SELECT kind, label, sha256, source, vector, fingerprint, checksum, id, data FROM outsiders"
    ):
        if open_set_checksum(kind, label, sha256, source, vector, fingerprint) != stored:
            yield f"{kind} {id_}, {source}, is not what was stored"
        elif data is not None and hashlib.sha256(data).digest() != sha256:
            yield f"the {noun_of(connection)} of {kind} {id_}, {source}, has changed in the file"
    for row in connection.execute("SELECT label, text, vector, checksum FROM descriptions"):
        if not sound_description(*row):
            yield f"the description of {row[0]!r} is not what was stored"
    for sha256, data in connection.execute("SELECT sha256, data FROM images"):
        if hashlib.sha256(data).digest() != sha256:
            yield f"the {noun_of(connection)} {sha256.hex()[:8]} has changed in the file"


@contextmanager
def written(temporary: Path, target: Path) -> Iterator[sqlite3.Connection]:
    """Open a new file that will be ``target``; what reads the old one catches its own errors."""
    try:
        with closing(sqlite3.connect(temporary, isolation_level=None)) as fresh:
            yield fresh
    except sqlite3.OperationalError as error:
        if code_of(error) is None:
            raise
        raise unwritable(target, error) from error
