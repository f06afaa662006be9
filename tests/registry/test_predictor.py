"""A registry's classifier in memory, after changes, against one that learns from scratch."""

from __future__ import annotations

import hashlib
from concurrent.futures import CancelledError, Executor, Future, ThreadPoolExecutor

import numpy as np
import pytest
from numpy.testing import assert_allclose

from fewshot.classifiers import class_index, whitened_prototype
from fewshot.registry.predictor import RegistryPredictor
from fewshot.registry.snapshot_cache import SnapshotCache
from fewshot.registry.store import NewExample

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


@pytest.fixture
def pool():
    """Runs one task after the other."""
    with ThreadPoolExecutor(1) as made:
        yield made


def finish(pool):
    """Wait for what was given to the pool."""
    pool.submit(int).result()


@pytest.mark.parametrize("at_once", [20, 10_000])
@pytest.mark.parametrize("seed", range(3))
def test_after_changes_in_any_order_it_scores_as_one_that_learns_from_scratch(store, monkeypatch, pool, seed, at_once):
    monkeypatch.setattr(whitened_prototype, "_FEW", 30)
    monkeypatch.setattr(whitened_prototype, "_MOST_AT_ONCE", at_once)
    rng, query = np.random.default_rng(seed), np.random.default_rng(9).normal(size=(5, D)).astype(np.float32)
    insert(store, [f"class {n % 40}" for n in range(120)], 1)
    cache, predictor = SnapshotCache(store), RegistryPredictor(store, None, executor=pool)
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
        finish(pool)
    scratch = RegistryPredictor(store, None)
    for found, expected in zip(ask(predictor, snapshot, query), ask(scratch, snapshot, query), strict=True):
        assert found.keys() == expected.keys()
        assert_allclose([found[label] for label in expected], list(expected.values()), atol=1e-4)


def test_the_old_classifier_answers_while_a_new_one_is_learned(store, monkeypatch, pool):
    monkeypatch.setattr(whitened_prototype, "_FEW", 30)
    monkeypatch.setattr(whitened_prototype, "_MOST_AT_ONCE", 50)
    query = np.random.default_rng(9).normal(size=(5, D)).astype(np.float32)
    insert(store, [f"class {n % 40}" for n in range(120)], 1)
    cache, predictor = SnapshotCache(store), RegistryPredictor(store, None, executor=pool)
    ask(predictor, cache.current(), query)
    insert(store, [f"new {n}" for n in range(20)], 2)
    meanwhile = ask(predictor, cache.current(), query)
    finish(pool)
    later = ask(predictor, cache.current(), query)
    assert ask(predictor, cache.current(), query) == later
    scratch = ask(RegistryPredictor(store, None), cache.current(), query)
    assert meanwhile[0].keys() == later[0].keys() == scratch[0].keys()
    assert_allclose([later[0][label] for label in scratch[0]], list(scratch[0].values()), atol=1e-4)
    assert np.abs([meanwhile[0][label] - score for label, score in scratch[0].items()]).max() > 1e-3


def test_what_was_added_while_a_new_one_was_learned_is_known_too(store, monkeypatch, pool):
    monkeypatch.setattr(whitened_prototype, "_FEW", 30)
    monkeypatch.setattr(whitened_prototype, "_MOST_AT_ONCE", 50)
    query = np.random.default_rng(9).normal(size=(2, D)).astype(np.float32)
    insert(store, [f"class {n % 40}" for n in range(120)], 1)
    cache, predictor = SnapshotCache(store), RegistryPredictor(store, None, executor=pool)
    ask(predictor, cache.current(), query)
    insert(store, [f"new {n}" for n in range(20)], 2)
    ask(predictor, cache.current(), query)
    insert(store, ["newest"], 3)
    with store.write():
        store.delete([id_ for id_, _ in store.examples("class 7")])
    finish(pool)
    found = ask(predictor, cache.current(), query)[0]
    assert "newest" in found
    assert "class 7" not in found


class Waiting(Executor):
    """Runs nothing before it is told to."""

    def __init__(self):
        self.tasks = []

    def submit(self, work, *arguments):
        self.tasks.append((Future(), work, arguments))
        return self.tasks[-1][0]

    def run(self):
        tasks, self.tasks = self.tasks, []
        for future, work, arguments in tasks:
            future.set_result(work(*arguments))


def change(store, number, rng):
    """Add, remove, rename or move."""
    one, other = (str(label) for label in rng.choice(list(store.classes()), 2, replace=False))
    ids = [id_ for id_, _ in store.examples(one)]
    if number % 4 == 0:
        insert(store, [f"new {number}", other], 1_000 + number)
        return
    with store.write() as connection:
        if number % 4 == 1:
            store.delete(ids)
        elif number % 4 == 2:
            store.rename(one, f"renamed {number}")
        else:
            connection.execute("UPDATE examples SET class_id = ? WHERE id = ?", (store.class_id(other), ids[0]))
            connection.execute("DELETE FROM classes WHERE id NOT IN (SELECT class_id FROM examples)")


