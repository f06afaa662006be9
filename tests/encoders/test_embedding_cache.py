"""Nothing is embedded twice, and what is remembered is what would be computed."""

from __future__ import annotations

import errno
import sqlite3
import sys
from contextlib import closing

import numpy as np
import pytest
from no_locks import without_locks
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.pipeline import make_pipeline

from fewshot import ClassRegistry, EmbeddingCache, ImageError, PrototypeClassifier
from fewshot.media import open_image


class Counting:
    """Embeds a picture as its mean colour; counts the pictures it was shown."""

    dim = 3

    def __init__(self, fingerprint="mean", precision="float32"):
        self.fingerprint, self.resolved_precision, self.shown = fingerprint, precision, 0

    def encode(self, images):
        self.shown += len(images)
        return np.array([np.asarray(open_image(image)).mean((0, 1)) for image in images], np.float32)


def flat(grey):
    return np.full((4, 4, 3), grey, np.uint8)


def test_a_picture_is_embedded_once_also_by_another_process(tmp_path):
    encoder = Counting()
    first = EmbeddingCache(encoder, tmp_path / "cache").encode([flat(10), flat(20), flat(10)])
    assert_array_equal(first, [[10] * 3, [20] * 3, [10] * 3])
    assert encoder.shown == 2
    again = Counting()
    assert_array_equal(EmbeddingCache(again, tmp_path / "cache").encode([flat(20), flat(30)]), [[20] * 3, [30] * 3])
    assert again.shown == 1


@pytest.mark.parametrize("other", [Counting(fingerprint="other"), Counting(precision="bfloat16")])
def test_another_fingerprint_or_precision_shares_nothing(tmp_path, other):
    EmbeddingCache(Counting(), tmp_path / "cache").encode([flat(10)])
    EmbeddingCache(other, tmp_path / "cache").encode([flat(10)])
    assert other.shown == 1


def test_a_bad_picture_is_listed_and_the_others_are_kept(tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"hello")
    encoder = Counting()
    cache = EmbeddingCache(encoder, tmp_path / "cache")
    for _ in range(2):
        encoded = cache.encode_valid([flat(1), tmp_path / "none.jpg", tmp_path / "bad.jpg", flat(2)])
        assert encoded.kept.tolist() == [0, 3]
        assert_array_equal(encoded.vectors, [[1] * 3, [2] * 3])
        assert [(n, error.source) for n, error in encoded.failed] == [
            (1, str(tmp_path / "none.jpg")),
            (2, str(tmp_path / "bad.jpg")),
        ]
    assert encoder.shown == 2
    with pytest.raises(ImageError, match=r"none\.jpg: no such file"):
        cache.encode([tmp_path / "none.jpg"])


def test_more_pictures_than_one_chunk_come_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr("fewshot.encoders.embedding_cache._CHUNK", 3)
    cache = EmbeddingCache(Counting(), tmp_path / "cache")
    wanted = [[grey] * 3 for grey in range(8)]
    assert_array_equal(cache.encode([flat(grey) for grey in range(8)]), wanted)
    assert cache.encode_valid(flat(grey) for grey in range(8)).kept.tolist() == list(range(8))


def test_no_pictures_give_no_vectors(tmp_path):
    assert EmbeddingCache(Counting(), tmp_path / "cache").encode([]).shape == (0, 3)


def test_it_is_a_transformer_and_a_pipeline_goes_through_it(tmp_path):
    encoder = Counting()
    pipeline = make_pipeline(EmbeddingCache(encoder, tmp_path / "cache"), PrototypeClassifier(metric="sqeuclidean"))
    for _ in range(2):
        pipeline.fit([flat(0), flat(200)], ["dark", "light"])
    assert pipeline.predict([flat(30), flat(0)]).tolist() == ["dark", "dark"]
    assert encoder.shown == 3
    assert clone(pipeline[0]).path == tmp_path / "cache"


def test_a_file_that_is_no_cache_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("my notes, which are no database at all" * 10)
    with pytest.raises(ValueError, match=r"notes\.txt cannot be used as an embedding cache"):
        EmbeddingCache(Counting(), path).encode([flat(0)])
    assert path.read_text().startswith("my notes")


def test_a_database_of_another_kind_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "other.sqlite"
    with ClassRegistry(path, encoder=Counting()) as registry:
        registry.add("dark", [flat(0)])
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"other\.sqlite cannot be used as an embedding cache \(it is a database"):
        EmbeddingCache(Counting(), path).encode([flat(0)])
    assert path.read_bytes() == before


def test_vectors_are_stored_as_they_are(tmp_path):
    EmbeddingCache(Counting(), tmp_path / "cache").encode([flat(7)])
    with closing(sqlite3.connect(tmp_path / "cache")) as connection:
        ((blob,),) = connection.execute("SELECT vector FROM vectors").fetchall()
    assert_array_equal(np.frombuffer(blob, "<f4"), [7, 7, 7])


@pytest.mark.skipif(sys.platform != "linux", reason="replaces a system call of SQLite")
@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EIO], ids=["NFS", "SMB"])
def test_a_folder_without_locks_is_named_as_one_before_anything_is_embedded(tmp_path, code):
    cache = EmbeddingCache(Counting(), tmp_path / "cache")
    with (
        without_locks(code),
        pytest.raises(ValueError, match=r"no file can be locked in the folder of .*cache, perhaps"),
    ):
        cache.encode([flat(10)])
    assert cache.encoder.shown == 0
    assert cache.encode([flat(10)]).tolist() == [[10.0] * 3]
