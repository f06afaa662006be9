"""Each method against an independent derivation of its formula: loops in float64, autograd, or scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.special import softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.utils import compute_sample_weight
from torch.nn.functional import cosine_similarity, cross_entropy

from fewshot.classifiers.cache_classifier import CacheClassifier
from fewshot.classifiers.cosine_head import CosineHeadClassifier
from fewshot.classifiers.discriminant import LinearDiscriminantClassifier, MahalanobisClassifier
from fewshot.classifiers.logistic import LogisticRegressionClassifier
from fewshot.classifiers.matching import MatchingClassifier
from fewshot.classifiers.prototype import PrototypeClassifier
from fewshot.classifiers.ridge import RidgeClassifier
from fewshot.classifiers.simple_shot import SimpleShotClassifier


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.fixture(params=[(5, 5, 5, 5, 5), (1, 1, 1, 1), (1, 7, 2)], ids=["five", "one", "uneven"])
def task(request):
    """Support, labels, queries: Gaussian classes away from the origin, as many embeddings lie."""
    rng = np.random.default_rng(0)
    counts = request.param
    y = np.repeat(np.arange(len(counts)), counts)
    means = 1.0 + rng.normal(size=(len(counts), 48))
    x = means[y] + 0.8 * rng.normal(size=(len(y), 48))
    queries = means[rng.integers(len(counts), size=30)] + 0.8 * rng.normal(size=(30, 48))
    return x.astype(np.float32), y, queries.astype(np.float32)


def test_simpleshot_is_the_nearest_mean_of_centred_unit_vectors(task):
    x, y, q = task
    centre = np.random.default_rng(1).normal(size=x.shape[1])
    placed, asked = unit(x - centre), unit(q - centre)
    means = np.stack([placed[y == c].mean(0) for c in np.unique(y)])
    wanted = -((asked[:, None] - means) ** 2).sum(-1)
    classifier = SimpleShotClassifier(center=centre).fit(x, y)
    assert_allclose(classifier.scores(q), wanted, atol=1e-5)


def test_simpleshot_without_a_centre_normalises_only_and_never_centres_on_the_support():
    classifier = SimpleShotClassifier().fit([[3.0, 4.0], [0.0, 2.0]], ["a", "b"])
    # (1, 0) from (0.6, 0.8): 0.16 + 0.64; from (0, 1): 1 + 1
    assert_allclose(classifier.scores([[5.0, 0.0]]), [[-0.8, -2.0]], atol=1e-6)


def test_a_centre_of_another_length_is_refused():
    with pytest.raises(ValueError, match=r"center has shape \(3,\), but the embeddings need \(2,\)"):
        SimpleShotClassifier(center=[0, 0, 0]).fit([[3.0, 4.0]], ["a"])


def test_matching_sums_the_attention_of_each_class(task):
    x, y, q = task
    attention = softmax(10 * unit(q) @ unit(x).T, axis=1)
    wanted = np.stack([attention[:, y == c].sum(1) for c in np.unique(y)], axis=1)
    classifier = MatchingClassifier().fit(x, y)
    assert_allclose(classifier.scores(q), wanted, atol=1e-5)


def test_the_cache_sums_the_kernel_of_each_class(task):
    x, y, q = task
    votes = np.exp(-5.5 * (1 - unit(q) @ unit(x).T))
    wanted = np.stack([votes[:, y == c].sum(1) for c in np.unique(y)], axis=1)
    classifier = CacheClassifier().fit(x, y)
    assert_allclose(classifier.scores(q), wanted, rtol=1e-4)


def test_ridge_is_scikit_learns_on_unit_vectors_without_intercept(task):
    x, y, q = task
    targets = np.eye(y.max() + 1)[y]
    weights = compute_sample_weight("balanced", y)
    wanted = Ridge(alpha=0.5, fit_intercept=False).fit(unit(x), targets, weights).predict(unit(q))
    assert_allclose(RidgeClassifier(penalty=0.5).fit(x, y).scores(q), wanted, atol=1e-5)


def test_two_classes_of_logistic_regression_have_scikit_learns_margin_and_probabilities():
    x, y = np.eye(2), [0, 1]
    theirs = LogisticRegression(C=1.0, tol=1e-10).fit(x, y)
    ours = LogisticRegressionClassifier(C=1.0).fit(x, y)
    scores = ours.scores(x)
    assert_allclose(scores[:, 1] - scores[:, 0], theirs.decision_function(x), atol=1e-4)
    assert_allclose(scores[1, 1] - scores[1, 0], 0.401, atol=1e-3)
    assert_allclose(softmax(scores, axis=1), theirs.predict_proba(x), atol=1e-4)


@pytest.mark.parametrize("C", [0.1, 1.0, 10.0])
def test_logistic_regression_is_scikit_learns_on_unit_vectors(task, C):
    x, y, q = task
    for c in (2, 3, y.max() + 1):
        some = y < c
        theirs = LogisticRegression(C=C, class_weight="balanced", tol=1e-8, max_iter=10_000)
        theirs.fit(unit(x)[some], y[some])
        ours = LogisticRegressionClassifier(C=C).fit(x[some], y[some])
        assert_allclose(softmax(ours.scores(q), axis=1), theirs.predict_proba(unit(q)), atol=1e-3)
        assert 1 < ours.n_iter_ < 2000


def test_logistic_regressions_penalty_follows_the_number_of_examples(task):
    x, y, q = task
    assert_allclose(
        LogisticRegressionClassifier().fit(x, y).scores(q),
        LogisticRegressionClassifier(C=len(x)).fit(x, y).scores(q),
        atol=1e-3,
    )


@pytest.mark.parametrize("kind", [RidgeClassifier, LogisticRegressionClassifier])
def test_a_class_of_one_example_is_predicted_beside_classes_of_many(kind):
    rng = np.random.default_rng(0)
    centers = 0.25 * np.eye(40)[:4] + 1
    sizes = [1, 9, 9, 9]
    y = np.repeat(np.arange(4), sizes)
    x = centers[y] + 0.05 * rng.normal(size=(28, 40))
    q = centers[[0] * 50] + 0.05 * rng.normal(size=(50, 40))
    assert (kind().fit(x, y).predict(q) == 0).mean() > 0.8


def test_logistic_regression_says_when_it_was_stopped_early(task):
    x, y, _ = task
    with pytest.warns(ConvergenceWarning, match=r"max_iter=3 steps .* raise max_iter or lower C"):
        LogisticRegressionClassifier(max_iter=3).fit(x, y)


def test_the_discriminant_uses_the_shrunk_precision_of_the_pooled_residuals(task):
    x, y, q = (part.astype(float) if part.dtype == np.float32 else part for part in task)
    d = x.shape[1]
    means = np.stack([x[y == c].mean(0) for c in np.unique(y)])
    residuals = x - means[y]
    scatter = residuals.T @ residuals
    spread = np.trace(scatter) / (len(x) - 1)
    precision = np.eye(d) if len(y) == len(means) else d * np.linalg.inv(scatter + spread * np.eye(d))
    wanted = q @ precision @ means.T - 0.5 * np.einsum("cd,de,ce->c", means, precision, means)
    found = LinearDiscriminantClassifier().fit(x, y).scores(q)
    difference = (found - found[:, :1]) - (wanted - wanted[:, :1])  # scores are known up to a constant of each query
    assert np.abs(difference).max() < 1e-4 * np.abs(wanted - wanted[:, :1]).max()


def test_the_discriminant_at_one_shot_decides_as_prototypes_do():
    rng = np.random.default_rng(0)
    x, q = rng.normal(size=(5, 16)), rng.normal(size=(50, 16))
    first, second = (
        classifier.fit(x, np.arange(5)).predict(q)
        for classifier in (LinearDiscriminantClassifier(), PrototypeClassifier(metric="sqeuclidean"))
    )
    assert first.tolist() == second.tolist()


@pytest.mark.parametrize("d", [48, 7], ids=["more dimensions than examples", "few dimensions"])
def test_mahalanobis_distances_are_under_each_classs_own_covariance(task, d):
    x, y, q = task
    x, q = x[:, :d].astype(float), q[:, :d].astype(float)
    everyone = np.cov(x.T)
    wanted = []
    for c in np.unique(y):
        mine = x[y == c]
        weight = len(mine) / (len(mine) + 1)
        own = np.cov(mine.T) if len(mine) > 1 else np.zeros((d, d))
        covariance = weight * own + (1 - weight) * everyone + 0.5 * np.eye(d)
        away = q - mine.mean(0)
        wanted.append(-0.5 * np.einsum("qd,de,qe->q", away, np.linalg.inv(covariance), away))
    found = MahalanobisClassifier(ridge=0.5).fit(x, y).scores(q)
    assert_allclose(found, np.stack(wanted, axis=1), rtol=1e-4)


@pytest.mark.parametrize("d", [640, 24])
def test_mahalanobis_is_right_also_with_a_ridge_below_what_float32_tells_apart_in_a_covariance(d):
    rng = np.random.default_rng(0)
    means, y = 30.0 * rng.normal(size=(20, d)), np.repeat(np.arange(20), 5)
    classifier = MahalanobisClassifier(ridge=1e-4).fit(means[y] + 10.0 * rng.normal(size=(len(y), d)), y)
    assert (classifier.predict(means) == np.arange(20)).all()
    assert (classifier.predict(means[y] + 10.0 * rng.normal(size=(len(y), d))) == y).all()


def test_the_cosine_head_takes_the_steps_that_autograd_would(task):
    x, y, q = task
    support, labels = torch.from_numpy(x), torch.from_numpy(y)
    u = support / support.norm(dim=1, keepdim=True)
    weight = torch.stack([u[labels == c].sum(0) for c in range(y.max() + 1)])
    weight = (weight / weight.norm(dim=1, keepdim=True)).requires_grad_()
    for _ in range(20):
        logits = 8.0 * cosine_similarity(support.unsqueeze(1), weight, dim=-1)
        (gradient,) = torch.autograd.grad(cross_entropy(logits, labels), weight)
        weight = (weight - 0.3 * gradient).detach().requires_grad_()
    wanted = cosine_similarity(torch.from_numpy(q).unsqueeze(1), weight.detach(), dim=-1)
    found = CosineHeadClassifier(scale=8.0, steps=20, learning_rate=0.3).fit(x, y).scores(q)
    assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("classifier", "message"),
    [
        (RidgeClassifier(penalty=0), "penalty must be above 0, not 0"),
        (LogisticRegressionClassifier(C=-1), "C must be above 0, not -1"),
        (LogisticRegressionClassifier(max_iter=0), "max_iter must be a whole number of at least 1, not 0"),
        (MahalanobisClassifier(ridge=0.0), r"ridge must be above 0, not 0\.0"),
        (CosineHeadClassifier(steps=-1), "steps must be a whole number of at least 0, not -1"),
    ],
)
def test_a_wrong_setting_is_refused_with_its_value(classifier, message):
    with pytest.raises(ValueError, match=message):
        classifier.fit([[0.0, 1.0], [1.0, 0.0]], ["a", "b"])
