"""The classifiers' numbers by hand and from scikit-learn; labels of any kind; growing, forgetting, refusing."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid

import fewshot.classifiers.ranking
import fewshot.vectors.distances
from fewshot.classifiers.base import FewShotClassifier
from fewshot.classifiers.membership import Membership
from fewshot.classifiers.nearest_neighbor import NearestNeighborClassifier
from fewshot.classifiers.prototype import PrototypeClassifier
from fewshot.validation import METRICS

BOTH = [PrototypeClassifier, NearestNeighborClassifier]


def clouds(sizes, *, d=8, q=60, seed=0, mean=0.0):
    """Overlapping classes of these sizes, in shuffled order, and queries among them."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(mean, 1.0, (len(sizes), d))
    y = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    X = centres[y] + rng.normal(size=(len(y), d))
    query = centres[rng.integers(0, len(sizes), q)] + rng.normal(size=(q, d))
    return X.astype(np.float32), y, query.astype(np.float32)


# -- prototypes


def test_a_class_added_later_is_scored_and_leaves_the_others_where_they_were():
    clf = PrototypeClassifier(metric="sqeuclidean").fit([[0, 0], [2, 0]], ["cat", "cat"])
    clf.partial_fit([[1, 5]], ["wombat"])
    assert_allclose(clf.scores([[1, 3]]), [[-9.0, -4.0]])
    assert clf.predict([[1, 3]]) == ["wombat"]


def test_cosine_prototypes_by_hand():
    clf = PrototypeClassifier().fit([[2, 0], [4, 0], [0, 1]], ["a", "a", "b"])
    assert_allclose(clf.prototypes_, [[3, 0], [0, 1]])
    assert_allclose(clf.scores([[3, 4], [5, 0], [-1, 0]]), [[0.6, 0.8], [1, 0], [-1, 0]], atol=1e-6)
    assert clf.predict([[3, 4], [5, 0], [-1, 0]]).tolist() == ["b", "a", "b"]


def test_inner_product_prototypes_by_hand():
    clf = PrototypeClassifier(metric="inner_product").fit([[2, 0], [4, 0], [0, 1]], ["a", "a", "b"])
    assert_allclose(clf.scores([[3, 4]]), [[9, 4]])


@pytest.mark.parametrize("mean", [0.0, 1000.0])
def test_squared_euclidean_prototypes_equal_nearest_centroid(mean):
    X, y, query = clouds([1, 4, 9, 2, 30], mean=mean)
    ours, theirs = PrototypeClassifier(metric="sqeuclidean").fit(X, y), NearestCentroid().fit(X.astype(float), y)
    assert_allclose(ours.prototypes_, theirs.centroids_, rtol=1e-5, atol=1e-6)
    assert_array_equal(ours.predict(query), theirs.predict(query.astype(float)))
    expected = -((query[:, None].astype(float) - theirs.centroids_) ** 2).sum(-1)
    assert_allclose(ours.scores(query), expected, rtol=1e-3, atol=1e-2 if mean else 1e-4)


# -- nearest neighbours


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("weights", ["uniform", "distance"])
@pytest.mark.parametrize(("metric", "theirs"), [("sqeuclidean", "euclidean"), ("cosine", "cosine")])
def test_nearest_neighbours_equal_scikit_learns(k, weights, metric, theirs):
    X, y, query = clouds([1, 4, 9, 2, 30], q=200)
    names = np.array(["e", "d", "c", "b", "a"])[y]
    ours = NearestNeighborClassifier(n_neighbors=k, weights=weights, metric=metric).fit(X, names)
    sklearns = KNeighborsClassifier(k, weights=weights, metric=theirs).fit(X.astype(float), names)
    expected = sklearns.predict_proba(query.astype(float))
    assert_array_equal(ours.classes_, sklearns.classes_)
    assert_allclose(ours.scores(query), expected, rtol=1e-3, atol=1e-5)
    assert_array_equal(ours.predict(query), sklearns.predict(query.astype(float)))
    assert len(np.unique(expected)) > (2 if k > 1 else 1)


