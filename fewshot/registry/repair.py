"""What can be recovered from a damaged registry."""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fewshot.errors import RegistryError
from fewshot.files import replacing
from fewshot.progress import Progress
from fewshot.registry.backup import problems_in, written
from fewshot.registry.class_descriptions import sound_description
from fewshot.registry.schema import APPLICATION_ID, DAMAGE, MIGRATIONS, checksum, noun_of, open_set_checksum
from fewshot.registry.synthetic_views import AUGMENTS

_IDS_AT_ONCE = 1024
# SQLite stores no row in less: bounds the ids to look for where the largest cannot be read.
_LEAST_ROW = 16
# So many failures in a table, and what cannot be read is left out by the thousand ids: a lost table of a million would
# take minutes.
_PATIENCE = 20_000
_HEADER = 100
# The schemas from which on there are annotations, checksums of negatives and background, examples with views,
# and descriptions.
_WITH_ANNOTATIONS, _WITH_OPEN_SET_CHECKSUMS, _WITH_AUGMENT, _WITH_DESCRIPTIONS = 4, 5, 9, 11
_NUMBER, _TEXT = (int, type(None)), (str, type(None))
_TAUGHT: dict[str, dict[str, Any]] = {
    "annotations": {"id": int, "task": _NUMBER, "updated": int, "state": str, "body": _TEXT, "reason": _TEXT},
    "deleted_tasks": {"id": int},
    "lessons": {
        "id": int, "annotation": int, "control": str, "region": str, "label": str, "example": _NUMBER,
        "negative": _NUMBER,
    },
}  # fmt: skip
_OF_VECTORS = ("dim", "encoder", "fingerprint", "metric", "modality")
_MOST = 2**40  # bytes: a header that says more is damaged itself


@dataclass(frozen=True)
class Repaired:
    """What was recovered from a damaged registry.

    Attributes
    ----------
    path : str
        The new registry.
    classes, examples, images : int
        What it holds.
    lost : tuple of str
        What could not be recovered, a sentence each, as far as the file shows; empty where nothing is missing.
    """

    path: str
    classes: int
    examples: int
    images: int
    lost: tuple[str, ...]


def repair_registry(path: str | os.PathLike[str], new: str | os.PathLike[str]) -> Repaired:
    """Write a new registry with everything that can still be read of a damaged one, which is left as it is.

    Examples keep their ids. One whose class cannot be read goes to a class "recovered-N"; one that fails its checksum
    is left out, and so is an image, whose example stays. The file is read through a copy, beside ``new``.

    Parameters
    ----------
    path, new : path
        ``new`` must not exist.

    Raises
    ------
    FileNotFoundError : if there is no such file.
    FileExistsError : if ``new`` exists.
    RegistryError : if not even the settings can be read, which say what encoder made the vectors.
    """
    source, target = Path(path), Path(new)
    if not source.is_file():
        raise FileNotFoundError(f"there is no registry {source}")
    if target.exists():
        raise FileExistsError(f"{target} exists: give a new file for what is recovered")
    lost: list[str] = []
    with replacing(target) as temporary, _copied(source, target.parent) as old:
        with written(temporary, target) as fresh:
            for version, migrate in enumerate(MIGRATIONS):
                migrate(fresh)
                fresh.execute(f"PRAGMA user_version = {version + 1}")
            fresh.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            fresh.execute("BEGIN")
            dim = _settings(old, fresh, source, lost)
            _classes(old, fresh, lost)
            _examples(old, fresh, 4 * dim, lost)
            _images(old, fresh, lost)
            _open_set(old, fresh, 4 * dim, lost)
            _annotations(old, fresh, lost)
            _descriptions(old, fresh, 4 * dim, lost)
            fresh.execute("DELETE FROM classes WHERE id NOT IN (SELECT class_id FROM examples)")
            fresh.execute("UPDATE meta SET value = abs(random() / 2) WHERE key = 'rewrites'")
            fresh.execute("COMMIT")
            classes, examples, images = (
                fresh.execute(f"SELECT count(*) FROM {name}").fetchone()[0]
                for name in ("classes", "examples", "images")
            )
            wrong = problems_in(fresh)
        if wrong:  # never: all of it was checked on its way
            raise RegistryError(f"{source} could not be repaired: {wrong[0]}; put a copy of it back")
    return Repaired(os.fspath(target), classes, examples, images, tuple(lost))


