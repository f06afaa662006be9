"""A registry's classifier in memory, after changes, against one that learns from scratch."""

from __future__ import annotations

import hashlib
from contextlib import closing

import numpy as np
import pytest
from numpy.testing import assert_allclose

from fewshot.classifiers import whitened_prototype
from fewshot.registry.predictor import RegistryPredictor
from fewshot.registry.snapshot_cache import SnapshotCache
from fewshot.registry.store import NewExample, RegistryStore

D = 12


class Encoder:
    dim, fingerprint = D, "f"


class Beside:
    """Keeps the products that it is given."""

    def __init__(self, vectors):
        self.vectors, self.products = vectors, None

    def take(self, rows, products):
        part = products.numpy()
        self.products = part if self.products is None else np.concatenate([self.products, part])


@pytest.fixture
def store(tmp_path):
    with closing(RegistryStore(tmp_path / "r.fewshot", create=True)) as made:
        with made.write():
            made.set_meta(metric="cosine", keep_images=0, dim=D, fingerprint="f", encoder="{}")
        yield made


def insert(store, labels, seed):
    rng = np.random.default_rng(seed)
    with store.write(append=True):
        store.insert(
            NewExample(label, hashlib.sha256(f"{seed} {n}".encode()).digest(), f"{n}.png", None, vector, None)
            for n, (label, vector) in enumerate(
                zip(labels, (rng.normal(size=(len(labels), D)) + 1).astype(np.float32), strict=True)
            )
        )


def ask(predictor, snapshot, query):
    """Scores by label."""
    answers = predictor.predict(snapshot, query, Encoder(), top=10_000, nearest=0)
    return [dict(answer.top) for answer in answers]


@pytest.mark.parametrize("at_once", [20, 10_000])
@pytest.mark.parametrize("seed", range(3))
def test_after_changes_in_any_order_it_scores_as_one_that_learns_from_scratch(store, monkeypatch, seed, at_once):
    monkeypatch.setattr(whitened_prototype, "_FEW", 30)
    monkeypatch.setattr(whitened_prototype, "_MOST_AT_ONCE", at_once)
    rng, query = np.random.default_rng(seed), np.random.default_rng(9).normal(size=(5, D)).astype(np.float32)
    insert(store, [f"class {n % 40}" for n in range(120)], 1)
    cache, predictor = SnapshotCache(store), RegistryPredictor(store, None)
    for number in range(30):
        classes = list(store.classes())
        one = str(rng.choice(classes))
        ids = [id_ for id_, _ in store.examples(one)]
        what = rng.choice(["add", "class", "remove", "remove class", "rename", "move", "vector"])
        if what == "add":
            insert(store, [str(label) for label in rng.choice(classes, 3)], 100 + number)
        elif what == "class":
            insert(store, [f"new {number}"] * int(rng.integers(1, 4)), 100 + number)
        else:
            with store.write() as connection:
                if what == "remove":
                    store.delete(ids[:1])
                elif what == "remove class":
                    store.delete(ids)
                elif what == "rename":
                    store.rename(one, f"renamed {number}")
                elif what == "move":
                    other = store.class_id(str(rng.choice(classes)))
                    connection.execute("UPDATE examples SET class_id = ? WHERE id = ?", (other, ids[0]))
                else:
                    store.set_vectors({ids[0]: np.full(D, number + 1, np.float32)})
        snapshot = cache.current()
        assert set(ask(predictor, snapshot, query)[0]) == set(snapshot.labels)
        beside = Beside(query)
        predictor.predict(snapshot, query, Encoder(), top=3, nearest=0, beside=beside)
        assert_allclose(beside.products, snapshot.class_products(query), atol=1e-5)
    insert(store, [f"last {n}" for n in range(30)], 500)  # of so many more all is learned anew
    snapshot = cache.current()
    for _ in range(3):  # a renewal that began before is followed by another
        ask(predictor, snapshot, query)
        predictor.finish_renewal()
    scratch = RegistryPredictor(store, None)
    for found, expected in zip(ask(predictor, snapshot, query), ask(scratch, snapshot, query), strict=True):
        assert found.keys() == expected.keys()
        assert_allclose([found[label] for label in expected], list(expected.values()), atol=1e-4)


def test_the_old_classifier_answers_while_a_new_one_is_learned(store, monkeypatch):
    monkeypatch.setattr(whitened_prototype, "_FEW", 30)
    monkeypatch.setattr(whitened_prototype, "_MOST_AT_ONCE", 50)
    query = np.random.default_rng(9).normal(size=(5, D)).astype(np.float32)
    insert(store, [f"class {n % 40}" for n in range(120)], 1)
    cache, predictor = SnapshotCache(store), RegistryPredictor(store, None)
    ask(predictor, cache.current(), query)
    insert(store, [f"new {n}" for n in range(20)], 2)
    meanwhile = ask(predictor, cache.current(), query)
    predictor.finish_renewal()
    later = ask(predictor, cache.current(), query)
    assert ask(predictor, cache.current(), query) == later
    scratch = ask(RegistryPredictor(store, None), cache.current(), query)
    assert meanwhile[0].keys() == later[0].keys() == scratch[0].keys()
    assert_allclose([later[0][label] for label in scratch[0]], list(scratch[0].values()), atol=1e-4)
    assert np.abs([meanwhile[0][label] - score for label, score in scratch[0].items()]).max() > 1e-3


def test_what_was_added_while_a_new_one_was_learned_is_known_too(store, monkeypatch):
    monkeypatch.setattr(whitened_prototype, "_FEW", 30)
    monkeypatch.setattr(whitened_prototype, "_MOST_AT_ONCE", 50)
    query = np.random.default_rng(9).normal(size=(2, D)).astype(np.float32)
    insert(store, [f"class {n % 40}" for n in range(120)], 1)
    cache, predictor = SnapshotCache(store), RegistryPredictor(store, None)
    ask(predictor, cache.current(), query)
    insert(store, [f"new {n}" for n in range(20)], 2)
    ask(predictor, cache.current(), query)
    insert(store, ["newest"], 3)
    with store.write():
        store.delete([id_ for id_, _ in store.examples("class 7")])
    predictor.finish_renewal()
    found = ask(predictor, cache.current(), query)[0]
    assert "newest" in found
    assert "class 7" not in found