def test_neighbours_by_inner_product_by_hand():
    clf = NearestNeighborClassifier(n_neighbors=2, metric="inner_product").fit([[1], [2], [3]], ["a", "b", "b"])
    assert clf.scores([[1], [-1]]).tolist() == [[0, 1], [0.5, 0.5]]
    assert clf.predict([[1], [-1]]).tolist() == ["b", "a"]  # a draw goes to the first of classes_


def test_votes_weigh_by_the_reciprocal_of_the_distance_by_hand():
    clf = NearestNeighborClassifier(n_neighbors=3, weights="distance", metric="sqeuclidean")
    clf.fit([[0, 0], [4, 0], [0, -2]], ["a", "b", "b"])
    # (1, 0) is 1, 3 and sqrt(5) away.
    votes = np.array([1.0, 1 / 3 + 1 / 5**0.5])
    assert_allclose(clf.scores([[1, 0]]), [votes / votes.sum()], rtol=1e-5)


@pytest.mark.parametrize("n_queries", [1, 40])
def test_an_exact_match_outvotes_all_others(n_queries):
    clf = NearestNeighborClassifier(n_neighbors=3, weights="distance", metric="sqeuclidean")
    clf.fit([[1, 0], [2, 0], [2.5, 0], [2, 0]], ["a", "b", "b", "a"])
    assert_allclose(clf.scores([[1, 0]] * n_queries), [[1, 0]] * n_queries)
    assert_allclose(clf.scores([[2, 0]] * n_queries), [[0.5, 0.5]] * n_queries)


def test_where_fewer_than_k_are_known_all_vote():
    clf = NearestNeighborClassifier(n_neighbors=9).fit([[1, 0], [1, 1], [0, 1]], ["a", "a", "b"])
    assert_allclose(clf.scores([[0, 1]]), [[2 / 3, 1 / 3]])


# -- growing and forgetting


@pytest.mark.parametrize("kind", BOTH)
def test_a_classifier_grows_from_one_class_and_from_nothing(kind):
    clf = kind().partial_fit([[1, 0]], ["a"])
    assert clf.predict([[0, 1]]).tolist() == ["a"]
    assert_allclose(clf.predict_proba([[0, 1]]), [[1.0]])
    clf.partial_fit([[0, 1], [-1, 0]], ["a much longer label", "Zebra"])
    assert clf.classes_.tolist() == ["a", "Zebra", "a much longer label"]  # new ones: sorted within the call
    assert clf.predict([[1, 0], [0, 1], [-1, 0]]).tolist() == ["a", "a much longer label", "Zebra"]


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("size", [1, 2, 7])
def test_learning_in_pieces_equals_learning_at_once(kind, size):
    X, y, query = clouds([1, 4, 9, 2, 11])
    whole, pieces = kind().fit(X, y), kind()
    for start in range(0, len(X), size):
        pieces.partial_fit(X[start : start + size], y[start : start + size])
    order = [pieces.classes_.tolist().index(label) for label in whole.classes_.tolist()]
    assert_allclose(pieces.scores(query)[:, order], whole.scores(query), rtol=1e-4, atol=1e-5)


def test_a_query_finds_the_prototypes_lengths_ready_also_of_what_was_learned_later(monkeypatch):
    clf = PrototypeClassifier().fit([[2, 0], [0, 3]], ["a", "b"])
    before = clf.prototypes_
    clf.partial_fit([[0, 5], [4, 8]], ["b", "b"]).partial_fit([[-6, 8]], ["c"])
    assert_allclose(before, [[2, 0], [0, 3]])
    measured, measure = [], fewshot.vectors.distances.key_lengths
    monkeypatch.setattr(
        fewshot.vectors.distances, "key_lengths", lambda keys: measured.append(keys.shape[-2]) or measure(keys)
    )
    # b's prototype is (4, 16) / 3
    assert_allclose(clf.scores([[3, 0]]), [[1.0, 1 / 17**0.5, -0.6]], rtol=1e-6)
    assert measured == [1]  # of the query
    assert_allclose(clf.prototypes_, [[2, 0], [4 / 3, 16 / 3], [-6, 8]], rtol=1e-6)


