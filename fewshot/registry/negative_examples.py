"""What a registry holds of no class: negatives that a user gave, and the background of its threshold."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from fewshot.errors import ExampleError, RegistryError
from fewshot.media import Source, map_ahead, medium_of
from fewshot.registry.encoder_identity import check_encoder
from fewshot.registry.results import NONE_OF_THESE, AddReport, Conflict, Failure
from fewshot.registry.schema import open_set_checksum, storable
from fewshot.registry.snapshot import Snapshot
from fewshot.registry.store import RegistryStore

if TYPE_CHECKING:
    from fewshot.encoders import Encoder
    from fewshot.registry.snapshot import Snapshot

Kind = Literal["negative", "background"]


@dataclass(frozen=True)
class OpenSetVectors:
    """Vectors (n, d) of no registered class and their n labels; or why those there are cannot be used."""

    vectors: NDArray[np.float32]
    labels: list[str]
    stale: str | None = None


def add_negatives(store: RegistryStore, encoder: Encoder, images: Iterable[Source], *, keep_images: bool) -> AddReport:
    """Embed and store examples that are of none of the classes; one that a class holds is a conflict, and not added."""
    from fewshot.encoders import encode_valid, modality_of

    medium = medium_of(modality_of(encoder))
    failed: list[Failure] = []
    read: list[tuple[Source, bytes]] = []
    sources = list(images)
    for source, data in zip(sources, map_ahead(medium.content, sources), strict=True):
        if isinstance(data, ExampleError):
            failed.append(Failure(medium.describe(source), medium.explained(source, data.reason)))
        else:
            read.append((source, data))
    encoded = encode_valid(encoder, [data for _, data in read])
    failed += [
        Failure(medium.describe(read[n][0]), medium.explained(read[n][0], error.reason)) for n, error in encoded.failed
    ]
    report = AddReport(failed=tuple(failed))
    with store.write(append=True) as connection:
        check_encoder(store, encoder)
        for n, vector in zip(encoded.kept.tolist(), encoded.vectors, strict=True):
            name, data = medium.describe(read[n][0]), read[n][1]
            digest = hashlib.sha256(data).digest()
            if held_by := store.labels_of(digest):
                report += AddReport(conflicts=(Conflict(name, NONE_OF_THESE, tuple(held_by)),))
                continue
            image = data if keep_images else None
            added = insert(connection, "negative", vector, encoder.fingerprint, digest=digest, source=name, data=image)
            report += AddReport(added=1) if added else AddReport(duplicates=1)
    return report


def insert(
    connection: sqlite3.Connection,
    kind: Kind,
    vector: NDArray[np.float32],
    fingerprint: str,
    *,
    label: str = "",
    digest: bytes | None = None,
    source: str = "",
    data: bytes | None = None,
) -> bool:
    """Store one inside ``store.write``; returns False where an image of this hash is there already."""
    source, blob = storable(source), _blob(vector)
    return bool(
        connection.execute(
            "INSERT OR IGNORE INTO outsiders (kind, label, sha256, source, vector, fingerprint, data, checksum) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                kind,
                label,
                digest,
                source,
                blob,
                fingerprint,
                data,
                open_set_checksum(kind, label, digest, source, blob, fingerprint),
            ),
        ).rowcount
    )


def set_background(store: RegistryStore, encoder: Encoder, vectors: NDArray[np.float32], labels: Sequence[str]) -> None:
    """Replace the background; inside ``store.write``."""
    with store.read() as connection:
        connection.execute("DELETE FROM outsiders WHERE kind = 'background'")
        for label, vector in zip(labels, vectors, strict=True):
            insert(connection, "background", vector, encoder.fingerprint, label=label)


def remove_negatives(store: RegistryStore) -> int:
    """Forget all negatives; returns how many there were."""
    with store.write(append=True) as connection:
        return connection.execute("DELETE FROM outsiders WHERE kind = 'negative'").rowcount


def count(store: RegistryStore, kind: Kind) -> int:
    """Return how many there are."""
    with store.read() as connection:
        return int(connection.execute("SELECT count(*) FROM outsiders WHERE kind = ?", (kind,)).fetchone()[0])


def key_of(store: RegistryStore, kind: Kind) -> tuple[int | None, int | None]:
    """Return the largest id and the sum of the checksums: another, once some came or went."""
    with store.read() as connection:
        found = connection.execute("SELECT max(id), sum(checksum) FROM outsiders WHERE kind = ?", (kind,)).fetchone()
    return found[0], found[1]


def load(store: RegistryStore, encoder: Encoder, kind: Kind) -> OpenSetVectors:
    """Read them; negatives from before a reindex are embedded anew from their images, where these were kept.

    Raises
    ------
    RegistryError : if one of them is not what was stored.
    """
    with store.read() as connection:
        rows = connection.execute(
            "SELECT id, label, source, vector, fingerprint, data, sha256, checksum FROM outsiders WHERE kind = ? "
            "ORDER BY id",
            (kind,),
        ).fetchall()
    for id_, label, source, vector, fingerprint, _, sha256, stored in rows:
        if open_set_checksum(kind, label, sha256, source, vector, fingerprint) != stored:
            raise RegistryError(
                f"{store.path} is damaged: {kind} {id_}{source and ', '}{source}, is not what was stored. "
                f"{store.remedy}"
            )
    stale = [row for row in rows if row[4] != encoder.fingerprint]
    lost = [row for row in stale if row[5] is None]
    if lost:
        option = "--background DATA" if kind == "background" else "--forget-negatives, and add them again"
        why = (
            f"{len(lost)} {kind} vectors of {store.path} were made by another encoder than its examples' now: give new "
            f"ones with: fewshot threshold {store.path} {option}"
        )
        return OpenSetVectors(np.empty((0, encoder.dim), np.float32), [], why)
    anew = dict(zip((row[0] for row in stale), encoder.encode([row[5] for row in stale]), strict=True)) if stale else {}
    if anew:
        with store.write(append=True) as connection:
            for id_, label, source, _, _, _, sha256, _ in stale:
                blob, made_by = _blob(anew[id_]), encoder.fingerprint
                number = open_set_checksum(kind, label, sha256, source, blob, made_by)
                connection.execute(
                    "UPDATE outsiders SET vector = ?, fingerprint = ?, checksum = ? WHERE id = ?",
                    (blob, made_by, number, id_),
                )
    vectors = [anew[row[0]] if row[0] in anew else np.frombuffer(row[3], "<f4") for row in rows]
    stacked = np.stack(vectors).astype(np.float32) if vectors else np.empty((0, encoder.dim), np.float32)
    return OpenSetVectors(stacked, [row[1] for row in rows])


def not_among(others: OpenSetVectors, registered: Snapshot) -> OpenSetVectors:
    """Return those that are no registered examples."""
    if not others.labels:
        return others
    some = registered.vectors[np.isin(registered.vectors[:, 0], others.vectors[:, 0])]
    both = {vector.tobytes() for vector in some}
    left = [n for n, vector in enumerate(others.vectors) if vector.tobytes() not in both]
    if len(left) == len(others.labels):
        return others
    return replace(others, vectors=others.vectors[left], labels=[others.labels[n] for n in left])


def _blob(vector: NDArray[np.float32]) -> bytes:
    return np.asarray(vector, "<f4").tobytes()
