from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

import fewshot.classifiers.class_means
import fewshot.classifiers.whitened_prototype
from fewshot.classifiers import PrototypeClassifier, WhitenedPrototypeClassifier


def by_eigenvectors(X, y, query):
    """The docstring's formula, term by term, in float64."""
    X, query = (np.asarray(a, float) / np.linalg.norm(a, axis=1, keepdims=True) for a in (X, query))
    codes = np.unique(y, return_inverse=True)[1]
    n, c, counts = len(X), codes.max() + 1, np.bincount(codes)
    means = np.stack([X[codes == k].mean(axis=0) for k in range(c)])
    m = means.mean(axis=0)
    W, T = ((X - means[codes]).T @ (X - means[codes])), np.zeros((X.shape[1],) * 2)
    for x, k in zip(X, codes, strict=True):
        T += np.outer(x - means[k], x - means[k]) + np.outer(means[k] - m, means[k] - m)
    D = (n - c) * W + 0.1 * n * T
    within = (np.trace(W) + 2 * np.trace(T) / (1.5 * n)) / (n - c + 2)
    if c > 1:
        between = ((means - m) ** 2).sum() / (c - 1) - within * (1 / counts).mean()
        f = min(max(between, 0) / within, 2)
    else:
        f = 0.5
    values, axes = np.linalg.eigh(np.eye(len(D)) + 2 * f * n * D / max(np.trace(D), 1e-300))
    root = axes / np.sqrt(values) @ axes.T
    center = m if c > 1 else np.zeros_like(m)
    a, b = (query - center) @ root, (means - center) @ root
    return a @ b.T / np.outer(np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1))


def drawn(sizes, d, seed=0):
    """Classes in a direction each, with strong common variation, and queries."""
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(len(sizes)), sizes)
    shape = rng.normal(size=(d, d)) * np.linspace(2, 0.1, d)
    centers = rng.normal(size=(len(sizes), d)) + 1
    X = centers[y] + rng.normal(size=(len(y), d)) @ shape.T * 0.3
    return X.astype(np.float32), y, (centers[rng.integers(len(sizes), size=30)] + rng.normal(size=(30, d))).astype("f")


SIZES = {
    "one shot": ([1] * 6, 10),
    "five shots": ([5] * 4, 30),
    "more examples than dimensions": ([9] * 5, 8),
    "uneven": ([1, 2, 7, 1, 3], 20),
    "two classes": ([1, 1], 5),
    "one class": ([4], 6),
    "one example": ([1], 6),
}


@pytest.mark.parametrize("sizes", SIZES)
def test_scores_are_the_formulas_cosines(sizes):
    X, y, query = drawn(*SIZES[sizes])
    assert_allclose(
        WhitenedPrototypeClassifier().fit(X, y).scores(query), by_eigenvectors(X, y, query), rtol=1e-3, atol=1e-5
    )


def test_a_direction_in_which_examples_of_all_classes_vary_decides_less():
    # Along the second axis both classes vary; they differ along the third. The query is of "a" by what counts.
    X = [[1, 0.6, 0.4], [1, -0.4, 0.4], [1, 0.4, -0.4], [1, -0.6, -0.4]]
    query = [[1, -0.6, 0.1]]
    y = ["a", "a", "b", "b"]
    assert PrototypeClassifier().fit(X, y).predict(query).tolist() == ["b"]
    assert WhitenedPrototypeClassifier().fit(X, y).predict(query).tolist() == ["a"]


def test_examples_that_are_the_same_are_no_residuals_and_do_no_harm():
    X, y, query = drawn([1] * 4, 12)
    twice = WhitenedPrototypeClassifier().fit(np.repeat(X, 2, axis=0), np.repeat(y, 2))
    assert np.isfinite(twice.scores(query)).all()
    assert_allclose(twice.scores(X).argmax(axis=1), y)
    same = WhitenedPrototypeClassifier().fit(np.ones((4, 3)), [0, 0, 1, 1])
    assert np.isfinite(same.predict_proba(np.eye(3))).all()


