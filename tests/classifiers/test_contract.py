"""What every classifier of fewshot.classifiers owes: scikit-learn's contract, and one formula behind two doors."""

from __future__ import annotations

import pickle
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from classifier_variants import BATCH_MATTERS, CLASSES, VARIANTS, episodes, quick, shown
from numpy.testing import assert_allclose
from sklearn.base import clone
from sklearn.utils.estimator_checks import check_estimator

from fewshot.classifiers.prototype import PrototypeClassifier


def test_the_introspection_finds_the_concrete_classifiers_only():
    names = {kind.__name__ for kind in CLASSES}
    assert {"PrototypeClassifier", "NearestNeighborClassifier"} <= names
    assert "FewShotClassifier" not in names
    assert "Membership" not in names


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_scikit_learns_check_estimator_passes(kind):
    with warnings.catch_warnings():
        # scikit-learn's checks cast NaN, infinity and float64's extremes to our float32 on purpose.
        warnings.filterwarnings("ignore", "(invalid value|overflow) encountered in cast", RuntimeWarning)
        results = check_estimator(quick(kind()), on_skip=None, on_fail=None)
    failed = {result["check_name"] for result in results if result["status"] == "failed"}
    assert failed <= (BATCH_MATTERS if kind.transductive else set())
    assert sum(result["status"] == "passed" for result in results) > 40


def test_check_estimator_fails_for_a_broken_method():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "(invalid value|overflow) encountered in cast", RuntimeWarning)
        with pytest.raises(AssertionError):
            check_estimator(_ChangesByAsking(), on_skip=None)


def assert_both_doors_give_the_same_scores(classifier, support, labels, query):
    together = classifier.episode_scores(*map(torch.from_numpy, (support, labels, query)))
    assert together.shape == (*query.shape[:2], labels.max() + 1)
    for number in range(len(support)):
        own = labels[number] >= 0
        alone = clone(classifier).fit(support[number][own], labels[number][own])
        assert alone.classes_.tolist() == list(range(labels.max() + 1))
        assert_allclose(together[number].numpy(), alone.scores(query[number]), rtol=1e-4, atol=1e-4)


SIZES = {
    "one shot": (5, [[1] * 5]),
    "five shots": (5, [[5] * 5]),
    "uneven classes": (4, [[1, 2, 5, 9]]),
    "uneven episodes": (3, [[1, 1, 1], [4, 1, 2], [3, 3, 3]]),
    "two classes": (2, [[1, 7]]),
}


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("mean", [0.0, 3.0])
@pytest.mark.parametrize("classifier", VARIANTS, ids=shown)
def test_a_batch_of_episodes_scores_as_an_estimator_fitted_on_each_alone(classifier, mean, sizes):
    assert_both_doors_give_the_same_scores(classifier, *episodes(*SIZES[sizes], mean=mean))


class _MixesEpisodes(PrototypeClassifier):
    """Broken: its prototypes are those of all episodes together."""

    def _learn(self, support, membership):
        learned = super()._learn(support, membership)
        return replace(learned, keys=learned.keys.mean(0, keepdim=True).expand_as(learned.keys))


class _ChangesByAsking(PrototypeClassifier):
    """Broken: predicting leaves something behind."""

    def predict(self, X):
        self.asked_ = True
        return super().predict(X)


class _CountsPadding(PrototypeClassifier):
    """Broken: padding counts as examples of the last class."""

    def _learn(self, support, membership):
        labels = membership.labels.where(membership.labels >= 0, membership.n_classes - 1)
        return super()._learn(support, type(membership)(labels, membership.n_classes))


@pytest.mark.parametrize(("broken", "sizes"), [(_MixesEpisodes, "one shot"), (_CountsPadding, "uneven episodes")])
def test_the_cross_check_fails_for_a_broken_method(broken, sizes):
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        assert_both_doors_give_the_same_scores(broken(), *episodes(*SIZES[sizes]))


@pytest.mark.parametrize("classifier", VARIANTS, ids=shown)
def test_predicting_twice_gives_the_same_and_changes_nothing(classifier):
    support, labels, query = episodes(3, [[2, 3, 1]], e=1)
    fitted = clone(classifier).fit(support[0], labels[0])
    before = pickle.dumps(fitted.__dict__)
    first = [fitted.predict(query[0]), fitted.predict_proba(query[0]), fitted.scores(query[0])]
    fitted.episode_scores(*map(torch.from_numpy, (support, labels, query)))
    assert pickle.dumps(fitted.__dict__) == before
    again = [fitted.predict(query[0]), fitted.predict_proba(query[0]), fitted.scores(query[0])]
    for one, other in zip(first, again, strict=True):
        assert one.tobytes() == other.tobytes()


def test_comparing_pickles_notices_a_change():
    fitted = PrototypeClassifier().fit([[0.0, 1.0], [1.0, 0.0]], [0, 1])
    before = pickle.dumps(fitted.__dict__)
    with torch.inference_mode():
        fitted._learned.means[0, 0, 0] += 1e-3
    assert pickle.dumps(fitted.__dict__) != before


@pytest.mark.parametrize("classifier", VARIANTS, ids=shown)
def test_probabilities_sum_to_one_and_the_likeliest_is_the_prediction(classifier):
    support, labels, query = episodes(4, [[1, 2, 3, 4]], e=1, q=40)
    fitted = clone(classifier).fit(support[0], labels[0])
    shares = fitted.predict_proba(query[0])
    assert_allclose(shares.sum(axis=1), 1.0, rtol=1e-5)
    assert shares.min() >= 0.0
    assert fitted.classes_[shares.argmax(axis=1)].tolist() == fitted.predict(query[0]).tolist()


@pytest.mark.parametrize("classifier", VARIANTS, ids=shown)
def test_learning_in_pieces_equals_learning_at_once_up_to_the_order_of_columns(classifier):
    support, labels, query = episodes(4, [[1, 2, 5, 4]], e=1)
    names = np.array(["a", "bb", "a much longer label", "d"])[labels[0]]
    whole = clone(classifier).fit(support[0], names)
    pieces = clone(classifier)
    for start, stop in ((0, 1), (1, 2), (2, 7), (7, 12)):
        pieces.partial_fit(support[0][start:stop], names[start:stop])
    assert sorted(pieces.classes_.tolist()) == whole.classes_.tolist()
    columns = [pieces.classes_.tolist().index(name) for name in whole.classes_.tolist()]
    assert_allclose(pieces.scores(query[0])[:, columns], whole.scores(query[0]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("classifier", VARIANTS, ids=shown)
def test_what_is_forgotten_leaves_what_was_never_learned(classifier):
    support, labels, query = episodes(3, [[2, 3, 1]], e=1)
    kept = labels[0] != 1
    forgetful = clone(classifier).fit(support[0], labels[0]).forget(1)
    never = clone(classifier).fit(support[0][kept], labels[0][kept])
    assert forgetful.classes_.tolist() == [0, 2]
    assert_allclose(forgetful.scores(query[0]), never.scores(query[0]), rtol=1e-5, atol=1e-5)