def test_many_classes_are_learned_in_place_whether_known_or_new_and_nobodys_array_is_changed():
    X = np.random.default_rng(0).normal(size=(3000, 5)).astype(np.float32)
    order = np.arange(len(X))
    whole = PrototypeClassifier().fit(X, order % 2500)
    given = X[:2000].copy()
    pieces = PrototypeClassifier().fit(given, order[:2000], copy=False)
    for start in range(2000, 3000, 250):
        pieces.partial_fit(X[start : start + 250], order[start : start + 250] % 2500)
    assert_allclose(given, X[:2000], rtol=0)
    assert_allclose(pieces.prototypes_, whole.prototypes_, rtol=1e-5, atol=1e-6)
    assert_allclose(pieces.scores(X[:7]), whole.scores(X[:7]), rtol=1e-4, atol=1e-5)


def test_a_class_added_where_there_is_room_is_not_mixed_with_what_the_memory_held(monkeypatch):
    empty = torch.Tensor.new_empty
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda *args, **kwargs: empty(*args, **kwargs).fill_(torch.inf))
    clf = PrototypeClassifier().fit(np.eye(4), list("abcd"))
    for n, label in enumerate("efg"):
        clf.partial_fit([[n, 2, 3, 4]], [label])
    assert clf.prototypes_.tolist() == [*np.eye(4).tolist(), [0, 2, 3, 4], [1, 2, 3, 4], [2, 2, 3, 4]]