@pytest.mark.parametrize("d", [8, 400])
def test_few_examples_in_any_order_and_pieces_are_learned_exactly(d):
    X, y, query = drawn([1, 4, 9, 2, 11], d)
    whole, pieces = WhitenedPrototypeClassifier().fit(X, y), WhitenedPrototypeClassifier()
    for start in (20, 13, 4, 0):
        pieces.partial_fit(X[start : start + 9], y[start : start + 9])
    pieces.partial_fit(drawn([3], d, seed=1)[0], ["removed"] * 3).forget("removed")
    repeated = [start + n for start in (20, 13, 4, 0) for n in range(9) if start + n < len(X)]
    whole.fit(X[repeated], y[repeated])
    order = [pieces.classes_.tolist().index(label) for label in whole.classes_.tolist()]
    assert_allclose(pieces.scores(query)[:, order], whole.scores(query), atol=1e-4)


@pytest.mark.parametrize("d", [16, 500])
def test_of_many_the_metric_is_kept_until_a_tenth_has_been_added_and_then_it_is_that_of_all(d, monkeypatch):
    X, y, query = drawn([8] * 50, d)
    X[400 - 8 :] += 0.5
    clf = WhitenedPrototypeClassifier().fit(X[:360], y[:360])
    metric = clf._learned.metric  # what is kept is not seen from outside otherwise
    clf.partial_fit(X[360:396], y[360:396])
    assert clf._learned.metric is metric
    whole = WhitenedPrototypeClassifier().fit(X[:396], y[:396])
    assert_allclose(clf.prototypes_, whole.prototypes_, atol=1e-6)
    assert np.corrcoef(clf.scores(query).ravel(), whole.scores(query).ravel())[0, 1] > 0.98
    clf.partial_fit(X[396:], y[396:])
    assert_allclose(clf.scores(query), WhitenedPrototypeClassifier().fit(X, y).scores(query), atol=1e-4)
    # Few are learned anew with each example.
    monkeypatch.setattr(fewshot.classifiers.whitened_prototype, "_FEW", 10_000)
    assert clf.partial_fit(X[:1], y[:1])._learned.metric is not metric


def test_a_class_added_to_many_is_known_at_once():
    X, y, _ = drawn([8] * 50, 40)
    clf = WhitenedPrototypeClassifier().fit(X[8:], y[8:]).partial_fit(X[:7], y[:7])
    assert clf.predict(X[7:8]).tolist() == [0]


@pytest.mark.parametrize("d", [8, 60])
def test_an_example_alone_in_its_class_is_as_close_as_its_class(d):
    X, y, query = drawn([1, 3, 4, 1], d)
    clf = WhitenedPrototypeClassifier().fit(X, y)
    assert_allclose(clf.example_scores(query, X[[0, 8]]), clf.scores(query)[:, [0, 3]], atol=1e-5)


@pytest.mark.parametrize("n", [3, 7])
@pytest.mark.parametrize("d", [3, 5, 16])
def test_equal_examples_of_one_class_have_no_variation_to_whiten(n, d):
    vectors = np.stack([np.linspace(0.1, 0.3, d, dtype=np.float32)] * n)  # whose mean differs from them by rounding
    queries = np.random.default_rng(0).normal(size=(4, d)).astype(np.float32)
    expected = PrototypeClassifier().fit(vectors, ["a"] * n).scores(queries)
    assert_allclose(WhitenedPrototypeClassifier().fit(vectors, ["a"] * n).scores(queries), expected, atol=1e-4)
    two = WhitenedPrototypeClassifier().fit(np.concatenate([vectors] * 2), ["a"] * n + ["b"] * n)
    assert np.isfinite(two.scores(queries)).all()


