"""The tables of a registry's file, and how they came about."""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Callable

from fewshot.media import MODALITIES, medium_of
from fewshot.validation import normalised_label

# What reading a damaged file raises: some damage shows only when Python decodes SQLite's own message about it.
DAMAGE = (sqlite3.DatabaseError, UnicodeDecodeError)


def is_busy(error: BaseException) -> bool:
    """Whether this is SQLite's error for a file that another process is writing to: nothing is wrong with it."""
    return isinstance(error, sqlite3.OperationalError) and "locked" in str(error)


APPLICATION_ID = 0x46455753  # "FEWS", in SQLite's header: tells our files from other programs'

MOST_CHANGES = 10_000
"""So many of the last changes are listed; who has seen none of them reads everything again."""

BY_HAND = 0
"""The id under which images registered without an annotation are recorded; it is never deleted."""


def checksum(sha256: bytes, source: str, vector: bytes) -> int:
    """Return the CRC-32 of what is stored of an example."""
    return zlib.crc32(vector, zlib.crc32(source.encode(), zlib.crc32(sha256)))


def open_set_checksum(kind: object, label: object, sha256: object, source: object, vector: object, by: object) -> int:
    """Return the CRC-32 of what is stored of a negative or background vector made ``by`` this encoder, or -1 for none.

    Its image has a hash of its own.
    """
    words = (kind, label, source, by)
    if not (
        isinstance(vector, bytes)
        and isinstance(sha256, (bytes, type(None)))
        and all(isinstance(word, str) for word in words)
    ):
        return -1
    return zlib.crc32(vector, zlib.crc32("\0".join(map(str, words)).encode(), zlib.crc32(sha256 or b"")))


def storable(name: str) -> str:
    """Return a file name as SQLite can hold it: bytes that are not UTF-8 become question marks."""
    return name.encode("utf-8", "replace").decode()


def is_bare(connection: sqlite3.Connection) -> bool:
    """Whether no table holds anything but settings and what has changed."""
    tables = connection.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT IN ('meta', 'changes') "
        "AND name NOT LIKE 'sqlite%'"
    ).fetchall()
    return not any(connection.execute(f"SELECT 1 FROM {name} LIMIT 1").fetchone() for (name,) in tables)


def noun_of(connection: sqlite3.Connection) -> str:
    """Return what a file's examples are, in a word: "image", "text" or "sound"."""
    row = connection.execute("SELECT value FROM meta WHERE key = 'modality'").fetchone()
    return medium_of(row[0] if row and row[0] in MODALITIES else "image").noun


def m001_tables(connection: sqlite3.Connection) -> None:
    """Make the first schema."""
    for statement in (
        "CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID",
        "CREATE TABLE classes (id INTEGER PRIMARY KEY, label TEXT NOT NULL UNIQUE)",
        # path: where the image was, if its bytes were not kept
        """CREATE TABLE examples (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            class_id INTEGER NOT NULL REFERENCES classes (id),
            sha256 BLOB NOT NULL,
            source TEXT NOT NULL,
            path BLOB,
            vector BLOB NOT NULL,
            added_at TEXT NOT NULL,
            UNIQUE (class_id, sha256))""",
        "CREATE INDEX examples_by_hash ON examples (sha256)",
        "CREATE TABLE images (sha256 BLOB PRIMARY KEY, data BLOB NOT NULL)",
        # revision: changes so far; rewrites: a number drawn anew by each that did more than append examples
        "INSERT INTO meta VALUES ('revision', 0), ('rewrites', 0)",
    ):
        connection.execute(statement)


def m002_checksums(connection: sqlite3.Connection) -> None:
    """Give each example a checksum: SQLite notices a torn page, not a changed byte."""
    connection.execute("ALTER TABLE examples ADD COLUMN checksum INTEGER NOT NULL DEFAULT 0")
    connection.create_function("checksum_of", 3, checksum, deterministic=True)
    connection.execute("UPDATE examples SET checksum = checksum_of(sha256, source, vector)")


def m003_outsiders(connection: sqlite3.Connection) -> None:
    """Make room for what is of no class: images a user has given as such, and the background of a threshold."""
    connection.execute(
        # fingerprint: of the encoder that made the vector; data: a negative's image, where images are kept
        """CREATE TABLE outsiders (
            id INTEGER PRIMARY KEY,
            kind TEXT NOT NULL,
            label TEXT NOT NULL,
            sha256 BLOB,
            source TEXT NOT NULL,
            vector BLOB NOT NULL,
            fingerprint TEXT NOT NULL,
            data BLOB,
            UNIQUE (kind, sha256))"""
    )


