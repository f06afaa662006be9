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
from sklearn.base import BaseEstimator, clone
from sklearn.utils.estimator_checks import check_estimator

from fewshot.classifiers import NearestNeighborClassifier, PrototypeClassifier
from fewshot.domain_adaptation import AdaptedClassifier
from fewshot.validation import METRICS


def test_the_introspection_finds_the_concrete_classifiers_only():
    names = {kind.__name__ for kind in CLASSES}
    assert {"PrototypeClassifier", "NearestNeighborClassifier"} <= names
    assert "FewShotClassifier" not in names
    assert "Membership" not in names


@pytest.mark.parametrize(
    "classifier", [*map(quick, (kind() for kind in CLASSES)), AdaptedClassifier(PrototypeClassifier())], ids=shown
)
def test_scikit_learns_check_estimator_passes(classifier):
    with warnings.catch_warnings():
        # scikit-learn's checks cast NaN, infinity and float64's extremes to our float32 on purpose.
        warnings.filterwarnings("ignore", "(invalid value|overflow) encountered in cast", RuntimeWarning)
        expected = BATCH_MATTERS if classifier.transductive else {}
        results = check_estimator(classifier, on_skip=None, expected_failed_checks=expected)
    assert {result["status"] for result in results} <= {"passed", "skipped", "xfail"}
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
        assert_allclose(together[number].numpy(), alone.scores(query[number]), rtol=1e-4, atol=3e-4)


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
        return replace(
            learned, of=replace(learned.of, means=learned.of.means.mean(0, keepdim=True).expand_as(learned.of.means))
        )


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
        fitted._learned.of.means[0, 0, 0] += 1e-3
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
def test_vectors_whose_products_float32_does_not_hold_are_refused_and_others_answered(classifier):
    support, labels, query = (array[0] for array in episodes(*SIZES["five shots"]))
    for scale in (1e-20, 1e16, 1e37):
        with pytest.raises(ValueError, match=r"largest number among the vectors is .*e.* divide all"):
            clone(classifier).fit(support * np.float32(scale), labels)
    for scale in (1e-9, 1e14):
        fitted = clone(classifier).fit(support * np.float32(scale), labels)
        assert np.isfinite(fitted.scores(query * np.float32(scale))).all()
        assert_allclose(fitted.predict_proba(query * np.float32(scale)).sum(1), 1.0, atol=1e-5)
        with pytest.raises(ValueError, match="largest number among the vectors"):
            fitted.predict(query * np.float32(1e30))
        with pytest.raises(ValueError, match="largest number among the vectors"):
            fitted.partial_fit(query * np.float32(1e30), np.zeros(len(query), int))
    # Nearly nothing among examples that are something, and zeros alone, are answered.
    fitted = clone(classifier).fit(support, labels)
    assert np.isfinite(fitted.scores(query * np.float32(1e-30))).all()
    assert np.isfinite(clone(classifier).fit(0.0 * support, labels).scores(query)).all()


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


# -- parameters set after fit

BASE = np.random.default_rng(2).normal(np.repeat(np.arange(4), 5)[:, None], 1.0, (20, 12))
OTHERS = {
    "C": [0.1], "alpha": [3.0], "beta": [1.0], "conditional_weight": [0.1], "epsilon": [1.0], "learning_rate": [0.02],
    "marginal_weight": [0.1], "max_iter": [1500], "metric": METRICS, "n_iter": [2], "n_neighbors": [4],
    "n_samples": [7], "penalty": [10.0], "power": [0.9], "prior": ["uniform"], "random_state": [1], "rate": [0.7],
    "ridge": [10.0], "scale": [3.0], "sharpness": [2.0], "steps": [2], "support_weight": [0.1], "tol": [1e-2],
    "weight": [5.0], "weights": ["distance"], "center": [np.arange(12.0)], "base": [BASE], "parts": [(4, 8)],
}  # fmt: skip
SETTINGS = [
    (classifier, {"base": value, "base_labels": np.repeat(np.arange(4), 5)} if name == "base" else {name: value})
    for classifier in VARIANTS
    for name in classifier.get_params()
    if name != "base_labels" and (name, getattr(classifier, "metric", "")) != ("weights", "inner_product")
    for value in OTHERS[name]
]


def assert_setting_after_fit_is_setting_before(classifier, settings):
    support, labels, query = (part[0] for part in episodes(3, [[2, 3, 4]], e=1, mean=1.0))
    after = clone(classifier).fit(support[:6], labels[:6])
    after.set_params(**settings)
    before = clone(classifier).set_params(**settings).fit(support[:6], labels[:6])
    assert_allclose(after.scores(query), before.scores(query), rtol=1e-5, atol=1e-6)
    assert_allclose(after.predict_proba(query), before.predict_proba(query), rtol=1e-5, atol=1e-6)
    more = [fitted.partial_fit(support[6:], labels[6:]).scores(query) for fitted in (after, before)]
    assert_allclose(*more, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("classifier", "settings"),
    SETTINGS,
    ids=[f"{shown(classifier)} {', '.join(settings)} {n}" for n, (classifier, settings) in enumerate(SETTINGS)],
)
def test_a_parameter_set_after_fit_holds_for_all_that_was_learned(classifier, settings):
    assert_setting_after_fit_is_setting_before(classifier, settings)


class _KeepsItsIndex(NearestNeighborClassifier):
    """Broken: a metric set after ``fit`` is that of the answers, but not of the index."""

    set_params = BaseEstimator.set_params


def test_the_comparison_of_parameters_fails_for_a_classifier_that_learns_nothing_again():
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        assert_setting_after_fit_is_setting_before(_KeepsItsIndex(weights="distance"), {"metric": "sqeuclidean"})


def test_nearest_neighbours_answer_by_the_metric_they_have_been_set_to_since():
    clf = NearestNeighborClassifier(metric="cosine").fit([[1, 0], [10, 10]], ["near", "same direction"])
    assert clf.predict([[2, 2]]).tolist() == ["same direction"]
    assert clf.set_params(metric="sqeuclidean").predict([[2, 2]]).tolist() == ["near"]  # 5 < 128


@pytest.mark.parametrize("classifier", VARIANTS, ids=shown)
def test_parameters_that_a_fitted_classifier_refuses_change_nothing(classifier):
    support, labels, _ = (part[0] for part in episodes(3, [[2, 3, 4]], e=1))
    fitted = clone(classifier).fit(support, labels)
    before = pickle.dumps(fitted.__dict__)
    with pytest.raises(ValueError, match="Invalid parameter 'nonsense'"):
        fitted.set_params(nonsense=1)
    if "metric" in fitted.get_params():
        with pytest.raises(ValueError, match="metric must be one of"):
            fitted.set_params(metric="l2")
    assert pickle.dumps(fitted.__dict__) == before
