"""Descriptions of classes in words, for encoders that read texts, too."""

from __future__ import annotations

import base64
import json
import sqlite3
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from fewshot.errors import NotDescribable, RegistryError
from fewshot.registry.encoder_identity import check_encoder, remember_encoder
from fewshot.registry.multi_label import require_single_label
from fewshot.registry.schema import checksum
from fewshot.registry.snapshot import Snapshot
from fewshot.registry.snapshot_cache import SnapshotCache
from fewshot.registry.store import RegistryStore
from fewshot.validation import check_label, check_vectors, normalised_label

if TYPE_CHECKING:
    from fewshot.encoders import Encoder

MOST_DESCRIBED = 20_000
"""Beside more classes than these, of which an index finds candidates, there are no texts."""


@dataclass(frozen=True)
class Description:
    """The text of a class, and its vector (d,)."""

    text: str
    vector: NDArray[np.float32]


@dataclass(frozen=True)
class ClassTexts:
    """The classes of a snapshot, then those that have a description only, and the vectors of their texts (c, d)."""

    labels: Sequence[str]
    vectors: NDArray[np.float32]


class ClassDescriptions:
    """The part of ``ClassRegistry`` that describes classes in words."""

    _store: RegistryStore
    _texts: TextReader

    @property
    def encoder(self) -> Encoder:
        """See ``ClassRegistry``."""
        raise NotImplementedError

    def describe(self, label: str, text: str | None = None) -> str:
        """Describe a class, known or new, in words; with an encoder that reads texts, as ``ClipEncoder``.

        From the first description on, texts are a prior on the means of all classes (``classifiers.TextPrior``): they
        count the more, the fewer examples a class has, and not at all where the examples object. The text of a class
        without description is its name. A class with a description alone is recognised by it; without any example,
        images are compared with the texts. Limits on false accepts are estimated with the texts, too, from classes that
        have examples.

        Parameters
        ----------
        label : str
        text : str, optional
            As "a red tin of beans"; by default "a photo of a LABEL".

        Returns
        -------
        str
            The text.

        Raises
        ------
        ValueError : for a label that can be none, or an empty text.
        NotDescribable : if the encoder reads no texts, the registry's metric is not "cosine", or it has more than
            20,000 classes.
        """
        require_single_label(self._store, "prior of descriptions")
        label = check_label(label)
        text = name_text(label) if text is None else text.strip()
        if not text:
            raise ValueError(f"the description of {label!r} is empty")
        encoder, metric = self.encoder, self._store.meta()["metric"]
        if (count := self._store.counts()[0]) > MOST_DESCRIBED:
            raise NotDescribable(_too_many(self._store, count))
        if metric != "cosine":
            raise NotDescribable(
                f"{self._store.path} compares by {metric}, and texts can be compared with images by cosine only: "
                "register them in a new file"
            )
        vector = encoded_texts(encoder, [text], f"describe classes of {self._store.path}")[0]
        remember_encoder(self._store, encoder)
        with self._store.write() as connection:
            check_encoder(self._store, encoder)
            write_descriptions(connection, {label: Description(text, vector)})
        return text

    def forget_description(self, label: str) -> None:
        """Remove a class's description, and the class, if it has no example.

        Raises
        ------
        KeyError : if it has none.
        """
        with self._store.write() as connection:
            if not delete_description(connection, label):
                self._store.class_id(label)  # says which there are
                raise KeyError(f"class {label!r} of {self._store.path} has no description")

    def descriptions(self) -> dict[str, str]:
        """Return the text of each class that is described, in the order in which they were."""
        return described_texts(self._store)