def m004_lessons(connection: sqlite3.Connection) -> None:
    """Make tables for annotations, and the labels applied of each."""
    for statement in (
        # updated: microseconds since 1970; state: waiting, learned or gone; body: what is still to be learned of it, or
        # the SHA-256 of what was; reason: why it, or some of it, could not be
        """CREATE TABLE annotations (
            id INTEGER PRIMARY KEY,
            task INTEGER,
            updated INTEGER NOT NULL,
            state TEXT NOT NULL,
            body TEXT,
            reason TEXT)""",
        "CREATE INDEX annotations_by_state ON annotations (state, id)",
        "CREATE INDEX annotations_by_task ON annotations (task)",
        "CREATE TABLE deleted_tasks (id INTEGER PRIMARY KEY)",
        # label: "" where the image is none of the classes; without example and negative: removed by hand since
        """CREATE TABLE lessons (
            id INTEGER PRIMARY KEY,
            annotation INTEGER NOT NULL,
            control TEXT NOT NULL,
            region TEXT NOT NULL,
            label TEXT NOT NULL,
            example INTEGER REFERENCES examples (id) ON DELETE SET NULL,
            negative INTEGER REFERENCES outsiders (id) ON DELETE SET NULL,
            UNIQUE (annotation, control, region, label))""",
        "CREATE INDEX lessons_by_example ON lessons (example)",
        "CREATE INDEX lessons_by_negative ON lessons (negative)",
    ):
        connection.execute(statement)


def m005_outsider_checksums(connection: sqlite3.Connection) -> None:
    """Give negatives and background vectors a checksum, as examples have one."""
    connection.execute("ALTER TABLE outsiders ADD COLUMN checksum INTEGER NOT NULL DEFAULT 0")
    connection.create_function("outsider_checksum_of", 6, open_set_checksum, deterministic=True)
    connection.execute(
        "UPDATE outsiders SET checksum = outsider_checksum_of(kind, label, sha256, source, vector, fingerprint)"
    )


def m006_labels(connection: sqlite3.Connection) -> list[str]:
    """Bring labels to Unicode's composed form, without blanks at their ends; classes that become one are merged."""
    notes = []
    for class_id, label in connection.execute("SELECT id, label FROM classes ORDER BY id").fetchall():
        new = normalised_label(label) or label
        if new == label:
            continue
        target = connection.execute("SELECT id FROM classes WHERE label = ?", (new,)).fetchone()
        if target is None:
            connection.execute("UPDATE classes SET label = ? WHERE id = ?", (new, class_id))
            notes.append(f"class {label!a} is now called {new!a}")
            continue
        twins = connection.execute(
            "SELECT old.id, new.id, EXISTS (SELECT 1 FROM lessons WHERE example = old.id), "
            "EXISTS (SELECT 1 FROM lessons WHERE example = new.id) "
            "FROM examples old JOIN examples new USING (sha256) WHERE old.class_id = ? AND new.class_id = ?",
            (class_id, *target),
        ).fetchall()
        for gone, kept, gone_annotated, kept_annotated in twins:
            if gone_annotated != kept_annotated:  # one was registered by hand, and stays if the annotation is deleted
                connection.execute(
                    "INSERT OR IGNORE INTO lessons (annotation, control, region, label, example) "
                    "VALUES (?, '', ?, '', ?)",
                    (BY_HAND, f"example {kept}", kept),
                )
            connection.execute("UPDATE lessons SET example = ? WHERE example = ?", (kept, gone))
            connection.execute("DELETE FROM examples WHERE id = ?", (gone,))
        moved = connection.execute("UPDATE examples SET class_id = ? WHERE class_id = ?", (*target, class_id)).rowcount
        connection.execute("DELETE FROM classes WHERE id = ?", (class_id,))
        notes.append(
            f"class {label!a} was merged into {new!a}, the same label written otherwise: {moved} of its "
            f"{moved + len(twins)} examples are new there"
        )
    for row, label in connection.execute("SELECT id, label FROM lessons").fetchall():
        if normalised_label(label) != label:
            connection.execute("UPDATE OR REPLACE lessons SET label = ? WHERE id = ?", (normalised_label(label), row))
    if notes:
        connection.execute("UPDATE meta SET value = value + 1 WHERE key = 'revision'")
        connection.execute("UPDATE meta SET value = abs(random() / 2) WHERE key = 'rewrites'")
    return notes


