"""A registry's examples in memory against brute force, and against a reading of the whole file after any change."""

from __future__ import annotations

import hashlib
import sqlite3
from contextlib import closing

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.metrics.pairwise import cosine_similarity

from fewshot import RegistryError
from fewshot.classifiers import PrototypeClassifier
from fewshot.registry import snapshot as snapshot_module
from fewshot.registry import snapshot_cache
from fewshot.registry.snapshot_cache import SnapshotCache
from fewshot.registry.store import NewExample

D = 6


def insert(store, labels, start=0, scale=1.0):
    rng = np.random.default_rng(start)
    with store.write(append=True):
        store.insert(
            NewExample(
                label,
                hashlib.sha256(f"{start} {n}".encode()).digest(),
                f"{n}.png",
                None,
                (scale * rng.normal(size=D)).astype(np.float32),
                None,
            )
            for n, label in enumerate(labels)
        )


@pytest.fixture
def held(store, monkeypatch):
    """23 examples of 5 classes, compared a few at a time."""
    monkeypatch.setattr(snapshot_module, "_ROWS_AT_ONCE", 4)
    insert(store, ["a", "b", "c", "d", "e"] * 4 + ["a", "a", "e"])
    return SnapshotCache(store).current()


def test_products_with_classes_are_those_with_the_means_of_their_unit_vectors(held):
    query = np.random.default_rng(9).normal(size=(3, D)).astype(np.float32)
    units = held.vectors / np.linalg.norm(held.vectors, axis=1, keepdims=True)
    means = np.stack([units[held.codes == c].mean(axis=0) for c in range(5)])
    assert_allclose(held.prototypes(np.arange(5)), means, rtol=1e-5, atol=1e-6)
    assert_allclose(held.prototypes(np.array([1, 4])), means[[1, 4]], rtol=1e-5, atol=1e-6)
    assert_allclose(held.class_products(query), query @ means.T, rtol=1e-4, atol=1e-5)
    assert_allclose(held.largest_cosine(query), cosine_similarity(query, means).max(axis=1), rtol=1e-4, atol=1e-5)
    assert held.first_examples(np.array([2, 0])).tolist() == [2, 0]


def test_with_one_example_a_class_the_prototypes_are_the_unit_vectors(store):
    insert(store, ["a", "b", "c"])
    held, query = SnapshotCache(store).current(), np.eye(D, dtype=np.float32)
    units = held.vectors / np.linalg.norm(held.vectors, axis=1, keepdims=True)
    assert_allclose(held.class_products(query), units.T, rtol=1e-5, atol=1e-6)
    assert_allclose(held.largest_cosine(query), units.max(axis=0), rtol=1e-5, atol=1e-6)
    assert_allclose(PrototypeClassifier().fit(held.vectors, held.codes).scores(query), units.T, rtol=1e-5, atol=1e-6)


