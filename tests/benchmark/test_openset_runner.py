"""Open-set episodes judged as scikit-learn does, many at once as one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from openset_data import sampler
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from fewshot import NearestNeighborClassifier, WhitenedPrototypeClassifier
from fewshot.benchmark.openset_runner import METRICS, openset_metrics, run_openset_benchmark
from fewshot.classifiers.membership import Membership
from fewshot.openset.background import Background
from fewshot.openset.unknown_scores import SCORES, KnownClasses


@pytest.mark.parametrize("ties", [False, True], ids=["no draws", "many draws"])
def test_the_metrics_are_scikit_learns_and_the_brute_forces(ties):
    rng = np.random.default_rng(2)
    known, unknown = rng.normal(size=(8, 30)), rng.normal(1.0, size=(8, 20))
    if ties:
        known, unknown = known.round(), unknown.round()
    correct = rng.random((8, 30)) < 0.8
    found = openset_metrics(torch.tensor(known), torch.tensor(unknown), torch.tensor(correct))
    for e in range(8):
        truth, both = np.repeat([0, 1], [30, 20]), np.concatenate([known[e], unknown[e]])
        assert_allclose(found.auroc[e], roc_auc_score(truth, both), rtol=1e-6)
        assert_allclose(found.aupr[e], average_precision_score(truth, both), rtol=1e-6)
        lines = np.unique(both)
        wrongly = np.array([0.0, *((unknown[e] <= line).mean() for line in lines)])
        rightly = np.array([0.0, *(((known[e] <= line) & correct[e]).mean() for line in lines)])
        assert_allclose(found.oscr[e], (np.diff(wrongly) * (rightly[1:] + rightly[:-1]) / 2).sum(), rtol=1e-6)
        line = min(line for line in lines if (known[e] <= line).mean() >= 0.95)
        assert_allclose(found.fpr95[e], (unknown[e] <= line).mean())
        accepted = both <= line
        assert_allclose(found.accepted_accuracy[e], (accepted[:30] & correct[e]).sum() / accepted.sum())
        # With known as the positive, scikit-learn's curve says the same of the line.
        shares = roc_curve(1 - truth, -both, drop_intermediate=False)
        assert_allclose(found.fpr95[e], shares[0][shares[1] >= 0.95 - 1e-12][0])


def test_a_score_that_tells_all_apart_is_perfect_and_its_opposite_is_not():
    known, unknown, correct = torch.zeros(1, 4), torch.ones(1, 4), torch.tensor([[True, True, True, False]])
    best, worst = openset_metrics(known, unknown, correct), openset_metrics(unknown, known, correct)
    assert [getattr(best, name)[0] for name in METRICS] == [1.0, 1.0, 0.0, 0.75, 0.75]
    assert [getattr(worst, name)[0] for name in METRICS] == [0.0, 0.5, 1.0, 0.0, 0.375]


@pytest.mark.parametrize("n_query", [5, 40], ids=["many episodes a batch", "long episodes"])
def test_episodes_at_once_are_judged_as_one_by_one(data, others, n_query):
    X, y = np.concatenate([data[0]] * 3), np.concatenate([data[1]] * 3)
    background = Background.of(*others)
    asked = sampler(y, n_query=n_query, n_episodes=20)
    result = run_openset_benchmark(list(SCORES), X, asked, background=background)
    (chunk,) = asked
    for e in (0, 7, 19):
        support, labels = X[chunk.support[e, :6]], chunk.support_labels[e, :6]
        assert set(y[chunk.support[e, :6]]).isdisjoint(y[chunk.query[e, 3 * n_query :]])  # genuinely unknown
        known = KnownClasses.of(torch.tensor(support[None]), Membership(torch.tensor(labels[None]), 3), background)
        truth = np.repeat([0, 1], 3 * n_query)
        for name, score in SCORES.items():
            values = score(known, torch.tensor(X[chunk.query[e]][None]))[0].numpy()
            assert_allclose(result[name].auroc[e], roc_auc_score(truth, values), atol=2e-3)
        named = WhitenedPrototypeClassifier().fit(support, labels).predict(X[chunk.query[e, : 3 * n_query]])
        assert_allclose(result.accuracy[e], (named == chunk.query_labels[e, : 3 * n_query]).mean(), atol=1e-6)


def test_the_classifier_asked_for_names_the_known(data):
    X, y = data
    first = run_openset_benchmark(["cosine"], X, sampler(y))
    second = run_openset_benchmark(
        ["cosine"], X, sampler(y), classifier=NearestNeighborClassifier(metric="sqeuclidean")
    )
    assert_allclose(first["cosine"].auroc, second["cosine"].auroc)
    assert (first.accuracy != second.accuracy).any()
    assert first["cosine"].oscr.mean() <= first.accuracy.mean()


def test_means_and_paired_differences_carry_the_textbooks_interval(data):
    X, y = data
    result = run_openset_benchmark(["centered", "softmax"], X, sampler(y))
    first, second = result["centered"].auroc, result["softmax"].auroc
    assert_allclose(result["centered"].mean("auroc"), (first.mean(), 1.96 * first.std(ddof=1) / np.sqrt(60)))
    difference = first - second
    expected = (difference.mean(), 1.96 * difference.std(ddof=1) / np.sqrt(60))
    assert_allclose(result.paired("centered", "softmax"), expected)


@pytest.mark.parametrize(
    ("scores", "changes", "message"),
    [
        (["cosine"], {"n_way": 5}, "n_way must be even, .* not 5,"),
        (["cosine"], {"n_shot": "various"}, "n_shot a number .* not 6, 'various' and None"),
        (["cosine"], {"query_imbalance": 2.0, "n_query": 2}, "query_imbalance None, not 6, [0-9]+ and 2.0"),
        (["mahalanobis"], {}, "'mahalanobis' compares with a background"),
        (["entropy"], {}, "score must be one of 'softmax', .* not 'entropy'"),
    ],
)
def test_what_cannot_be_judged_is_refused(data, scores, changes, message):
    X, y = data
    with pytest.raises(ValueError, match=message):
        run_openset_benchmark(scores, X, sampler(y, **changes))


def test_vectors_of_other_data_are_refused(data):
    X, y = data
    with pytest.raises(ValueError, match="X has 100 rows, but the sampler was given 360 labels"):
        run_openset_benchmark(["cosine"], X[:100], sampler(y))