@contextmanager
def _copied(source: Path, folder: Path) -> Iterator[sqlite3.Connection]:
    """Open a copy: the journal of a change that was cut short is played back there, and a cut end filled with zeros.

    SQLite reads nothing of a file that is shorter than its header says.
    """
    with tempfile.TemporaryDirectory(prefix=".repair-", dir=folder) as temporary:
        copy = Path(temporary, "copy")
        shutil.copyfile(source, copy)
        journal = source.with_name(f"{source.name}-journal")
        if journal.exists():
            shutil.copyfile(journal, f"{copy}-journal")
        with open(copy, "rb+") as file:
            header = file.read(_HEADER)
            whole = int.from_bytes(header[16:18], "big") * int.from_bytes(header[28:32], "big")
            if header.startswith(b"SQLite format 3") and copy.stat().st_size < whole <= _MOST:
                file.truncate(whole)
        with closing(sqlite3.connect(copy, isolation_level=None)) as connection:
            yield connection


def _settings(old: sqlite3.Connection, fresh: sqlite3.Connection, source: Path, lost: list[str]) -> int:
    """Copy the settings; returns d."""
    try:
        rows = old.execute("SELECT key, value FROM meta").fetchall()
        doubtful = _doubtful(old, "meta", "key, value", "meta_by_value", "INDEXED BY sqlite_autoindex_meta_1")
        if changed := sorted(set(_OF_VECTORS) & doubtful):
            raise ValueError(f"{', '.join(changed)}: two copies that differ")
        dim = int(dict(rows)["dim"])
    except (*DAMAGE, KeyError, TypeError, ValueError) as error:
        raise RegistryError(
            f"{source} cannot be repaired: its settings, which say what made its vectors, cannot be read ({error}). "
            "Put a copy of it back, or register the examples again"
        ) from error
    fresh.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", [row for row in rows if row[0] not in doubtful])
    lost += [f"the setting {key}" for key in sorted(doubtful, key=str) if key not in ("revision", "rewrites")]
    return dim


def _doubtful(
    connection: sqlite3.Connection, table: str, columns: str, index: str, rows: str = "NOT INDEXED"
) -> set[Any]:
    """Return the keys, the first column, of rows whose copy in an index differs; none where it cannot be read.

    ``rows`` makes SQLite read the rows themselves; of a table without row ids they are an index, too.
    """
    copies = [f"SELECT {columns} FROM {table} {by}" for by in (rows, f"INDEXED BY {index}")]
    with suppress(*DAMAGE):
        return {row[0] for one, other in (copies, copies[::-1]) for row in connection.execute(f"{one} EXCEPT {other}")}
    return set()


def _classes(old: sqlite3.Connection, fresh: sqlite3.Connection, lost: list[str]) -> None:
    missing = 0
    doubtful = _doubtful(old, "classes", "id, label", "sqlite_autoindex_classes_1")
    for row in _salvaged(old, "classes", "id", ("id", "label")):
        if row is None or not isinstance(row[1], str) or row[0] in doubtful:
            missing += 1
        else:
            fresh.execute("INSERT OR IGNORE INTO classes VALUES (?, ?)", row)
    if missing:
        lost.append("names of classes: their examples are in classes named recovered-N")