@pytest.mark.parametrize("d", [16, 500])
def test_exchanging_classes_equals_learning_them_in_the_metric_that_is_kept(d, monkeypatch):
    X, y, query = drawn([8] * 60, d)
    monkeypatch.setattr(fewshot.classifiers.class_means, "_ROWS_AT_ONCE", 7)
    clf = WhitenedPrototypeClassifier().fit(X, y)
    scores = clf.scores(query)
    # Of class 3 one example is removed, 10 and 40 are gone, 60 is new.
    rows = np.flatnonzero(~np.isin(y, [10, 40]))[np.arange(8 * 58) != 3 * 8]
    labels = np.concatenate([np.unique(y[rows], return_inverse=True)[1], [58, 58]])
    vectors = np.concatenate([X[rows], drawn([2], d, seed=4)[0]])
    kept = [c for c in range(60) if c not in (10, 40)]
    before = np.array([-1 if c == 3 else c for c in kept] + [-1])
    metric = clf._learned.metric
    clf.exchange(vectors, labels, before)
    assert clf._learned.metric is metric
    whole = WhitenedPrototypeClassifier().fit(vectors, labels)
    assert_allclose(clf.prototypes_, whole.prototypes_, atol=1e-6)
    others = np.flatnonzero(before >= 0)
    assert_allclose(clf.scores(query)[:, others], scores[:, before[others]], atol=1e-6)
    assert np.corrcoef(clf.scores(query).ravel(), whole.scores(query).ravel())[0, 1] > 0.98
    assert clf.classes_.tolist() == list(range(59))
    # More than a tenth has changed: learned anew. So are few examples, and classes in another order.
    few = np.arange(8 * 50)
    clf.exchange(vectors[few], labels[few], np.unique(labels[few]))
    assert_allclose(
        clf.scores(query), WhitenedPrototypeClassifier().fit(vectors[few], labels[few]).scores(query), atol=1e-4
    )
    swapped = np.arange(int(labels[few].max()) + 1)
    swapped[[0, 1]] = 1, 0
    again = WhitenedPrototypeClassifier().fit(vectors[few], swapped[labels[few]])
    assert_allclose(
        clf.exchange(vectors[few], swapped[labels[few]], swapped).scores(query), again.scores(query), atol=1e-4
    )


def test_renewal_can_be_left_for_later(monkeypatch):
    X, y, _ = drawn([8] * 60, 20)
    monkeypatch.setattr(fewshot.classifiers.whitened_prototype, "_MOST_AT_ONCE", 300)
    clf = WhitenedPrototypeClassifier().fit(X[:320], y[:320])
    clf.defer_renewal, metric = True, clf._learned.metric
    assert not clf.renewal_due
    clf.partial_fit(X[320:], y[320:])
    assert clf.renewal_due
    assert clf._learned.metric is metric
    clf.exchange(X[8:], y[8:] - 1, np.arange(1, 60))
    assert clf._learned.metric is metric
    assert_allclose(clf.unit_means(), WhitenedPrototypeClassifier().fit(X[8:], y[8:]).prototypes_, atol=1e-6)
    # Once as many have changed as it was made of, not.
    clf.partial_fit(X[:160], y[:160] + 100)
    assert not clf.renewal_due


@pytest.mark.parametrize("q", [1, 2, 8, 9])
def test_few_queries_beside_many_classes_score_as_many_queries_do(q, monkeypatch):
    X, y, query = drawn([2] * 40, 20)
    expected = WhitenedPrototypeClassifier().fit(X, y).scores(query)[:q]
    monkeypatch.setattr(fewshot.classifiers.whitened_prototype, "_ROWS_AT_ONCE", 30)
    clf = WhitenedPrototypeClassifier().fit(X, y)
    assert_allclose(clf.scores(query[:q]), expected, atol=1e-5)
    assert_allclose(clf.rank(query[:q], 3).scores, -np.sort(-expected, axis=1)[:, :3], atol=1e-5)


def test_queries_at_the_centre_and_examples_that_are_equal_have_cosines_too_alone_and_among_many():
    v = np.random.default_rng(19).normal(size=64).astype(np.float32)
    clf = WhitenedPrototypeClassifier().fit([v] * 7, range(7))
    for query in (v[None], np.repeat(v[None], 20, axis=0)):
        assert np.abs(clf.scores(query)).max() <= 1
        assert np.isfinite(clf.predict_proba(query)).all()
    X, y, query = drawn([4] * 5, 30)
    X, query = 1000 + X, 1000 + np.concatenate([query, query])  # a narrow cone
    clf.fit(X, y)
    assert_allclose(clf.scores(query)[:9], np.concatenate([clf.scores(one[None]) for one in query[:9]]), atol=1e-2)
