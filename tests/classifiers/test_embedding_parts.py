"""Whitened prototypes of embeddings in parts: the weight that the support gives the later ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

import fewshot.classifiers.embedding_parts
from fewshot.classifiers import WhitenedPrototypeClassifier

PARTS = (12, 5, 8)


def drawn(informative, sizes, seed=0):
    """Embeddings of classes that differ in the first part, and in the others as much as they are ``informative``."""
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(len(sizes)), sizes)
    centers = rng.normal(size=(len(sizes), sum(PARTS)))
    centers[:, 12:] *= informative

    def around(labels):
        X = centers[labels] + rng.normal(size=(len(labels), sum(PARTS))) * np.r_[np.full(12, 1.3), np.full(13, 0.7)]
        X[:, 12:] += 3.0  # as of features that are never negative: most of their length says nothing
        return X.astype(np.float32)

    return around(y), y, around(np.repeat(np.arange(len(sizes)), 20)), np.repeat(np.arange(len(sizes)), 20)


def weighted(X, others, weight):
    """The embeddings in which the later parts have a weight, by the docstring: of unit parts, of one spread."""
    split = np.cumsum(PARTS)[:-1]
    units = [[p / np.linalg.norm(p, axis=1, keepdims=True) for p in np.split(each, split, 1)] for each in (X, others)]
    spread = [np.sqrt(((part - part.mean(0)) ** 2).sum(1).mean()) for part in units[0]]
    factors = [1 / spread[0], *(weight / np.sqrt(2) / one for one in spread[1:])]
    return [np.hstack([f * part for f, part in zip(factors, each, strict=True)]) for each in units]


class _AsTheyAre(WhitenedPrototypeClassifier):
    def prepare(self, vectors):
        return vectors


@pytest.mark.parametrize(("informative", "weight"), [(0.0, 0.0), (2.0, 1.0)])
@pytest.mark.parametrize("sizes", [[5] * 12, [2] * 20, [1, 6] * 8])
def test_later_parts_count_where_they_tell_classes_apart_and_not_where_they_are_noise(informative, weight, sizes):
    X, y, query, wanted = drawn(informative, sizes)
    clf = WhitenedPrototypeClassifier(parts=PARTS).fit(X, y)
    support, queries = weighted(X, query, weight)
    expected = _AsTheyAre().fit(support, y).scores(queries)
    assert_allclose(clf.scores(query), expected, rtol=1e-2, atol=1e-3)
    own = WhitenedPrototypeClassifier().fit(X[:, :12], y)
    if weight:
        assert clf.score(query, wanted) > own.score(query[:, :12], wanted) + 0.1
    else:
        assert_allclose(clf.scores(query), own.scores(query[:, :12]), atol=1e-4)


def test_with_one_example_of_each_class_nothing_speaks_for_later_parts():
    X, y, query, _ = drawn(3.0, [1] * 30)
    clf = WhitenedPrototypeClassifier(parts=PARTS).fit(X, y)
    own = WhitenedPrototypeClassifier().fit(X[:, :12], y)
    assert_allclose(clf.scores(query), own.scores(query[:, :12]), atol=1e-4)


def test_few_left_out_examples_are_no_evidence():
    X, y, query, _ = drawn(3.0, [2, 2, 2, 1, 1])
    clf = WhitenedPrototypeClassifier(parts=PARTS).fit(X, y)
    own = WhitenedPrototypeClassifier().fit(X[:, :12], y)
    assert_allclose(clf.scores(query), own.scores(query[:, :12]), atol=1e-4)


@pytest.mark.parametrize("informative", [0.0, 2.0])
@pytest.mark.parametrize("sizes", [[4] * 12, [9] * 60])
def test_pieces_in_any_order_are_learned_as_all_at_once(informative, sizes, monkeypatch):
    X, y, query, _ = drawn(informative, sizes)
    order = np.random.default_rng(1).permutation(len(X))
    whole, pieces = (WhitenedPrototypeClassifier(parts=PARTS) for _ in range(2))
    whole.fit(X, y)
    for some in np.array_split(order, 3):
        pieces.partial_fit(X[some], y[some])
    pieces.partial_fit(drawn(0.0, [3], seed=1)[0], ["gone"] * 3).forget("gone")
    columns = [pieces.classes_.tolist().index(label) for label in whole.classes_.tolist()]
    assert_allclose(pieces.scores(query)[:, columns], whole.scores(query), atol=1e-4)


def test_many_keep_scale_and_metric_until_a_tenth_has_been_added():
    X, y, query, _ = drawn(2.0, [8] * 50)
    clf = WhitenedPrototypeClassifier(parts=PARTS).fit(X[:360], y[:360])
    scale = clf._learned.scale  # what is kept is not seen from outside otherwise
    clf.partial_fit(X[360:396], y[360:396])
    assert clf._learned.scale is scale
    whole = WhitenedPrototypeClassifier(parts=PARTS).fit(X[:396], y[:396])
    assert np.corrcoef(clf.scores(query).ravel(), whole.scores(query).ravel())[0, 1] > 0.98
    assert clf.predict(X[395:396]).tolist() == [y[395]]
    examples = np.stack([X[8 * 3 : 8 * 4], X[8 * 9 : 8 * 10]]).mean(1)
    assert clf.example_scores(X[24:26], examples).argmax(1).tolist() == [0, 0]


def test_of_many_examples_a_bounded_sample_chooses(monkeypatch):
    X, y, query, wanted = drawn(2.0, [30] * 40)
    seen = []
    choose = fewshot.classifiers.embedding_parts._left_out_loss

    def noting(scaled, membership, *others):
        seen.append((scaled.shape[1], int(membership.counts().max()), membership.n_classes))
        return choose(scaled, membership, *others)

    monkeypatch.setattr(fewshot.classifiers.embedding_parts, "_left_out_loss", noting)
    clf = WhitenedPrototypeClassifier(parts=PARTS).fit(X, y)
    assert set(seen) == {(200, 10, 20)}  # every second class
    assert clf.score(query, wanted) > WhitenedPrototypeClassifier().fit(X[:, :12], y).score(query[:, :12], wanted)


def test_episodes_in_a_batch_choose_each_for_itself():
    drawn_ = [drawn(informative, [4] * 8, seed) for informative, seed in ((0.0, 0), (2.0, 1))]
    support, labels, query = (np.stack([one[n] for one in drawn_]) for n in range(3))
    clf = WhitenedPrototypeClassifier(parts=PARTS)
    together = clf.episode_scores(*map(torch.from_numpy, (support, labels, query)))
    for n, (X, y, own, _) in enumerate(drawn_):
        assert_allclose(together[n], clf.fit(X, y).scores(own), atol=1e-4)


def test_a_part_that_never_varies_is_left_out_and_equal_examples_do_no_harm():
    X, y, query, _ = drawn(2.0, [5] * 8)
    X[:, 12:17], query[:, 12:17] = 1.0, 1.0
    assert np.isfinite(WhitenedPrototypeClassifier(parts=PARTS).fit(X, y).scores(query)).all()
    same = WhitenedPrototypeClassifier(parts=(2, 1)).fit(np.ones((24, 3)), [0, 0, 1, 1] * 6)
    assert np.isfinite(same.predict_proba(np.eye(3))).all()


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ((10, 5), r"parts=\(10, 5\) are 15 in all, but the embeddings have 25 dimensions: give the encoder's own"),
        ((25, 0), "parts must be .*1"),
    ],
)
def test_parts_of_other_embeddings_are_refused(parts, message):
    X, y, _, _ = drawn(0.0, [2, 2])
    with pytest.raises(ValueError, match=message):
        WhitenedPrototypeClassifier(parts=parts).fit(X, y)
