from __future__ import annotations

import numpy as np
import pytest

from fewshot import PrototypeClassifier
from fewshot.diagnosis import CurvePoint, LearningCurve, learning_curve, left_out


@pytest.fixture(scope="module")
def many():
    rng = np.random.default_rng(1)
    codes = np.repeat(np.arange(20), 12)
    means = 0.6 * rng.normal(size=(20, 24))
    return (means[codes] + rng.normal(size=(240, 24))).astype(np.float32), codes


def curve_of(X, codes, groups=None, **settings):
    groups = np.arange(len(codes)) if groups is None else groups
    found = left_out(PrototypeClassifier(), X, codes, groups=groups)
    return learning_curve(PrototypeClassifier(), X, codes, found, groups=groups, **settings), found


def test_an_exponent_of_a_half_halves_the_odds_of_an_error_with_four_times_the_examples():
    curve = LearningCurve((CurvePoint(1.0, 0.5, 10),), 0.5)
    assert curve.remaining(1e-9, 4.0) == pytest.approx(0.5)
    assert 0.6 * curve.remaining(0.6, 4.0) == pytest.approx(0.75 / 1.75)  # odds of 1.5, and then of 0.75
    assert curve.remaining(0.6, np.array([1.0, 0.25])).tolist() == pytest.approx([1.0, 3.0 / 4.0 / 0.6])
    assert curve.remaining(1.0, 4.0) == 1.0


def test_the_curve_is_of_subsets_of_rising_size_and_ends_with_leave_one_out(many):
    curve, found = curve_of(*many)
    assert [point.shots for point in curve.points] == pytest.approx([1, 2, 3, 5, 8, 10.8], abs=0.3)
    assert curve.points[-1].accuracy == found.correct.mean()
    assert curve.points[0].accuracy < curve.points[2].accuracy < curve.points[-1].accuracy
    assert 0.3 < curve.exponent < 1.0


def test_the_accuracy_from_few_is_that_of_fits_to_few(many):
    X, codes = many
    curve, _ = curve_of(X, codes)
    rng, right = np.random.default_rng(5), []
    for _ in range(40):
        chosen = np.array([rng.permutation(np.flatnonzero(codes == code))[:2] for code in range(20)]).ravel()
        rest = np.setdiff1d(np.arange(len(codes)), chosen)
        right.append((PrototypeClassifier().fit(X[chosen], codes[chosen]).predict(X[rest]) == codes[rest]).mean())
    assert curve.points[1].accuracy == pytest.approx(np.mean(right), abs=0.1)


def test_near_duplicates_add_no_shots(many):
    X, codes = many
    groups = np.arange(len(codes)) // 2 * 2
    curve, _ = curve_of(X[groups], codes, groups)  # six of each class, twice
    assert curve.points[-1].shots == pytest.approx(5.0)
    assert [point.shots for point in curve.points[:-1]] == pytest.approx([1, 2, 3])


def test_with_one_to_learn_from_the_exponent_is_what_is_expected_of_any(many):
    X, codes = many
    two = np.flatnonzero(np.arange(len(codes)) % 12 < 2)
    curve, _ = curve_of(X[two], codes[two])
    assert [point.shots for point in curve.points] == [1.0]
    assert curve.exponent == pytest.approx(0.5)


def test_the_same_random_state_draws_the_same_subsets(many):
    assert curve_of(*many, random_state=3)[0] == curve_of(*many, random_state=3)[0]
    assert curve_of(*many, random_state=3)[0] != curve_of(*many, random_state=4)[0]