def test_beside_many_classes_an_index_answers_as_comparing_all_after_any_changes(store, monkeypatch):
    monkeypatch.setattr(class_index, "_CANDIDATES", 60)
    monkeypatch.setattr(class_index, "_SAMPLE", 150)
    rng = np.random.default_rng(0)
    insert(store, [f"class {n}" for n in range(600)], 1)
    waiting, cache = Waiting(), SnapshotCache(store)
    predictor, exact = RegistryPredictor(store, None, index_from=500, executor=waiting), RegistryPredictor(store, None)
    for number in range(24):
        snapshot = cache.current()
        query = snapshot.vectors[rng.integers(0, len(snapshot), 20)] + rng.normal(size=(20, D)).astype(np.float32) / 5
        found, expected = (one.predict(snapshot, query, Encoder(), top=3, nearest=1) for one in (predictor, exact))
        assert [one.label for one in found] == [one.label for one in expected]
        assert_allclose([one.score for one in found], [one.score for one in expected], atol=1e-5)
        assert_allclose([one.probability for one in found], [one.probability for one in expected], atol=0.02)
        if number == 5:  # what changes while the index is made is in it, too
            waiting.run()
        change(store, number, rng)
    assert not waiting.tasks


def test_no_question_waits_for_an_index_and_up_to_the_limit_there_is_none(store):
    insert(store, [f"class {n}" for n in range(100)], 1)
    snapshot, query = SnapshotCache(store).current(), np.ones((2, D), np.float32)
    for index_from, expected in ((99, 1), (100, 0)):
        waiting = Waiting()
        predictor = RegistryPredictor(store, None, index_from=index_from, executor=waiting)
        ask(predictor, snapshot, query)
        assert not waiting.tasks  # a process that asks once makes none
        answers = [ask(predictor, snapshot, query) for _ in range(3)]
        assert answers[0] == answers[1] == answers[2]
        assert len(waiting.tasks) == expected


def test_when_the_whitening_is_renewed_its_index_comes_with_it(store, monkeypatch):
    monkeypatch.setattr(whitened_prototype, "_MOST_AT_ONCE", 50)
    insert(store, [f"class {n}" for n in range(300)], 1)
    waiting, cache = Waiting(), SnapshotCache(store)
    predictor = RegistryPredictor(store, None, index_from=200, executor=waiting)
    query = np.ones((2, D), np.float32)
    ask(predictor, cache.current(), query)
    ask(predictor, cache.current(), query)
    waiting.run()
    insert(store, [f"new {n}" for n in range(60)], 2)
    ask(predictor, cache.current(), query)
    (renewal,) = waiting.tasks
    waiting.run()
    made = renewal[0].result()
    assert made.classifier.class_index is made.index is not None
    insert(store, ["newest"], 3)
    found = predictor.predict(cache.current(), query, Encoder(), top=3, nearest=0)
    scratch = RegistryPredictor(store, None).predict(cache.current(), query, Encoder(), top=3, nearest=0)
    assert [one.label for one in found] == [one.label for one in scratch]
    assert made.classifier.class_index.in_use
    assert not waiting.tasks


def test_what_cannot_be_made_is_said_once_and_answers_go_on(store):
    insert(store, [f"class {n}" for n in range(100)], 1)
    snapshot, query, waiting = SnapshotCache(store).current(), np.ones((2, D), np.float32), Waiting()
    predictor = RegistryPredictor(store, None, index_from=50, executor=waiting)
    expected = ask(predictor, snapshot, query)
    assert ask(predictor, snapshot, query) == expected
    waiting.tasks.pop()[0].set_exception(MemoryError())
    with pytest.warns(UserWarning, match=r"r\.fewshot would profit from could not be made: MemoryError"):
        assert ask(predictor, snapshot, query) == expected
    assert ask(predictor, snapshot, query) == expected
    assert not waiting.tasks


def test_a_closed_predictor_gives_up_its_index(store):
    insert(store, [f"class {n}" for n in range(100)], 1)
    snapshot, query, waiting = SnapshotCache(store).current(), np.ones((2, D), np.float32), Waiting()
    predictor = RegistryPredictor(store, None, index_from=50, executor=waiting)
    ask(predictor, snapshot, query)
    ask(predictor, snapshot, query)
    predictor.close()
    with pytest.raises(CancelledError):
        waiting.run()
