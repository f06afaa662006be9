"""A cache of embeddings on disk."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from fewshot.encoders.device import Precision
from fewshot.encoders.encoder import Encoded, Encoder, check_image_batch, check_is_encoder, encode_valid, modality_of
from fewshot.encoders.image_transformer import ImageTransformer
from fewshot.errors import ExampleError
from fewshot.files import DOUBT_SECONDS, code_of, why_no_locks, why_not
from fewshot.media import Medium, Modality, Source, map_ahead, medium_of

_CHUNK = 1024
_BUSY_SECONDS = 60.0
_PRECISIONS = ("", *get_args(Precision))


class EmbeddingCache(ImageTransformer):
    """An encoder with a cache: one SQLite file of embeddings by content hash, fingerprint and precision.

    Parameters
    ----------
    encoder : Encoder
        Computes the embeddings that the file does not hold yet.
    path : path
        The cache file; created when absent, shared by any number of encoders and processes. It can be deleted at any
        time: nothing in it is lost for good.

    Examples
    --------
    >>> import numpy as np
    >>> from fewshot import EmbeddingCache, TimmEncoder
    >>> encoder = EmbeddingCache(TimmEncoder("pocket"), "embeddings.sqlite")
    >>> images = [np.zeros((64, 64, 3), np.uint8)]
    >>> encoder.encode(images).shape
    (1, 384)
    >>> bool((encoder.encode(images) == encoder.encode(images)).all())  # read from the file
    True
    """

    def __init__(self, encoder: Encoder, path: str | os.PathLike[str]) -> None:
        self.encoder = encoder
        self.path = path

    @property
    def modality(self) -> Modality:
        """The encoder's own."""
        return modality_of(self.encoder)

    @property
    def dim(self) -> int:
        """The embedding size d."""
        return check_is_encoder(self.encoder).dim

    @property
    def fingerprint(self) -> str:
        """The encoder's own."""
        return check_is_encoder(self.encoder).fingerprint

    @property
    def parts(self) -> tuple[int, ...]:
        """The encoder's own, or (d,)."""
        return getattr(self.encoder, "parts", (self.dim,))

    @property
    def spec(self) -> dict[str, Any]:
        """How to load the encoder again; {} where the encoder has no ``spec``."""
        return getattr(self.encoder, "spec", {})

    @property
    def encode_texts(self) -> Callable[[Sequence[str]], NDArray[np.float32]]:
        """The encoder's own, where it has one: texts are not cached."""
        own: Callable[[Sequence[str]], NDArray[np.float32]] = self.encoder.encode_texts  # type: ignore[attr-defined]
        return own

    def encode_valid(self, images: Iterable[Source]) -> Encoded:
        """Embed the examples that can be read, and list the others; each chunk is stored as soon as it is embedded."""
        source = iter(check_image_batch(images, self.modality))
        chunks = []
        start = 0
        while chunk := list(islice(source, _CHUNK)):
            chunks.append(self._chunk(chunk, start))
            start += len(chunk)
        if not chunks:
            return Encoded(np.empty((0, self.dim), np.float32), np.empty(0, np.int64), ())
        return Encoded(
            np.concatenate([c.vectors for c in chunks]),
            np.concatenate([c.kept for c in chunks]),
            tuple(failure for c in chunks for failure in c.failed),
        )

    def _chunk(self, images: list[Source], start: int) -> Encoded:
        medium = medium_of(self.modality)
        keys = list(map_ahead(partial(self._key, medium), images))
        failed = {start + n: key for n, key in enumerate(keys) if isinstance(key, ExampleError)}
        known = self._look_up({key for key in keys if isinstance(key, bytes)})
        first: dict[bytes, int] = {}
        for n, key in enumerate(keys):
            if isinstance(key, bytes) and key not in known:
                first.setdefault(key, n)
        missing = list(first.items())
        encoded = encode_valid(self.encoder, [images[n] for _, n in missing]) if missing else None
        if encoded is not None:
            fresh = {missing[n][0]: v for n, v in zip(encoded.kept.tolist(), encoded.vectors, strict=True)}
            self._keep(fresh)
            known.update(fresh)
            broken = {missing[n][0]: error for n, error in encoded.failed}
            for n, key in enumerate(keys):
                if isinstance(key, bytes) and key in broken:
                    failed[start + n] = medium.error(medium.describe(images[n]), broken[key].reason)
        kept = [n for n, key in enumerate(keys) if isinstance(key, bytes) and key in known]
        vectors = [known[key] for n in kept if isinstance(key := keys[n], bytes)]
        stacked = np.stack(vectors) if vectors else np.empty((0, self.dim), np.float32)
        return Encoded(stacked, np.array(kept, np.int64) + start, tuple(sorted(failed.items())))

    def _key(self, medium: Medium, example: Source) -> bytes:
        # Path strings repeated within a run are read again on purpose: the file may have changed.
        precision = getattr(self.encoder, "resolved_precision", "")
        return _cache_key(self.fingerprint, precision, hashlib.sha256(medium.content(example)).digest())

    def _look_up(self, keys: set[bytes]) -> dict[bytes, NDArray[np.float32]]:
        found: dict[bytes, NDArray[np.float32]] = {}
        with self._open() as connection:
            for key in keys:
                row = connection.execute("SELECT vector FROM vectors WHERE key = ?", (key,)).fetchone()
                if row is not None:
                    found[key] = np.frombuffer(row[0], "<f4")
        return found

    def _keep(self, vectors: dict[bytes, NDArray[np.float32]]) -> None:
        rows = [(key, np.asarray(vector, "<f4").tobytes()) for key, vector in vectors.items()]
        with self._open() as connection:
            connection.executemany("INSERT OR IGNORE INTO vectors VALUES (?, ?)", rows)

    def _open(self) -> _Connection:
        return _Connection(os.fspath(self.path))