def _examples(old: sqlite3.Connection, fresh: sqlite3.Connection, size: int, lost: list[str]) -> None:
    (version,) = old.execute("PRAGMA user_version").fetchone()
    augment = "augment" if version >= _WITH_AUGMENT else "NULL"
    columns = ["id", "class_id", "sha256", "source", "path", "vector", "added_at", augment]
    if version >= 2:
        columns.append("checksum")
    unreadable = 0
    doubtful = _doubtful(old, "examples", "id, class_id, sha256", "sqlite_autoindex_examples_1")
    doubtful |= _doubtful(old, "examples", "id, added_at, path", "examples_by_origin")
    for row in _salvaged(old, "examples", "id", columns):
        if row is None:
            unreadable += 1
        elif row[0] in doubtful or not _sound(row, size):
            lost.append(f"example {row[0]}: what is left of it is not an example")
        else:
            fresh.execute("INSERT OR IGNORE INTO classes VALUES (?, ?)", (row[1], f"recovered-{row[1]}"))
            whole = (*row[:8], checksum(row[2], row[3], row[5]))
            fresh.execute(
                "INSERT OR IGNORE INTO examples "
                "(id, class_id, sha256, source, path, vector, added_at, augment, checksum) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                whole,
            )
    if unreadable:
        lost.append("examples on pages that cannot be read; how many there were is not known")


def _sound(row: Sequence[Any], size: int) -> bool:
    """Whether a row holds an example, and the one that was stored where there is a checksum."""
    _, class_id, sha256, source, path, vector, added, augment, *stored = row
    return (
        isinstance(class_id, int)
        and isinstance(sha256, bytes)
        and len(sha256) == hashlib.sha256().digest_size
        and isinstance(source, str)
        and isinstance(path, (bytes, type(None)))
        and isinstance(vector, bytes)
        and len(vector) == size
        and isinstance(added, str)
        and augment in (None, *AUGMENTS)
        and all(checksum(sha256, source, vector) == number for number in stored)
    )


def _images(old: sqlite3.Connection, fresh: sqlite3.Connection, lost: list[str]) -> None:
    for row in _salvaged(old, "images", "rowid", ("sha256", "data")):
        if row is None or not isinstance(row[1], bytes) or hashlib.sha256(row[1]).digest() != row[0]:
            continue
        fresh.execute("INSERT OR IGNORE INTO images VALUES (?, ?)", row)
    fresh.execute("DELETE FROM images WHERE sha256 NOT IN (SELECT sha256 FROM examples)")
    without = fresh.execute(
        "SELECT id, source FROM examples WHERE path IS NULL AND sha256 NOT IN (SELECT sha256 FROM images)"
    ).fetchall()
    lost += [f"the {noun_of(fresh)} of example {id_}, {source}: its vector is there" for id_, source in without]


def _open_set(old: sqlite3.Connection, fresh: sqlite3.Connection, size: int, lost: list[str]) -> None:
    (version,) = old.execute("PRAGMA user_version").fetchone()
    if version < 3:
        return
    columns = ["id", "kind", "label", "sha256", "source", "vector", "fingerprint", "data"]
    if version >= _WITH_OPEN_SET_CHECKSUMS:
        columns.append("checksum")
    missing = False
    for row in _salvaged(old, "outsiders", "id", columns):
        if row is None or not _sound_open_set_row(row, size):
            missing = True
            continue
        id_, kind, label, sha256, source, vector, fingerprint, data = row[:8]
        if data is not None and hashlib.sha256(data).digest() != sha256:
            lost.append(f"the {noun_of(fresh)} of {kind} {id_}, {source}: its vector is there")
            data = None
        fresh.execute(
            "INSERT OR IGNORE INTO outsiders (id, kind, label, sha256, source, vector, fingerprint, data, checksum) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (*row[:7], data, open_set_checksum(kind, label, sha256, source, vector, fingerprint)),
        )
    if missing:
        lost.append("some of what is of no class: negatives, or the background of the threshold")


def _sound_open_set_row(row: Sequence[Any], size: int) -> bool:
    """Whether a row holds a negative or a background vector, and the one that was stored where there is a checksum."""
    _, kind, label, sha256, source, vector, fingerprint, data, *stored = row
    number = open_set_checksum(kind, label, sha256, source, vector, fingerprint)
    return (
        number >= 0
        and len(vector) == size
        and isinstance(data, (bytes, type(None)))
        and all(number == noted for noted in stored)
    )