class TextReader:
    """Gives the texts of all classes as they are now, and remembers vectors of names.

    Parameters
    ----------
    store : RegistryStore
    encoder : callable
        Returns the registry's encoder.
    """

    def __init__(self, store: RegistryStore, encoder: Callable[[], Encoder]) -> None:
        self._store, self._encoder = store, encoder
        self._lock = threading.Lock()
        self._held: tuple[tuple[int, int], Mapping[str, Description]] | None = None
        self._made: tuple[Snapshot, ClassTexts] | None = None
        self._warned = False
        self._names: dict[tuple[str, str], NDArray[np.float32]] = {}

    def described(self, snapshot: Snapshot) -> Mapping[str, Description]:
        """Return the descriptions of a snapshot's state, which is the file's: both are read in one transaction."""
        with self._lock:
            if self._held is None or self._held[0] != snapshot.state:
                self._held = snapshot.state, read_descriptions(self._store)
            return self._held[1]

    def current(self, snapshots: SnapshotCache) -> Snapshot:
        """Read the registry as it is, with the descriptions of the same state, which are held."""
        with self._store.read():
            snapshot = snapshots.current()
            self.described(snapshot)
        return snapshot

    def vectors(self, snapshot: Snapshot) -> NDArray[np.float32] | None:
        """Return the vectors (c + z, d) of the texts of a snapshot's classes and of z others; None without any."""
        texts = self.of(snapshot, self.described(snapshot))
        return None if texts is None else texts.vectors

    def of(self, snapshot: Snapshot, described: Mapping[str, Description]) -> ClassTexts | None:
        """Return the texts of a snapshot's classes and of those without examples; None where nothing is described.

        Not in a transaction: names may be many, and others want to write.
        """
        if not described:
            return None
        if len(snapshot.labels) > MOST_DESCRIBED:
            if not self._warned:
                warnings.warn(_too_many(self._store, len(snapshot.labels)), stacklevel=4)
            self._warned = True
            return None
        with self._lock:
            if self._made is None or self._made[0] is not snapshot:
                self._made = snapshot, self._texts_of(snapshot, described)
            return self._made[1]

    def compared(
        self,
        snapshot: Snapshot,
        described: Mapping[str, Description],
        codes: NDArray[np.int64],
        encoder: Encoder | None,
    ) -> NDArray[np.float32] | None:
        """Return the texts' vectors (c, d) of some classes of a snapshot and of those without examples, in that order.

        By another encoder, if one is given; None where nothing is described, or where that reads no texts.
        """
        texts = self.of(snapshot, described)
        if texts is None or (encoder is not None and not hasattr(encoder, "encode_texts")):
            return None
        wanted = np.concatenate([codes, np.arange(len(snapshot.labels), len(texts.labels))])
        if encoder is None:
            found: NDArray[np.float32] = texts.vectors[wanted]
            return found
        labels = [texts.labels[n] for n in wanted.tolist()]
        words = [described[label].text if label in described else name_text(label) for label in labels]
        return encoded_texts(encoder, words, f"compare the classes of {self._store.path}")

    def _texts_of(self, snapshot: Snapshot, described: Mapping[str, Description]) -> ClassTexts:
        known = set(snapshot.labels)
        labels = [*snapshot.labels, *(label for label in described if label not in known)]
        encoder = self._encoder()
        key, names = encoder.fingerprint, [label for label in labels if label not in described]
        if unread := [label for label in names if (key, label) not in self._names]:
            made = encoded_texts(encoder, list(map(name_text, unread)), f"compare the classes of {self._store.path}")
            self._names.update(((key, label), vector) for label, vector in zip(unread, made, strict=True))
        vectors = [described[label].vector if label in described else self._names[key, label] for label in labels]
        return ClassTexts(labels, np.stack(vectors))


def _too_many(store: RegistryStore, count: int) -> str:
    return (
        f"{store.path} has {count:,} classes, and descriptions are a prior beside at most {MOST_DESCRIBED:,}: it "
        "answers without them"
    )


def name_text(label: str) -> str:
    """Return the text of a class that has no description.

    References
    ----------
    Radford et al. 2021, arXiv:2103.00020, section 3.1.4.
    """
    return f"a photo of a {label}"


def encoded_texts(encoder: Encoder, texts: Sequence[str], what: str) -> NDArray[np.float32]:
    """Embed n texts (n, d) in the space of an encoder's images; ``what`` they are for is said where it cannot.

    Raises
    ------
    NotDescribable : if the encoder does not read both images and texts.
    """
    encode = getattr(encoder, "encode_texts", None)
    if encode is None:
        from fewshot.encoders import modality_of

        name = getattr(encoder, "spec", {}).get("name", f"of type {type(encoder).__name__}")
        reads = {"image": "no texts", "text": "no images", "audio": "sounds alone"}[modality_of(encoder)]
        raise NotDescribable(
            f"the encoder {name} reads {reads}, and images and texts are needed to {what}: take one of both, such as "
            "clip:ViT-B-32/laion2b_s34b_b79k (pip install 'fewshot[clip]')"
        )
    vectors = check_vectors(cast(Any, encode)(texts), encoder.dim)
    if len(vectors) != len(texts):
        raise ValueError(f"expected a vector for each of {len(texts)} texts, got {len(vectors)}")
    return vectors