def erase_cached(path: str | os.PathLike[str], contents: Iterable[bytes], fingerprint: str) -> int | None:
    """Erase the embeddings of contents, given by their SHA-256, that the encoder of a fingerprint made.

    What was deleted is overwritten with zeros, and the file made smaller.

    Returns
    -------
    int or None
        How many there were; None of a file that is no cache, which is left alone.

    Raises
    ------
    ValueError : if another process has been writing to it for long.
    """
    with closing(sqlite3.connect(f"{Path(path).absolute().as_uri()}?mode=ro", uri=True)) as connection:
        try:
            columns = [row[1] for row in connection.execute("SELECT * FROM pragma_table_info('vectors')")]
        except sqlite3.DatabaseError:
            return None
    if columns != ["key", "vector"]:
        return None
    keys = [(_cache_key(fingerprint, precision, one),) for one in contents for precision in _PRECISIONS]
    with _Connection(os.fspath(path)) as connection:
        connection.execute("PRAGMA secure_delete = ON")
        erased = connection.executemany("DELETE FROM vectors WHERE key = ?", keys).rowcount
        connection.commit()
        if erased:
            connection.execute("VACUUM")
    return max(0, erased)


def _cache_key(fingerprint: str, precision: str, content: bytes) -> bytes:
    return hashlib.sha256(f"{fingerprint}/{precision}/".encode() + content).digest()


class _Connection:
    """A connection for one block: committed at its end, rolled back on error, closed in either case."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> sqlite3.Connection:
        try:
            self._connection = sqlite3.connect(self._path, timeout=DOUBT_SECONDS)
            try:
                self._check_locks()
                self._connection.execute(f"PRAGMA busy_timeout = {1000 * _BUSY_SECONDS:.0f}")
                tables = {name for (name,) in self._connection.execute("SELECT name FROM sqlite_master")}
                if tables and "vectors" not in tables:
                    raise sqlite3.DatabaseError("it is a database of another kind")
                self._connection.execute(
                    "CREATE TABLE IF NOT EXISTS vectors (key BLOB PRIMARY KEY, vector BLOB NOT NULL) WITHOUT ROWID"
                )
            except BaseException:
                self._connection.close()
                raise
        except sqlite3.Error as error:
            raise self._refusal(error) from error
        return self._connection

    def _check_locks(self) -> None:
        """Read, and if that is not possible soon, check that files can be locked there."""
        try:
            self._connection.execute("SELECT 1 FROM sqlite_master").fetchone()
        except sqlite3.OperationalError as error:
            why = why_no_locks(self._path)
            if why is not None:
                raise ValueError(why) from error

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            if error is None:
                self._connection.commit()
        except sqlite3.Error as failed:
            error = failed
        finally:
            self._connection.close()
        if isinstance(error, sqlite3.Error):
            raise self._refusal(error) from error

    def _refusal(self, error: sqlite3.Error) -> ValueError:
        if "locked" in str(error):
            return ValueError(
                f"the embedding cache {self._path} is in use by another process, which has been writing to it for "
                f"longer than {_BUSY_SECONDS:g} s; wait for that to end, or give another file"
            )
        why = f" ({error}); give another file" if code_of(error) is None else f": {why_not(error)}"
        return ValueError(f"{self._path} cannot be used as an embedding cache{why}")
