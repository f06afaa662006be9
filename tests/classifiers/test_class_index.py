"""Ranking by an index of the classes, against the scores of all of them."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from fewshot import WhitenedPrototypeClassifier
from fewshot.classifiers import class_index
from fewshot.openset import ManyClasses, PendingScores

D, C = 24, 4_000


@pytest.fixture
def rng():
    return np.random.default_rng(3)


@pytest.fixture(autouse=True)
def _few(monkeypatch):
    """So few candidates and such a small sample that most of the classes are neither."""
    monkeypatch.setattr(class_index, "_CANDIDATES", 150)
    monkeypatch.setattr(class_index, "_SAMPLE", 1_000)


def vectors_of(rng, n):
    """Groups of similar classes, as real ones are."""
    return (rng.normal(size=(60, D))[rng.integers(0, 60, n)] + 0.7 * rng.normal(size=(n, D))).astype(np.float32)


def queries_of(rng, vectors):
    return (vectors[rng.integers(0, len(vectors), 100)] + 0.3 * rng.normal(size=(100, D))).astype(np.float32)


def indexed(vectors):
    found = WhitenedPrototypeClassifier().fit(vectors, np.arange(len(vectors)))
    found.defer_renewal = True
    index = found.class_index = found.new_class_index()
    for part in np.array_split(found.unit_means(), 2):
        index.append(part)
    found.use_class_index(np.arange(len(vectors)))
    return found


def all_compared(classifier, query, k, beside=None):
    index, classifier.class_index = classifier.class_index, None
    found = classifier.rank(query, k, beside=beside)
    classifier.class_index = index
    return found


def same_ranking(classifier, query):
    found, expected = classifier.rank(query, 5), all_compared(classifier, query, 5)
    assert (found.classes[:, 0] == expected.classes[:, 0]).mean() >= 0.99
    scores = classifier.scores(query)
    assert_allclose(found.scores, np.take_along_axis(scores, found.classes, axis=1), atol=1e-5)
    assert_allclose(found.probability, expected.probability, atol=0.01)


def test_the_closest_class_its_score_and_probability_are_those_of_comparing_all(rng):
    vectors = vectors_of(rng, C)
    same_ranking(indexed(vectors), queries_of(rng, vectors))


def test_after_changes_in_any_order_it_ranks_as_if_all_were_compared(rng):
    vectors, codes = vectors_of(rng, C), np.arange(C)
    classifier = indexed(vectors)
    index = classifier.class_index
    for number in range(8):
        c = int(codes.max()) + 1
        if number % 2:
            kept = np.flatnonzero(rng.random(c) > 0.01)  # classes are removed, others move up, one is changed
            before = kept.copy()
            rows = np.isin(codes, kept)
            vectors, codes = vectors[rows], np.searchsorted(kept, codes[rows])
            vectors[codes == 5] = vectors_of(rng, 1)
            before[5] = -1
            classifier.exchange(vectors, codes, before)
        else:
            new = vectors_of(rng, 12)
            added = np.concatenate([c + np.arange(10), rng.integers(0, c, 2)])  # of new and of known classes
            vectors, codes = np.concatenate([vectors, new]), np.concatenate([codes, added])
            classifier.partial_fit(new, added)
        assert classifier.class_index is index
        assert index.n_classes == codes.max() + 1
        same_ranking(classifier, queries_of(rng, vectors[-200:]))


def test_a_class_that_has_changed_many_times_hides_no_other_ones(rng):
    vectors = vectors_of(rng, C)
    found = indexed(vectors)
    for _ in range(390):  # a few less than a tenth of the examples, beyond which all is learned anew
        found.partial_fit(vectors[[7]] + 0.1 * rng.normal(size=(1, D)).astype(np.float32), [7])
    assert found.class_index is not None
    query = vectors[[7] * 30] + 0.1 * rng.normal(size=(30, D)).astype(np.float32)
    ranked, expected = found.rank(query, 5), all_compared(found, query, 5)
    assert (ranked.classes == expected.classes).mean() >= 0.99
    assert_allclose(ranked.probability, expected.probability, atol=0.01)


def test_unknown_scores_are_close_to_those_of_all_classes(rng):
    vectors = vectors_of(rng, C)
    classifier, units = indexed(vectors), vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    many = ManyClasses.of(units[:500], units[:100], None)
    query = np.concatenate([queries_of(rng, vectors), rng.normal(size=(100, D)).astype(np.float32)])
    found, expected = (PendingScores(many, query, many.lengths(units)) for _ in range(2))
    classifier.rank(query, 1, beside=found)
    all_compared(classifier, query, 1, beside=expected)
    apart = np.abs(found.scores(None) - expected.scores(None))  # nothing is left to compute
    assert np.quantile(apart, 0.99) <= 0.01
    assert apart.max() > 0.0  # else all would have been compared


def test_weights_are_of_all_classes_and_a_class_counts_once(rng):
    vectors = vectors_of(rng, C)
    index = indexed(vectors).class_index
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    some = index.some_classes(*(2 * [class_index.torch.from_numpy(units[:50])]))
    assert_allclose(some.weights.sum(dim=1).numpy(), C, rtol=1e-5)
    for candidates, weights in zip(some.candidates.numpy(), some.weights.numpy(), strict=True):
        counted = np.concatenate([candidates, some.sample.numpy()])[weights > 0]
        assert len(np.unique(counted)) == len(counted)


def test_more_classes_than_candidates_are_ranked_by_comparing_all(rng):
    vectors = vectors_of(rng, C)
    classifier, query = indexed(vectors), queries_of(rng, vectors)[:3]
    assert np.array_equal(classifier.rank(query, 500).classes, all_compared(classifier, query, 500).classes)


def test_what_is_learned_anew_has_no_index_yet(rng):
    vectors = vectors_of(rng, C)
    classifier = indexed(vectors)
    classifier.fit(vectors, np.arange(C))
    assert classifier.class_index is None
    assert WhitenedPrototypeClassifier().fit(vectors[:10], np.arange(10)).new_class_index() is None