def read_descriptions(store: RegistryStore) -> dict[str, Description]:
    """Return the description of each class that has one.

    Raises
    ------
    RegistryError : if one is not what was stored.
    """
    with store.read() as connection:
        rows = connection.execute("SELECT label, text, vector, checksum FROM descriptions ORDER BY id").fetchall()
    for label, text, vector, stored in rows:
        if not sound_description(label, text, vector, stored):
            raise RegistryError(
                f"{store.path} is damaged: the description of {label!r} is not what was stored. {store.remedy}"
            )
    return {label: Description(text, np.frombuffer(vector, "<f4")) for label, text, vector, _ in rows}


def described_texts(store: RegistryStore) -> dict[str, str]:
    """Return the text of each class that is described, in the order in which they were."""
    return {label: one.text for label, one in read_descriptions(store).items()}


def write_descriptions(connection: sqlite3.Connection, descriptions: Mapping[str, Description]) -> None:
    """Store descriptions in place of those that the classes have; inside ``store.write``."""
    for label, one in descriptions.items():
        vector = np.asarray(one.vector, "<f4").tobytes()
        row = (one.text, vector, checksum(label.encode(), one.text, vector), label)
        changed = "UPDATE descriptions SET text = ?, vector = ?, checksum = ? WHERE label = ?"
        if not connection.execute(changed, row).rowcount:
            connection.execute("INSERT INTO descriptions (text, vector, checksum, label) VALUES (?, ?, ?, ?)", row)


def delete_description(connection: sqlite3.Connection, label: str) -> bool:
    """Remove a class's description; returns whether it had one. Inside ``store.write``."""
    found = connection.execute("DELETE FROM descriptions WHERE label = ?", (normalised_label(label),))
    return found.rowcount > 0


def embedded_again(store: RegistryStore, encoder: Encoder) -> dict[str, Description]:
    """Return all descriptions with the vectors of another encoder.

    Raises
    ------
    NotDescribable : if it reads no texts.
    """
    held = read_descriptions(store)
    if not held:
        return {}
    what = (
        f"embed the {len(held)} descriptions of {store.path} anew (to remove these: fewshot describe {store.path} "
        "--remove)"
    )
    vectors = encoded_texts(encoder, [one.text for one in held.values()], what)
    return {label: Description(one.text, v) for (label, one), v in zip(held.items(), vectors, strict=True)}


def exported_descriptions(store: RegistryStore) -> str:
    """Return all descriptions as JSON, from a label to the text and the base64 of its vector."""
    return json.dumps(
        {
            label: [one.text, base64.b64encode(one.vector.astype("<f4").tobytes()).decode()]
            for label, one in read_descriptions(store).items()
        }
    )


def missing_descriptions(store: RegistryStore, exported: str, dim: int) -> dict[str, Description]:
    """Read what ``exported_descriptions`` gave, without classes that are described here; vectors (dim,).

    Raises
    ------
    ValueError : if it is something else.
    """
    read = json.loads(exported)
    if not isinstance(read, dict):
        raise ValueError(f"descriptions are an object from labels to texts and vectors, not {exported[:60]!r}")
    held, found = described_texts(store), {}
    for label, pair in read.items():
        try:
            text, vector = pair
            values = check_vectors(np.frombuffer(base64.b64decode(vector), "<f4")[None], dim)[0]
        except (TypeError, ValueError) as error:
            raise ValueError(f"the description of {label!r} cannot be read: {error}") from error
        if label not in held:
            found[check_label(label)] = Description(str(text), values)
    return found


def sound_description(label: object, text: object, vector: object, stored: object) -> bool:
    """Whether a row holds a description, and the one that was stored."""
    if not (isinstance(label, str) and isinstance(text, str) and isinstance(vector, bytes)):
        return False
    return normalised_label(label) == label and checksum(label.encode(), text, vector) == stored


def rename_description(connection: sqlite3.Connection, label: str, new: str) -> None:
    """Give a class's description, if any, to another, unless that has one. Inside ``store.write``."""
    label = normalised_label(label)
    row = connection.execute("SELECT text, vector FROM descriptions WHERE label = ?", (label,)).fetchone()
    if row is not None:
        connection.execute(
            "UPDATE OR IGNORE descriptions SET label = ?, checksum = ? WHERE label = ?",
            (new, checksum(new.encode(), *row), label),
        )
        if new != label:
            delete_description(connection, label)
