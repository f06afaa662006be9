"""Distribution calibration against its formula, with loops in float64, and its fit against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.special import softmax
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression

from fewshot.classifiers.distribution_calibration import DistributionCalibrationClassifier
from fewshot.classifiers.logistic import LogisticRegressionClassifier


def transformed(x, power=0.5):
    x = np.asarray(x, float)
    x = np.sign(x) * np.abs(x) ** power
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.fixture(scope="module")
def base():
    """Five Gaussian classes of several sizes and shapes, of either sign."""
    rng = np.random.default_rng(0)
    labels = np.repeat(list("abcde"), [8, 8, 31, 2, 8])  # of one size too: their draws must differ
    means = {label: rng.normal(size=6) for label in "abcde"}
    mixes = {label: 0.5 * rng.normal(size=(6, 6)) for label in "abcde"}
    vectors = np.stack([means[label] + mixes[label] @ rng.normal(size=6) for label in labels])
    order = rng.permutation(len(labels))
    return vectors[order].astype(np.float32), labels[order]


@pytest.fixture(scope="module")
def task():
    rng = np.random.default_rng(1)
    y = np.array([0, 1, 1, 2, 2, 2])
    means = rng.normal(size=(3, 6))
    x = means[y] + 0.4 * rng.normal(size=(6, 6))
    queries = means[rng.integers(3, size=20)] + 0.4 * rng.normal(size=(20, 6))
    return x.astype(np.float32), y, queries.astype(np.float32)


def calibrated(vector, base, k, alpha):
    """Eq. 4-6 for a transformed support vector: mean and covariance of what is drawn around it."""
    vectors, labels = transformed(base[0]), base[1]
    means, covariances = {}, {}
    for label in np.unique(labels):
        own = vectors[labels == label]
        means[label], covariances[label] = own.mean(axis=0), np.cov(own.T)
    near = sorted(means, key=lambda label: np.sum((means[label] - vector) ** 2))[:k]
    mean = (sum(means[label] for label in near) + vector) / (k + 1)
    covariance = sum(covariances[n] + alpha * np.trace(covariances[n]) / len(vector) for n in near) / k
    return mean, covariance


def fitted_to(classifier, x, y, monkeypatch):
    """What the regression is fitted to: the vectors, and the class of each."""
    seen = []
    real = LogisticRegressionClassifier.solve

    def solve(self, *given):
        seen.append(given)
        return real(self, *given)

    monkeypatch.setattr(LogisticRegressionClassifier, "solve", solve)
    classifier.fit(x, y)
    ((vectors, targets),) = seen
    assert targets.sum(-1).eq(1).all()
    return vectors[0].double().numpy(), targets[0].argmax(-1).numpy()


@pytest.mark.parametrize(("k", "alpha"), [(1, 0.0), (2, 0.3), (3, 0.0)])
def test_examples_have_the_mean_and_covariance_of_the_formula(base, task, monkeypatch, k, alpha):
    x, y, _ = task
    many = DistributionCalibrationClassifier(
        base=base[0], base_labels=base[1], n_neighbors=k, alpha=alpha, n_samples=30_000, tol=100.0
    )
    vectors, classes = fitted_to(many, x, y, monkeypatch)
    assert_allclose(vectors[: len(x)], transformed(x), atol=1e-6)
    assert classes[: len(x)].tolist() == y.tolist()
    assert np.bincount(classes).tolist() == [30_001, 30_002, 30_003]
    for c in range(3):
        drawn, own = vectors[len(x) :][classes[len(x) :] == c], transformed(x[y == c])
        for number, vector in enumerate(own):
            some = drawn[number :: len(own)]
            mean, covariance = calibrated(vector, base, k, alpha)
            spread = np.sqrt(np.diag(covariance))
            assert_allclose((some.mean(axis=0) - mean) / spread, 0.0, atol=5 / np.sqrt(len(some)))
            difference = (np.cov(some.T) - covariance) / np.outer(spread, spread)
            assert_allclose(difference, 0.0, atol=7 / np.sqrt(len(some)))


@pytest.mark.parametrize("n_samples", [1, 4, 100])  # with the support 9 vectors, 18 and 306
@pytest.mark.parametrize("d", [6, 12])
def test_the_regression_is_scikit_learns_on_the_same_examples(base, task, monkeypatch, n_samples, d):
    x, y, q = (part if part.ndim == 1 else np.tile(part, (1, d // 6)) for part in task)
    given = {"base": np.tile(base[0], (1, d // 6)), "base_labels": base[1]}
    ours = DistributionCalibrationClassifier(**given, n_samples=n_samples, C=2.0)
    vectors, classes = fitted_to(ours, x, y, monkeypatch)
    theirs = LogisticRegression(C=2.0, tol=1e-8, max_iter=10_000).fit(vectors, classes)
    assert_allclose(softmax(ours.scores(q), axis=1), theirs.predict_proba(transformed(q)), atol=1e-3)


def test_without_a_base_it_is_logistic_regression_on_transformed_vectors(task):
    x, y, q = task
    wanted = LogisticRegressionClassifier(C=1.0).fit(transformed(x, 0.7), y).scores(transformed(q, 0.7))
    assert_allclose(DistributionCalibrationClassifier(power=0.7).fit(x, y).scores(q), wanted, atol=1e-5)


def test_the_base_helps_where_all_classes_spread_alike():
    """Two broad directions say nothing of the class: one example cannot tell, 20 base classes can."""
    rng = np.random.default_rng(0)
    scale = np.array([3.0, 3.0, *[0.3] * 8])
    means = np.hstack([np.zeros((30, 2)), rng.normal(size=(30, 8))])
    labels = np.repeat(np.arange(20), 30)
    base = means[labels] + scale * rng.normal(size=(600, 10))
    right = {"with": 0, "without": 0}
    for _ in range(10):
        classes = rng.permutation(np.arange(20, 30))[:5]
        x, asked = (means[np.repeat(classes, n)] + scale * rng.normal(size=(5 * n, 10)) for n in (1, 10))
        for name, given in (("with", {"base": base, "base_labels": labels}), ("without", {})):
            classifier = DistributionCalibrationClassifier(n_samples=50, tol=1e-2, **given).fit(x, classes)
            right[name] += int((classifier.predict(asked) == np.repeat(classes, 10)).sum())
    assert right["with"] > right["without"] + 50  # of 500


def test_a_seed_gives_the_same_scores_and_another_others(base, task):
    x, y, q = task
    classifier = DistributionCalibrationClassifier(base=base[0], base_labels=base[1], n_samples=30)
    first, again = clone(classifier).fit(x, y).scores(q), clone(classifier).fit(x, y).scores(q)
    other = clone(classifier).set_params(random_state=1).fit(x, y).scores(q)
    assert first.tobytes() == again.tobytes()
    assert np.abs(first - other).max() > 0.01


def test_the_statistics_follow_the_base_and_are_not_made_twice(base, task, monkeypatch):
    x, y, q = task
    made = []
    real = DistributionCalibrationClassifier._statistics
    monkeypatch.setattr(DistributionCalibrationClassifier, "_statistics", lambda *given: made.append(1) or real(*given))
    vectors = base[0].copy()
    classifier = DistributionCalibrationClassifier(base=vectors, base_labels=base[1], n_samples=30).fit(x, y)
    before = classifier.scores(q)
    classifier.partial_fit(x, y)
    assert len(made) == 1
    vectors *= np.float32([1, -1, 1, -1, 1, -1])  # in place
    changed = classifier.fit(x, y).scores(q)
    assert np.abs(changed - before).max() > 0.01
    classifier.set_params(base=base[0])
    support, labels, query = (torch.from_numpy(part)[None] for part in (x, y, q))
    assert_allclose(classifier.episode_scores(support, labels, query)[0], before, atol=1e-6)
    assert len(made) == 3


def test_many_episodes_at_once_are_fitted_in_parts(base, task, monkeypatch):
    x, y, q = task
    classifier = DistributionCalibrationClassifier(base=base[0], base_labels=base[1], n_samples=30)
    rng = np.random.default_rng(2)
    support, query = (torch.tensor(part + rng.normal(size=(7, 1, 6)), dtype=torch.float32) for part in (x, q))
    labels = torch.tensor(y).expand(7, -1)
    whole = classifier.episode_scores(support, labels, query)
    monkeypatch.setattr("fewshot.classifiers.distribution_calibration._CPU_BYTES", 2 * 3 * 30 * 6 * 4)
    assert_allclose(classifier.episode_scores(support, labels, query), whole, atol=1e-4)


def test_a_class_without_examples_in_an_episode_draws_none(base, task):
    x, y, q = (torch.tensor(part)[None] for part in task)
    classifier = DistributionCalibrationClassifier(base=base[0], base_labels=base[1], n_samples=30)
    labels = torch.where(y == 2, -1, y)
    two, three = (classifier.episode_scores(x, labels, q, n_classes=n) for n in (2, 3))
    assert two.argmax(-1).equal(three.argmax(-1))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"base_labels": None}, "base is given without base_labels: give both or neither"),
        ({"base": None}, "base_labels is given without base: give both or neither"),
        ({"base": [[0.0, 1.0]] * 4}, r"base: expected vectors of shape \(n, 6\), got \(4, 2\)"),
        ({"base": [[np.nan] * 6] * 57}, "base: vector 0 of 57 holds NaN or infinity"),
        ({"base_labels": ["a"] * 4}, "base: found 57 vectors but 4 labels"),
        ({"base_labels": ["a"] * 57}, "n_neighbors=2 base classes are needed, but base holds 1"),
        ({"base_labels": ["a"] * 56 + ["z"]}, "base class 'z' has one example, which has no covariance; give it"),
        ({"power": 0}, "power must be above 0, not 0"),
        ({"alpha": -0.1}, r"alpha must be 0 or above, not -0\.1"),
        ({"n_neighbors": 0}, "n_neighbors must be a whole number of at least 1, not 0"),
        ({"n_samples": 0}, "n_samples must be a whole number of at least 1, not 0"),
        ({"random_state": -1}, "random_state must be a whole number of at least 0, not -1"),
    ],
)
def test_what_cannot_be_calibrated_is_refused_with_both_values(base, task, settings, message):
    given = {"base": base[0], "base_labels": base[1], **settings}
    with pytest.raises(ValueError, match=message):
        DistributionCalibrationClassifier(**given).fit(*task[:2])