def same(one, other):
    assert one.settings == other.settings
    assert list(one.labels) == list(other.labels)
    for name in ("ids", "codes", "class_ids", "checksums", "vectors", "lengths", "class_keys"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name


@pytest.mark.parametrize("few", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("listed", [True, False])
def test_after_any_change_it_is_what_a_reading_of_the_whole_file_gives(store, monkeypatch, few, listed):
    """With a share of 0 all is read again after any change, with 1 never; the file lists what has changed or not."""
    monkeypatch.setattr(snapshot_cache, "_FEW", few)
    if not listed:
        with store.write() as connection:
            connection.execute("CREATE TEMP TRIGGER none AFTER INSERT ON changes BEGIN DELETE FROM changes; END")
    cache, rng = SnapshotCache(store), np.random.default_rng(int(100 * few))
    older = []
    for number in range(60):
        ids = [id_ for label in store.classes() for id_, _ in store.examples(label)]
        what = rng.choice(["add", "add", "remove", "rename", "vectors"]) if len(ids) > 3 else "add"
        if what == "add":
            insert(store, [f"class {rng.integers(9)}" for _ in range(rng.integers(1, 40))], start=number)
        elif what == "remove":
            with store.write():
                store.delete(rng.choice(ids, size=min(3, len(ids) - 1), replace=False).tolist())
        elif what == "rename":
            with store.write():
                store.rename(rng.choice(list(store.classes())), f"class of {number}")
        else:
            with store.write():
                store.set_vectors(
                    {int(id_): np.full(D, number, np.float32) for id_ in rng.choice(ids, 2, replace=False)}
                )
        found = cache.current()
        same(found, SnapshotCache(store).current())
        assert found is cache.current()
        older.append((found, found.vectors.copy(), list(found.labels)))
    for found, vectors, labels in older:  # nobody has changed what was handed out
        assert np.array_equal(found.vectors, vectors)
        assert list(found.labels) == labels


def test_of_a_rename_and_a_removal_only_what_changed_is_read(store):
    insert(store, [f"class {n}" for n in range(300)])
    cache, statements = SnapshotCache(store), []
    cache.current()
    with store.write():
        store.rename("class 7", "seven")
    with store.write():
        store.delete([id_ for id_, _ in store.examples("class 9")])
    insert(store, ["new", "class 3"], start=1)
    with store.read() as connection:
        connection.set_trace_callback(statements.append)
        found = cache.current()
        connection.set_trace_callback(None)
    same(found, SnapshotCache(store).current())
    assert found.labels[7] == "seven"
    assert statements
    assert [one for one in statements if "FROM examples" in one or "FROM classes" in one] == [
        one for one in statements if " WHERE id" in one
    ]


def test_a_class_that_takes_the_number_of_one_removed_has_its_own_label(store):
    insert(store, ["a", "b", "c"])
    cache = SnapshotCache(store)
    cache.current()
    with store.write():
        store.delete([3])
    insert(store, ["d"], start=1)
    found = cache.current()
    assert list(found.labels) == ["a", "b", "d"]
    same(found, SnapshotCache(store).current())


def test_who_has_seen_none_of_the_listed_changes_compares_all(store):
    insert(store, [f"class {n % 50}" for n in range(200)])
    cache, other = SnapshotCache(store), SnapshotCache(store)
    cache.current()
    for number in range(60):
        with store.write():
            store.delete([100 + number])
        other.current()
    with store.write() as connection:
        connection.execute("DELETE FROM changes WHERE number <= (SELECT max(number) FROM changes) - 3")
    same(cache.current(), SnapshotCache(store).current())
    same(other.current(), SnapshotCache(store).current())


@pytest.mark.parametrize("then", ["nothing", "a rename"])
def test_a_change_that_is_not_listed_is_noticed(store, then):
    """Whoever opened the file before changes were listed goes on changing it."""
    insert(store, ["a", "b", "c"])
    cache = SnapshotCache(store)
    cache.current()
    with store.write():
        store.rename("a", "A")
    cache.current()
    with closing(sqlite3.connect(store.path)) as other, other:
        other.execute("DELETE FROM examples WHERE id = 2")
        other.execute("UPDATE meta SET value = value + 1 WHERE key IN ('revision', 'rewrites')")
    if then == "a rename":
        with store.write():
            store.rename("c", "C")
    found = cache.current()
    assert list(found.labels) == ["A", "C" if then == "a rename" else "c"]
    same(found, SnapshotCache(store).current())


def test_a_class_is_another_once_its_examples_are(store):
    insert(store, ["a", "b", "c"])
    cache = SnapshotCache(store)
    before = cache.current().class_keys
    insert(store, ["b"], start=1)
    after = cache.current().class_keys
    assert (before == after).tolist() == [True, False, True]
    with store.write():
        store.rename("a", "A")
    assert np.array_equal(cache.current().class_keys, after)


@pytest.mark.parametrize(
    "change", ["source = 7", "vector = 7", "vector = 'text'", "vector = x'00'", "vector = zeroblob(24)", "sha256 = 'a'"]
)
def test_an_example_that_is_not_what_was_stored_is_named_whenever_it_is_read(store, change):
    insert(store, ["a", "b", "c"])
    cache = SnapshotCache(store)
    cache.current()
    with store.write() as connection:
        connection.execute(f"UPDATE examples SET {change}, checksum = 1 WHERE id = 2")
    for reading in (cache, SnapshotCache(store)):
        with pytest.raises(
            RegistryError, match=r"r\.fewshot is damaged: example 2, .*, is not what was stored\. Put a"
        ):
            reading.current()