def _annotations(old: sqlite3.Connection, fresh: sqlite3.Connection, lost: list[str]) -> None:
    """Copy the annotations, and the labels applied of them; a label whose example is lost stays, without it."""
    (version,) = old.execute("PRAGMA user_version").fetchone()
    missing = False
    for table, kinds in _TAUGHT.items() if version >= _WITH_ANNOTATIONS else ():
        for row in _salvaged(old, table, "id", list(kinds)):
            if row is None or not all(isinstance(value, kind) for value, kind in zip(row, kinds.values(), strict=True)):
                missing = True
                continue
            marks = ", ".join("?" * len(row))
            fresh.execute(f"INSERT OR IGNORE INTO {table} ({', '.join(kinds)}) VALUES ({marks})", row)
    fresh.execute("UPDATE lessons SET example = NULL WHERE example NOT IN (SELECT id FROM examples)")
    fresh.execute("UPDATE lessons SET negative = NULL WHERE negative NOT IN (SELECT id FROM outsiders)")
    if missing:
        lost.append("some of the annotations: learn their project from its export again")


def _descriptions(old: sqlite3.Connection, fresh: sqlite3.Connection, size: int, lost: list[str]) -> None:
    (version,) = old.execute("PRAGMA user_version").fetchone()
    missing = False
    columns = ["id", "label", "text", "vector", "checksum"]
    for row in _salvaged(old, "descriptions", "id", columns) if version >= _WITH_DESCRIPTIONS else ():
        if row is None or not (sound_description(*row[1:]) and len(row[3]) == size):
            missing = True
        else:
            fresh.execute("INSERT OR IGNORE INTO descriptions VALUES (?, ?, ?, ?, ?)", row)
    if missing:
        lost.append("some of the descriptions of classes")


def _salvaged(
    connection: sqlite3.Connection, table: str, key: str, columns: Sequence[str]
) -> Iterator[tuple[Any, ...] | None]:
    """Yield each row that can be read, and None for each stretch of ids that cannot.

    Ranges of ids are read at once where that works, and halved where it does not: one bad page hides only its own rows.
    """
    between = f"FROM {table} WHERE {key} BETWEEN ? AND ?"
    waiting, failures = [(1, _largest(connection, table, key))], 0
    with Progress(None, f"read {table}") as bar:
        while waiting:
            low, high = waiting.pop()
            try:
                (first,) = connection.execute(f"SELECT min({key}) {between}", (low, high)).fetchone()
                if first is None:
                    continue
                if not low <= int(first) <= high:
                    raise ValueError("ids are out of order")
                end = min(high, int(first) + _IDS_AT_ONCE - 1)
                rows = connection.execute(f"SELECT {', '.join(columns)} {between}", (first, end)).fetchall()
            except (*DAMAGE, ValueError):
                failures += 1
                if high - low < (1 if failures < _PATIENCE else _IDS_AT_ONCE):
                    yield None
                else:
                    middle = (low + high) // 2
                    waiting += [(middle + 1, high), (low, middle)]
                continue
            yield from rows
            bar.advance(len(rows))
            if end < high:
                waiting.append((end + 1, high))


def _largest(connection: sqlite3.Connection, table: str, key: str) -> int:
    """Return the largest id of a table, or, where that cannot be read, a number that it does not exceed."""
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    (size,) = connection.execute("PRAGMA page_size").fetchone()
    looks = [f"SELECT max({key}) FROM {table}"]
    if table in ("classes", "examples", "images"):  # these come with examples, so there were never more of them
        looks.append("SELECT seq FROM sqlite_sequence WHERE name = 'examples'")
    for look in looks:
        with suppress(*DAMAGE):
            row = connection.execute(look).fetchone()
            if row is not None and isinstance(row[0], (int, type(None))):
                return int(row[0] or 0)
    return int(pages) * int(size) // _LEAST_ROW
