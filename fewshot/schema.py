"""The tables of a registry's file, and how they came about."""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Callable

# What reading a damaged file raises: some damage shows only when Python decodes SQLite's own message about it.
DAMAGE = (sqlite3.DatabaseError, UnicodeDecodeError)
APPLICATION_ID = 0x46455753  # "FEWS", in SQLite's header: tells our files from other programs'


def checksum(sha256: bytes, source: str, vector: bytes) -> int:
    """Return the CRC-32 of what is kept of an example."""
    return zlib.crc32(vector, zlib.crc32(source.encode(), zlib.crc32(sha256)))


def m001_tables(connection: sqlite3.Connection) -> None:
    """Make the first schema."""
    for statement in (
        "CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID",
        "CREATE TABLE classes (id INTEGER PRIMARY KEY, label TEXT NOT NULL UNIQUE)",
        # path: where the picture was, if its bytes were not kept
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
    """Make room for what is of no class: pictures a user has given as such, and the background of a threshold."""
    connection.execute(
        # fingerprint: of the encoder that made the vector; data: a negative's picture, where pictures are kept
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


MIGRATIONS: list[Callable[[sqlite3.Connection], None]] = [m001_tables, m002_checksums, m003_outsiders]
"""Each brings a file from version n to n + 1. Append only."""
