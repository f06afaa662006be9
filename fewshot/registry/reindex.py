"""Embedding a registry's examples again with another encoder."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fewshot.errors import ExampleError, RegistryError
from fewshot.media import medium_of
from fewshot.progress import Progress
from fewshot.registry.class_descriptions import described_texts, embedded_again, write_descriptions
from fewshot.registry.encoder_identity import encoder_meta
from fewshot.registry.store import RegistryStore
from fewshot.registry.synthetic_views import encode_examples

if TYPE_CHECKING:
    from fewshot.encoders import Encoder

_CHUNK = 64
_LISTED = 10
_NOT_KEPT = "was not kept, nor where it was"


def reindex(store: RegistryStore, encoder: Encoder) -> int:
    """Replace every vector by the new encoder's in one transaction; returns how many.

    Raises
    ------
    RegistryError : naming those that cannot be embedded again, or for an encoder of another modality; the registry is
        left as it was.
    """
    vectors: dict[int, NDArray[np.float32]] = {}
    while True:
        described = embedded_again(store, encoder)
        ids = _example_ids(store)
        vectors.update(embedded(store, [id_ for id_ in ids if id_ not in vectors], encoder))
        with store.write() as connection:
            ids, texts = _example_ids(store), described_texts(store)
            same = texts == {label: one.text for label, one in described.items()}
            if same and all(id_ in vectors for id_ in ids):  # else others came meanwhile: embed those too
                write_descriptions(connection, described)
                store.set_vectors({id_: vectors[id_] for id_ in ids})
                store.set_meta(**encoder_meta(encoder))
                return len(ids)


def image_of(store: RegistryStore, example: int) -> bytes:
    """Return an example's bytes: those kept, or those of the file it came from, if that is unchanged.

    Raises
    ------
    KeyError : if there is no such example.
    ExampleError : if they cannot be found, or have changed.
    """
    with store.read() as connection:
        row = connection.execute(
            "SELECT examples.sha256, path, source, data FROM examples LEFT JOIN images USING (sha256) WHERE id = ?",
            (example,),
        ).fetchone()
    if row is None:
        raise KeyError(f"no example {example} in {store.path}")
    medium = medium_of(store.modality)
    sha256, path, source, data = row
    if data is not None:
        return bytes(data)
    if path is None:
        raise medium.error(source, f"its {medium.noun} {_NOT_KEPT}")
    path = os.fsdecode(path)
    found = medium.content(medium.from_path(path))
    if hashlib.sha256(found).digest() != sha256:
        raise medium.error(path, f"the {medium.noun} has changed since it was registered")
    return found


def augment_of(store: RegistryStore, example: int) -> str | None:
    """Return with which synthetic views an example is embedded, if any."""
    with store.read() as connection:
        row = connection.execute("SELECT augment FROM examples WHERE id = ?", (example,)).fetchone()
    return None if row is None else row[0]


def _example_ids(store: RegistryStore) -> list[int]:
    with store.read() as connection:
        return [id_ for (id_,) in connection.execute("SELECT id FROM examples ORDER BY id")]


def embedded(store: RegistryStore, ids: list[int], encoder: Encoder) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Yield the ids of examples that are still there, and the vectors that an encoder makes of them.

    Raises
    ------
    RegistryError : for an encoder of another modality; at the end, naming those that cannot be had or read.
    """
    from fewshot.encoders import modality_of

    held, reads = medium_of(store.modality), medium_of(modality_of(encoder))
    if held is not reads:
        raise RegistryError(
            f"{store.path} holds {held.noun}s, and the encoder reads {reads.noun}s: give an encoder of {held.noun}s"
        )
    missing: list[str] = []
    source = iter(ids)
    with Progress(len(ids), "reindex") as bar:
        while chunk := list(islice(source, _CHUNK)):
            found = []
            for id_ in chunk:
                try:
                    found.append((id_, image_of(store, id_), augment_of(store, id_)))
                except KeyError:
                    continue  # removed meanwhile by another process
                except ExampleError as error:
                    missing.append(f"example {id_}, {error}")
            encoded = encode_examples(encoder, [data for _, data, _ in found], [augment for *_, augment in found])
            missing += [f"example {found[n][0]}: {error.reason}" for n, error in encoded.failed]
            yield from zip((found[n][0] for n in encoded.kept.tolist()), encoded.vectors, strict=True)
            bar.advance(len(chunk))
    if missing:
        raise RegistryError(unavailable(missing, len(ids), store.path, medium_of(store.modality).noun))


def unavailable(missing: Sequence[str], total: int, path: str, noun: str) -> str:
    """Say which examples are needed and cannot be had."""
    listed = "; ".join(missing[:_LISTED]) + ("; ..." if len(missing) > _LISTED else "")
    without = sum(reason.endswith(_NOT_KEPT) for reason in missing)
    advice = (
        "Put them back, or remove those examples"
        if without < len(missing)
        else f"They came without {noun}s, as `fewshot import` brings them: make a new registry from the {noun}s"
    )
    return (
        f"{len(missing)} of {total} {noun}s cannot be embedded again, so {path} was left as it is. {advice}: {listed}"
    )