def test_one_example_of_each_class_is_not_copied_and_never_changed():
    matrix = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
    before, order = matrix.copy(), np.arange(40)
    clf = PrototypeClassifier().fit(matrix[:30], order[:30], copy=False)
    clf.partial_fit(matrix[30:36], order[30:36], copy=False)
    assert np.shares_memory(clf._learned.of.means.numpy(), matrix)  # seen from outside only in memory
    clf.partial_fit(matrix[36:40], [3, 36, 36, 3], copy=False)
    assert_allclose(matrix, before, rtol=0)
    expected = [*before[:3], (before[3] + before[36] + before[39]) / 3, *before[4:36], (before[37] + before[38]) / 2]
    assert_allclose(clf.prototypes_, expected, rtol=1e-5, atol=1e-6)
    assert_allclose(clf.forget(0).prototypes_, expected[1:], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("k", [1, 3, 99])
def test_a_ranking_is_the_sorted_scores_and_the_largest_probability_block_by_block(kind, k, monkeypatch):
    X, y, query = clouds([3, 4, 2, 5, 1])
    clf = kind().fit(X, y)
    scores, shares = clf.scores_and_probabilities(query)
    monkeypatch.setattr(fewshot.classifiers.ranking, "_MOST_SCORES", 2 * len(clf.classes_))  # two queries at once
    found = clf.rank(query, k)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    assert found.classes.tolist() == order.tolist()
    assert_allclose(found.scores, np.take_along_axis(scores, order, axis=1), rtol=1e-5, atol=1e-6)
    assert_allclose(found.probability, shares.max(axis=1), rtol=1e-4)


def test_beside_thousands_of_classes_a_sample_of_them_gives_nearly_the_same_probability(monkeypatch):
    X = np.random.default_rng(0).normal(size=(5000, 20)).astype(np.float32)
    clf = PrototypeClassifier().fit(X, np.arange(5000))
    query = X[:40] + 0.5
    sampled = clf.rank(query, 1).probability
    monkeypatch.setattr(fewshot.classifiers.class_means, "_MOST_CLASSES", 5000)
    assert_allclose(sampled, clf.rank(query, 1).probability, atol=0.02)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("later", METRICS)
def test_prototypes_answer_by_the_metric_they_have_been_set_to_since(metric, later):
    rng = np.random.default_rng(0)
    X, y, q = rng.normal(size=(9, 4)), np.repeat([0, 1, 2], 3), rng.normal(size=(5, 4))
    changed = PrototypeClassifier(metric=metric).fit(X[:6], y[:6]).set_params(metric=later)
    assert_allclose(changed.scores(q), PrototypeClassifier(metric=later).fit(X[:6], y[:6]).scores(q), rtol=1e-5)
    changed.partial_fit(X[6:], y[6:])
    assert_allclose(changed.scores(q), PrototypeClassifier(metric=later).fit(X, y).scores(q), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", BOTH)
def test_fit_forgets_all_that_was_learned_before(kind):
    X, y, query = clouds([3, 4])
    clf = kind().fit(X, y + 7).partial_fit(X, y + 20)
    assert_array_equal(clf.fit(X, y).scores(query), kind().fit(X, y).scores(query))
    assert clf.classes_.tolist() == [0, 1]


@pytest.mark.parametrize("kind", BOTH)
def test_a_forgotten_class_is_gone_and_may_come_back(kind):
    X, y, query = clouds([3, 4, 2])
    clf = kind().fit(X, y).forget(1)
    assert clf.classes_.tolist() == [0, 2]
    assert_allclose(clf.scores(query), kind().fit(X[y != 1], y[y != 1]).scores(query), rtol=1e-5, atol=1e-6)
    clf.partial_fit(X[y == 1], y[y == 1])
    assert clf.classes_.tolist() == [0, 2, 1]
    assert_allclose(clf.scores(query)[:, [0, 2, 1]], kind().fit(X, y).scores(query), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", BOTH)
def test_changing_the_callers_array_after_fit_changes_nothing(kind):
    X, y, query = clouds([3, 4, 2])
    expected = kind().fit(X, y).forget(1).scores(query)
    mine = X.copy()
    clf = kind().fit(mine, y)
    mine[:] = 99.0
    assert_array_equal(clf.forget(1).scores(query), expected)


@pytest.mark.parametrize("kind", BOTH)
def test_a_refused_addition_leaves_everything_as_it_was(kind):
    clf = kind().fit([[1, 0], [0, 1]], ["a", "b"])
    before = pickle.dumps(clf.__dict__)
    for X, y in (([[np.nan, 0]], ["c"]), ([[1, 2, 3]], ["c"]), ([[1, 2]], [None]), ([[1, 2]], ["c", "d"])):
        with pytest.raises(ValueError, match=r"NaN|features|every vector needs a label|each vector needs one"):
            clf.partial_fit(X, y)
    assert pickle.dumps(clf.__dict__) == before


@pytest.mark.parametrize("kind", BOTH)
def test_a_classifier_survives_pickling_and_then_grows(kind):
    X, y, query = clouds([3, 4, 2])
    clf = pickle.loads(pickle.dumps(kind().fit(X, y)))
    expected = kind().fit(X, y).partial_fit(query[:2], [1, 9]).scores(query)
    assert_array_equal(clf.partial_fit(query[:2], [1, 9]).scores(query), expected)


# -- labels

LABELS = {
    "strings of any length": ["b", "a long one", ""],
    "whole numbers with gaps": [-5, 1000, 7],
    "bools": [True, False, True],
    "tuples": [(1, 2), (0, 9), (3, 4)],
    "tuples of different length": [(1,), (), (3, 4)],
    "a mixture": ["a", 1, (2, "b")],
    "whole numbers over 64 bits": [2**70, 2**63, -1],
    "frozen sets": [frozenset({1}), frozenset({2}), frozenset()],
    "strings that end in a null": ["a", "a\0", "b"],
}


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
def test_labels_come_back_as_they_were_given(kind, labels):
    X = np.eye(3)
    at_once = kind().fit(X, labels)
    in_pieces = kind()
    for vector, label in zip(X, labels, strict=True):
        in_pieces.partial_fit([vector], [label])
    for clf in (at_once, in_pieces):
        assert clf.classes_.shape == (len(set(labels)),)
        assert set(clf.classes_.tolist()) == set(labels)
        if len(set(labels)) == 3:
            assert clf.predict(X).tolist() == labels
            assert clf.forget(labels[0]).predict(X[1:]).tolist() == labels[1:]


@pytest.mark.parametrize("labels", [[1, 2, 3], ["a", "b", "c"]])
def test_fit_sorts_the_classes_and_numpy_labels_are_the_same_as_lists(labels):
    X = [[1, 0], [0, 1], [-1, 0]]
    assert PrototypeClassifier().fit(X, labels[::-1]).classes_.tolist() == labels
    given = PrototypeClassifier().fit(X, np.array(labels))
    assert given.classes_.tolist() == labels
    assert given.predict(X).dtype == np.array(labels).dtype


# -- the benchmark's door


@pytest.mark.parametrize("metric", ["cosine", "sqeuclidean"])
@pytest.mark.parametrize("kind", BOTH)
def test_padding_is_the_same_as_leaving_out(kind, metric):
    rng = torch.Generator().manual_seed(0)
    support, query = torch.randn(3, 6, 5, generator=rng), torch.randn(3, 4, 5, generator=rng)
    labels = torch.tensor([[0, 1, 2, 1, 0, 2]]).repeat(3, 1)
    filler = torch.cat([query[:, :2] + 0.1, 5 * torch.randn(3, 2, 5, generator=rng)], dim=1)
    padded = torch.cat([filler[:, :2], support[:, :3], filler[:, 2:], support[:, 3:]], dim=1)
    minus = torch.full((3, 2), -1)
    padded_labels = torch.cat([minus, labels[:, :3], minus, labels[:, 3:]], dim=1)
    clf = kind(metric=metric) if kind is PrototypeClassifier else kind(metric=metric, n_neighbors=3, weights="distance")
    expected = clf.episode_scores(support, labels, query)
    assert_allclose(clf.episode_scores(padded, padded_labels, query), expected, rtol=1e-4, atol=1e-5)
    counted = clf.episode_scores(padded, padded_labels.clamp_min(0), query)
    assert np.abs(counted.numpy() - expected.numpy()).max() > 0.01  # it would show


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("filler", [0.0, 1e6, float("nan")])
def test_whatever_padding_holds_changes_no_score(kind, metric, filler):
    rng = torch.Generator().manual_seed(0)
    far = 1000 if metric == "sqeuclidean" else 0  # where padding would shift the centre and cost digits
    support, query = (far + torch.randn(3, n, 5, generator=rng) for n in (6, 4))
    labels = torch.tensor([[0, 1, 2, 1, 0, 2]]).repeat(3, 1)
    padded = torch.cat([torch.full((3, 2, 5), filler), support], dim=1)
    padded_labels = torch.cat([torch.full((3, 2), -1), labels], dim=1)
    expected = kind(metric=metric).episode_scores(support, labels, query)
    assert_allclose(kind(metric=metric).episode_scores(padded, padded_labels, query), expected, rtol=1e-4)


def test_with_more_neighbours_than_examples_padding_still_does_not_vote():
    support, labels = torch.eye(4)[None], torch.tensor([[0, 1, 1, -1]])
    scores = NearestNeighborClassifier(n_neighbors=4).episode_scores(support, labels, support)
    assert_allclose(scores, [[[1 / 3, 2 / 3]] * 4])


def test_the_number_of_classes_can_be_given_where_an_episode_lacks_the_last():
    support, labels = torch.eye(3)[None], torch.tensor([[0, 1, 1]])
    scores = NearestNeighborClassifier().episode_scores(support, labels, support, n_classes=4)
    assert scores.tolist() == [[[1, 0, 0, 0], [0, 1, 0, 0], [0, 1, 0, 0]]]


def test_membership_by_hand_and_its_dense_and_scattered_sums_agree(monkeypatch):
    labels = torch.tensor([[0, 2, -1, 2], [1, 1, 1, -1]])
    membership = Membership(labels, 3)
    support = torch.arange(16.0).reshape(2, 4, 2)
    sums = [[[0, 1], [0, 0], [8, 10]], [[0, 0], [30, 33], [0, 0]]]
    assert membership.one_hot().sum(-1).tolist() == [[1, 1, 0, 1], [1, 1, 1, 0]]
    assert membership.sums(support).tolist() == sums
    assert membership.counts().tolist() == [[1, 0, 2], [0, 3, 0]]
    monkeypatch.setattr("fewshot.classifiers.membership._DENSE_LIMIT", 0)
    monkeypatch.setattr(Membership, "one_hot", None)  # so that the scatter is surely taken
    assert membership.sums(support).tolist() == sums
    assert membership.counts().tolist() == [[1, 0, 2], [0, 3, 0]]


def test_a_method_without_formula_says_so():
    with pytest.raises(NotImplementedError):
        FewShotClassifier().fit([[1.0]], [1])


# -- refusals


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize(
    ("X", "y", "error", "message"),
    [
        ([[np.nan, 0]], ["a"], ValueError, "Input X contains NaN"),
        ([[np.inf, 0]], ["a"], ValueError, "Input X contains infinity"),
        ([1, 2], ["a", "b"], ValueError, "Expected 2D array, got 1D array"),
        ([[1, 0], [0, 1]], "ab", ValueError, "one label for each of the 2 vectors, not be the single string 'ab'"),
        ([[1, 0]], ["a", "b"], ValueError, "found 1 vectors but 2 labels; each vector needs one"),
        ([[1, 0]], None, ValueError, "requires y to be passed, but the target y is None"),
        ([[1, 0]], [None], ValueError, "label 0 of 1 is None; every vector needs a label"),
        ([[1, 0]], [{}], TypeError, r"label 0 of 1, \{\}, is a dict, which is not hashable; use a string"),
        ([[1, 0], [0, 1]], [0.5, 1.5], ValueError, "continuous"),
    ],
)
def test_what_cannot_be_learned_is_refused_saying_why(kind, X, y, error, message):
    with pytest.raises(error, match=message):
        kind().fit(X, y)


@pytest.mark.parametrize("kind", BOTH)
def test_queries_of_another_size_or_with_nan_are_refused_naming_both_sizes(kind):
    clf = kind().fit([[1, 0]], ["a"])
    for ask in (clf.predict, clf.predict_proba, clf.scores):
        with pytest.raises(ValueError, match=rf"X has 3 features, but {kind.__name__} is expecting 2 features"):
            ask([[1, 2, 3]])
        with pytest.raises(ValueError, match="Input X contains NaN"):
            ask([[np.nan, 0]])


@pytest.mark.parametrize("kind", BOTH)
def test_asking_before_learning_is_refused_by_name(kind):
    for ask in (kind().predict, kind().predict_proba, kind().scores, kind().forget):
        with pytest.raises(NotFittedError, match=rf"This {kind.__name__} instance is not fitted yet"):
            ask([[1, 0]])


@pytest.mark.parametrize("kind", BOTH)
def test_forgetting_an_unknown_or_the_last_class_is_refused_and_forgets_nothing(kind):
    clf = kind().fit([[1, 0], [0, 1]], ["a", "b"])
    with pytest.raises(KeyError, match="no class 'z' to forget; the 2 known ones are in classes_"):
        clf.forget("z")
    clf.forget("b")
    with pytest.raises(ValueError, match="'a' is the only class left; fit new ones instead of forgetting it"):
        clf.forget("a")
    assert clf.predict([[0, 1]]).tolist() == ["a"]


@pytest.mark.parametrize(
    ("clf", "message"),
    [
        (PrototypeClassifier(metric="l2"), "metric must be one of 'cosine', 'sqeuclidean', 'inner_product', not 'l2'"),
        (NearestNeighborClassifier(metric="l2"), "metric must be one of 'cosine', .*, not 'l2'"),
        (NearestNeighborClassifier(n_neighbors=0), "n_neighbors must be a whole number of at least 1, not 0"),
        (NearestNeighborClassifier(n_neighbors=1.5), "n_neighbors must be a whole number of at least 1, not 1.5"),
        (NearestNeighborClassifier(weights="rank"), "weights must be one of 'uniform', 'distance', not 'rank'"),
        (
            NearestNeighborClassifier(weights="distance", metric="inner_product"),
            "weights='distance' needs a distance; 'inner_product' is none: use 'cosine'",
        ),
    ],
)
def test_a_wrong_hyper_parameter_is_refused_by_fit_and_by_the_benchmarks_door(clf, message):
    with pytest.raises(ValueError, match=message):
        clone(clf).fit([[1, 0]], ["a"])
    with pytest.raises(ValueError, match=message):
        clf.episode_scores(torch.eye(2)[None], torch.tensor([[0, 1]]), torch.eye(2)[None])
