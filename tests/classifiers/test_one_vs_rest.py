"""Yes or no for each class: exact left-out outputs, calibrated probabilities, a threshold of the highest F1."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.metrics import f1_score

from fewshot import MultiLabelClassifier
from fewshot.classifiers.one_vs_rest import _best_f1, _ridge


def task(n=60, d=24, c=5, seed=0):
    rng = np.random.default_rng(seed)
    centers = rng.standard_normal((c, d))
    y = rng.random((n, c)) < 0.3
    return y @ centers + rng.standard_normal((n, d)) * 0.7, y


@pytest.mark.parametrize("n", [15, 60])  # fewer and more than dimensions
def test_outputs_are_those_of_ridge_regression_and_left_out_ones_of_one_fitted_without(n):
    x, y = task(n)
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    weights, leverage = _ridge(x - x.mean(0), y - y.mean(0), 0.01)
    ridge = Ridge(alpha=0.01 * n).fit(x, y)
    np.testing.assert_allclose(weights.T, ridge.coef_, atol=1e-8)
    for row in (0, n - 1):
        others = np.arange(n) != row
        # scikit-learn's centres on the others' mean; the penalty is of as many examples as before
        expected = Ridge(alpha=0.01 * n).fit(x[others], y[others]).predict(x[[row]])[0]
        residual = y[row] - y.mean(0) - (x[row] - x.mean(0)) @ weights
        np.testing.assert_allclose(y[row] - residual / (1 - leverage[row] - 1 / n), expected, atol=1e-8)


def test_probabilities_are_calibrated_and_the_left_out_ones_tell_how_well_new_ones_are_ranked():
    x, y = task(300)
    query, truth = task(2000)[0], task(2000)[1]
    fitted = MultiLabelClassifier().fit(x, y)
    p = fitted.predict_proba(query)
    bins = np.minimum((10 * p).astype(int), 9)
    assert sum(abs((p - truth)[bins == n].sum()) for n in range(10)) / p.size < 0.03
    new, left_out = (
        f1_score(t.ravel(), (q >= fitted.threshold_).ravel()) for q, t in ((p, truth), (fitted.leave_one_out_, y))
    )
    assert abs(new - left_out) < 0.05
    assert new > 0.8


def test_the_threshold_is_of_the_highest_f1():
    rng = np.random.default_rng(1)
    p, y = rng.random(80).round(2), (rng.random(80) < 0.4).astype(float)
    best = max(f1_score(y, p >= t, zero_division=0) for t in np.linspace(0.1, 0.9, 801))
    assert f1_score(y, p >= _best_f1(p, y)) == pytest.approx(best)
    assert _best_f1(p, np.zeros(80)) == 0.5


def test_one_example_of_each_class_gets_the_class_and_no_threshold_can_be_chosen():
    fitted = MultiLabelClassifier().fit(np.eye(3), np.eye(3))
    assert (fitted.threshold_, np.isnan(fitted.leave_one_out_).sum()) == (0.5, 3)
    assert fitted.predict_proba(np.eye(3)).argmax(1).tolist() == [0, 1, 2]


def test_a_class_that_all_or_none_have_gets_about_its_share():
    x, y = task(20)
    y[:, 0], y[:, 1] = True, False
    p = MultiLabelClassifier().fit(x, y).predict_proba(x)
    assert np.ptp(p[:, :2], axis=0).max() == 0
    assert p[0, 0] > 0.5 > p[0, 1]


def test_the_length_of_a_vector_does_not_matter():
    x, y = task()
    fitted = MultiLabelClassifier().fit(x, y)
    np.testing.assert_allclose(fitted.predict_proba(3 * x), fitted.predict_proba(x))


def test_a_given_threshold_is_used():
    x, y = task()
    fitted = MultiLabelClassifier(threshold=0.9).fit(x, y)
    assert np.array_equal(fitted.predict(x), fitted.predict_proba(x) >= 0.9)


@pytest.mark.parametrize(
    ("settings", "labels", "message"),
    [
        ({"penalty": 0.0}, np.eye(3), "penalty must be above 0, not 0.0"),
        ({"threshold": 1.0}, np.eye(3), r"threshold must be in \(0, 1\), not 1.0"),
        ({}, np.eye(2), r"expected Y of shape \(3, c\).*got shape \(2, 2\)"),
        ({}, [0, 1, 2], r"got shape \(3,\)"),
        ({}, 2 * np.eye(3), "of zeros and ones"),
    ],
)
def test_wrong_input_is_refused_with_what_was_given(settings, labels, message):
    with pytest.raises(ValueError, match=message):
        MultiLabelClassifier(**settings).fit(np.eye(3), labels)
