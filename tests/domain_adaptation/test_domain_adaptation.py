"""Adaptation to unlabelled embeddings of a target domain, computed by hand and by scikit-learn."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.covariance import ShrunkCovariance
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import check_estimator

from fewshot import DomainAdapter, EpisodeSampler, PrototypeClassifier, run_benchmark
from fewshot.benchmark.methods import METHODS, describe_classifier, select_methods
from fewshot.domain_adaptation import AdaptationReport, AdaptedClassifier


def directions(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def root(covariance, power):
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * values**power) @ vectors.T


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_centring_takes_the_mean_direction_away():
    adapter = DomainAdapter().fit([[3.0, 4.0], [5.0, 0.0]])  # directions (0.6, 0.8) and (1, 0)
    assert_allclose(adapter.mean_, [0.8, 0.4], rtol=1e-6)
    found = adapter.transform([[0.0, 2.0]])
    assert found.dtype == np.float32
    assert_allclose(found, [[-0.8, 0.6]], rtol=1e-6)


@pytest.mark.parametrize(("n", "d"), [(40, 6), (6, 40), (20, 20)])
def test_whitening_is_the_inverse_root_of_scikit_learns_shrunk_covariance(rng, n, d):
    target, asked = rng.normal(1.0, 1.0, (n, d)), rng.normal(1.0, 1.0, (3, d))
    shrunk = ShrunkCovariance(shrinkage=0.3).fit(directions(target))
    wanted = (directions(asked) - shrunk.location_) @ root(shrunk.covariance_, -0.5)
    assert_allclose(DomainAdapter("whiten", shrinkage=0.3).fit(target).transform(asked), wanted, rtol=1e-4, atol=1e-4)


def test_wholly_shrunk_whitening_is_centring_scaled(rng):
    target = rng.normal(1.0, [1.0, 2.0, 3.0], (30, 3))
    white = DomainAdapter("whiten", shrinkage=1.0).fit(target).transform(target)
    centred = DomainAdapter("center").fit(target).transform(target)
    scale = np.sqrt(3 / np.trace(np.cov(centred.T, bias=True)))
    assert_allclose(white, scale * centred, rtol=1e-4, atol=1e-5)


def test_coral_gives_the_target_the_sources_mean_and_covariance(rng):
    source = rng.normal([1.0, 0.0, 2.0], [1.0, 0.5, 0.2], (50, 3))
    target = rng.normal([0.0, 3.0, 0.0], [0.3, 1.0, 2.0], (60, 3))
    moved = DomainAdapter("coral", source=source, shrinkage=1e-9).fit(target).transform(target)
    assert_allclose(moved.mean(0), directions(source).mean(0), atol=1e-5)
    assert_allclose(np.cov(moved.T, bias=True), np.cov(directions(source).T, bias=True), atol=1e-5)


def test_coral_with_fewer_vectors_than_dimensions_is_the_papers_two_roots(rng):
    source, target = rng.normal(0.5, 1.0, (5, 12)), rng.normal(-1.0, 1.0, (7, 12))
    here, there = (ShrunkCovariance(shrinkage=0.9).fit(directions(v)) for v in (target, source))
    white = (directions(target) - here.location_) @ root(here.covariance_, -0.5)
    wanted = white @ root(there.covariance_, 0.5) + there.location_
    assert_allclose(DomainAdapter("coral", source=source).fit(target).transform(target), wanted, atol=1e-5)


@pytest.mark.parametrize("method", ["center", "whiten"])
def test_scikit_learns_check_estimator_passes(method):
    with warnings.catch_warnings():
        # scikit-learn's checks cast NaN, infinity and float64's extremes to our float32 on purpose.
        warnings.filterwarnings("ignore", "(invalid value|overflow) encountered in cast", RuntimeWarning)
        results = check_estimator(DomainAdapter(method), on_skip=None)
    assert sum(result["status"] == "passed" for result in results) > 30


def test_in_a_pipeline_a_frozen_adapter_keeps_to_the_unlabelled_vectors(rng):
    unlabelled, support, asked = (rng.normal(2.0, 1.0, (n, 5)) for n in (30, 2, 9))
    adapter = DomainAdapter().fit(unlabelled)
    model = make_pipeline(FrozenEstimator(adapter), PrototypeClassifier()).fit(support, ["a", "b"])
    alone = PrototypeClassifier().fit(adapter.transform(support), ["a", "b"])
    assert_array_equal(model.predict(asked), alone.predict(adapter.transform(asked)))
    assert_allclose(adapter.mean_, directions(unlabelled).mean(0), rtol=1e-5)


def test_a_clone_has_the_settings_and_nothing_learned(rng):
    adapter = DomainAdapter("whiten", shrinkage=0.5).fit(rng.normal(size=(9, 4)))
    twin = clone(adapter)
    assert twin.get_params() == adapter.get_params()
    assert not hasattr(twin, "mean_")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "mean"}, "method must be one of 'center', 'whiten', 'coral', not 'mean'"),
        ({"method": "coral"}, r"'coral' needs source=: embeddings of the source domain, of shape \(m, d\)"),
        ({"source": np.eye(3)}, "source= is for coral; 'center' does not use it: leave it out"),
        ({"method": "whiten", "shrinkage": 0}, "shrinkage must be above 0 and at most 1, not 0"),
        ({"method": "coral", "source": np.eye(4)}, r"source: expected vectors of shape \(n, 3\), got \(4, 4\)"),
        (
            {"method": "coral", "source": np.ones((4, 3))},
            r"the source vectors \(n = 4, n_features = 3\) all point",
        ),
    ],
)
def test_a_wrong_setting_is_refused_with_its_remedy(settings, message):
    with pytest.raises(ValueError, match=message):
        DomainAdapter(**settings).fit(np.eye(3))


def test_vectors_that_do_not_vary_cannot_be_whitened():
    message = r"the target vectors \(n = 3, n_features = 2\) all point the same way, so they have no covariance"
    with pytest.raises(ValueError, match=message):
        DomainAdapter("whiten").fit([[1.0, 2.0], [2.0, 4.0], [0.5, 1.0]])
    one = np.random.default_rng(0).normal(size=2)
    with pytest.raises(ValueError, match=message):  # as float32, their directions differ in the last digits
        DomainAdapter("whiten").fit(np.outer([0.1, 3.0, 7.0], one))


@pytest.mark.parametrize("method", ["whiten", "coral"])
def test_a_method_set_after_fitting_must_be_fitted_again(rng, method):
    vectors = rng.normal(size=(6, 3))
    adapter = DomainAdapter("center").fit(vectors).set_params(method=method)
    for asked in (lambda: adapter.transform(vectors), lambda: adapter.report(list(vectors), [0, 0, 0, 1, 1, 1])):
        with pytest.raises(NotFittedError):
            asked()


# The report


def test_the_report_is_prototypes_with_each_example_left_out_in_turn(rng):
    y = np.array(["a", "b", "a", "c", "b", "b", "c", "lone"])
    before, after = rng.normal(size=(8, 4)), rng.normal(size=(8, 4))
    report = AdaptationReport.compare("center", before, after, y)
    for vectors, accuracy, rank in (
        (before, report.accuracy_before, report.rank_before),
        (after, report.accuracy_after, report.rank_after),
    ):
        right, beaten = [], []
        for place in range(7):
            rest = np.arange(8) != place
            learned = PrototypeClassifier().fit(vectors[rest], y[rest])
            scores = dict(zip(learned.classes_, learned.scores(vectors[[place]])[0], strict=True))
            right.append(learned.predict(vectors[[place]])[0] == y[place])
            beaten.append(np.mean([scores[c] < scores[y[place]] for c in scores if c != y[place]]))
        assert accuracy == pytest.approx(np.mean(right))
        assert rank == pytest.approx(np.mean(beaten))
    assert (report.n_classes, report.n_evaluated) == (4, 7)
    assert report.gain == pytest.approx(report.rank_after - report.rank_before)


def test_the_report_of_an_adapter_compares_what_it_was_given_with_what_it_makes(rng):
    target, y = rng.normal(1.0, 1.0, (12, 4)), np.repeat([0, 1, 2], 4)
    adapter = DomainAdapter("whiten").fit(target)
    assert adapter.report(target, y) == AdaptationReport.compare("whiten", target, adapter.transform(target), y)


def test_the_report_tells_help_from_harm(rng):
    y = np.repeat(["a", "b", "c"], 5)
    good, bad = np.repeat(np.eye(3), 5, axis=0) + 0.1 * rng.normal(size=(15, 3)), rng.normal(size=(15, 3))
    helped, harmed = AdaptationReport.compare("whiten", bad, good, y), AdaptationReport.compare("whiten", good, bad, y)
    assert (helped.helped, harmed.helped) == (True, False)
    assert "'whiten' helped: leave-one-out accuracy on 15 examples was" in helped.summary
    assert "100 % after" in helped.summary
    assert "'whiten' did harm" in harmed.summary


def test_one_example_a_class_cannot_tell(rng):
    vectors = rng.normal(size=(3, 4))
    report = AdaptationReport.compare("center", vectors, vectors, ["a", "b", "c"])
    assert report.helped is None
    assert report.n_evaluated == 0
    assert np.isnan([report.accuracy_before, report.accuracy_after, report.gain]).all()
    assert "with one example a class none can be left out" in report.summary


def test_one_class_cannot_tell(rng):
    report = AdaptationReport.compare("center", np.eye(3), np.eye(3), ["a", "a", "a"])
    assert report.helped is None
    assert "the support holds 1 class: at least two are needed" in report.summary


# The benchmark


@pytest.mark.parametrize("method", ["center", "whiten"])
def test_the_adapted_classifier_is_the_adapter_fitted_on_support_and_queries(rng, method):
    support, query = rng.normal(1.0, 1.0, (10, 6)), rng.normal(1.0, 1.0, (30, 6))
    y = np.repeat(np.arange(5), 2)
    adapter = DomainAdapter(method).fit(np.concatenate([support, query]))
    alone = PrototypeClassifier().fit(adapter.transform(support), y).scores(adapter.transform(query))
    found = AdaptedClassifier(PrototypeClassifier(), adaptation=method).fit(support, y)
    assert_allclose(found.scores(query), alone, atol=1e-4)
    assert_array_equal(found.predict(query), alone.argmax(1))


@pytest.mark.parametrize("method", ["center", "whiten"])
@pytest.mark.parametrize("d", [4, 40])
def test_many_episodes_with_padding_score_as_each_alone(rng, method, d):
    support = rng.normal(1.0, 1.0, (3, 6, d)).astype(np.float32)
    labels = np.array([[0, 0, 1, 1, 2, 2], [0, 1, 2, -1, -1, -1], [2, -1, 0, 1, 1, -1]])
    query = rng.normal(1.0, 1.0, (3, 5, d)).astype(np.float32)
    classifier = AdaptedClassifier(PrototypeClassifier(), adaptation=method)
    together = classifier.episode_scores(*map(torch.from_numpy, (support, labels, query))).numpy()
    for number in range(3):
        own = labels[number] >= 0
        alone = clone(classifier).fit(support[number, own], labels[number, own])
        assert_allclose(together[number], alone.scores(query[number]), atol=1e-4)


def test_a_single_query_is_answered_by_the_classifier_itself(rng):
    support, query = rng.normal(3.0, 1.0, (4, 6)), rng.normal(3.0, 1.0, (1, 6))
    y = ["a", "b", "a", "b"]
    found = AdaptedClassifier(PrototypeClassifier()).fit(support, y)
    plain = PrototypeClassifier().fit(support, y)
    assert_allclose(found.scores(query), plain.scores(query), rtol=1e-6)
    assert_array_equal(found.predict_proba(query).argmax(1), plain.scores(query).argmax(1))


def test_in_the_benchmark_an_adapted_method_is_named_and_marked_transductive(rng):
    methods = select_methods(["prototype", "prototype+center", "nearest+whiten"])
    assert {name: method.transductive for name, method in methods.items()} == {
        "prototype": False,
        "prototype+center": True,
        "nearest+whiten": True,
    }
    made = {name: method() for name, method in methods.items()}
    assert made["prototype+center"].transductive
    text = describe_classifier(made["prototype+center"])
    assert "adaptation='center', classifier=PrototypeClassifier, classifier__metric='cosine'" in text

    y = np.repeat(np.arange(8), 20)
    X = np.eye(8, 10)[y] + rng.normal(0.0, 0.5, (160, 10)) + 5.0
    result = run_benchmark(made, X, EpisodeSampler(y, n_way=5, n_shot=1, n_query=10, n_episodes=200), device="cpu")
    assert result.paired("prototype+center", "prototype").significant
    assert result.paired("prototype+center", "prototype").difference > 0.02


def test_the_groups_hold_no_adapted_method_and_unknown_ones_are_refused():
    assert list(select_methods(["all"])) == list(METHODS)
    with pytest.raises(
        ValueError, match=r"no method is called 'prototype\+coral'.*each also with \+center or \+whiten"
    ):
        select_methods(["prototype+coral"])
    with pytest.raises(ValueError, match="adaptation must be one of 'center', 'whiten', not 'coral'"):
        AdaptedClassifier(PrototypeClassifier(), adaptation="coral").fit(np.eye(2), ["a", "b"])