def m007_second_copies(connection: sqlite3.Connection) -> None:
    """Hold in an index, too, what has no checksum: SQLite's own check then notices where one of the two has changed."""
    for statement in (
        "CREATE INDEX IF NOT EXISTS meta_by_value ON meta (value)",
        "CREATE INDEX IF NOT EXISTS examples_by_origin ON examples (added_at, path)",
        "CREATE INDEX IF NOT EXISTS annotations_by_content ON annotations (updated, body, reason)",
        "CREATE INDEX IF NOT EXISTS deleted_tasks_by_id ON deleted_tasks (id)",
    ):
        connection.execute(statement)


def m008_modality(connection: sqlite3.Connection) -> None:
    """Say of a registry from before texts and sounds that its examples are images."""
    connection.execute("INSERT OR IGNORE INTO meta SELECT 'modality', 'image' FROM meta WHERE key = 'fingerprint'")


def m009_augment(connection: sqlite3.Connection) -> None:
    """Note which examples were embedded with synthetic views, so that embedding them anew repeats it."""
    if not connection.execute("SELECT 1 FROM pragma_table_info('examples') WHERE name = 'augment'").fetchone():
        connection.execute("ALTER TABLE examples ADD COLUMN augment TEXT")
    connection.execute("CREATE INDEX IF NOT EXISTS examples_by_augment ON examples (augment) WHERE augment IS NOT NULL")


def m010_changes(connection: sqlite3.Connection) -> None:
    """List which examples and classes were changed or removed, for readers that hold the others in memory."""
    # kind: 'example' or 'class', with its id; or 'rewrites', with that number as it is after the changes before
    connection.execute("CREATE TABLE IF NOT EXISTS changes (number INTEGER PRIMARY KEY, kind, id)")
    connection.execute("INSERT INTO changes (kind, id) SELECT 'rewrites', value FROM meta WHERE key = 'rewrites'")


def m011_descriptions(connection: sqlite3.Connection) -> None:
    """Make room for descriptions of classes in words, some of which have no example."""
    # vector: of the text, by the registry's encoder; checksum: of label, text and vector
    connection.execute(
        """CREATE TABLE IF NOT EXISTS descriptions (
            id INTEGER PRIMARY KEY,
            label TEXT NOT NULL UNIQUE,
            text TEXT NOT NULL,
            vector BLOB NOT NULL,
            checksum INTEGER NOT NULL)"""
    )


_LOG = "INSERT INTO changes (kind, id) VALUES"
CHANGE_TRIGGERS = (
    f"CREATE TEMP TRIGGER example_changed AFTER UPDATE ON main.examples BEGIN {_LOG} ('example', OLD.id); END",
    f"CREATE TEMP TRIGGER example_removed AFTER DELETE ON main.examples BEGIN {_LOG} ('example', OLD.id); END",
    f"CREATE TEMP TRIGGER class_changed AFTER UPDATE ON main.classes BEGIN {_LOG} ('class', OLD.id); END",
    f"CREATE TEMP TRIGGER class_removed AFTER DELETE ON main.classes BEGIN {_LOG} ('class', OLD.id); END",
    f"""CREATE TEMP TRIGGER rewritten AFTER UPDATE ON main.meta WHEN NEW.key = 'rewrites' BEGIN
        DELETE FROM changes WHERE OLD.value IS NOT
            (SELECT id FROM changes WHERE kind = 'rewrites' ORDER BY number DESC LIMIT 1);
        {_LOG} ('rewrites', NEW.value);
        DELETE FROM changes WHERE number <= (SELECT max(number) FROM changes) - {MOST_CHANGES};
    END""",
)
"""What lists the changes of a connection; not in the file, whose tables' list so stays on its first page.

A list that lacks some, as of a version that opened the file before there was one, is begun anew.
"""

MIGRATIONS: list[Callable[[sqlite3.Connection], list[str] | None]] = [
    m001_tables,
    m002_checksums,
    m003_outsiders,
    m004_lessons,
    m005_outsider_checksums,
    m006_labels,
    m007_second_copies,
    m008_modality,
    m009_augment,
    m010_changes,
    m011_descriptions,
]
"""Each brings a file from version n to n + 1, and may return what its owner should know. Append only."""
