from __future__ import annotations

import numpy as np
import pytest

from fewshot import WhitenedPrototypeClassifier
from fewshot.diagnosis import ClassNeeds, LearningCurve, learning_curve, left_out

HALF = LearningCurve((), 0.5)


def test_more_examples_take_away_a_share_of_a_classs_error():
    needs = ClassNeeds(np.array([2, 4]), np.array([0.10, 0.04]), HALF)
    left = 1 / (0.14 + 0.86 * 2.0)  # with four times the examples, at an error of 0.14
    assert needs.gains(np.array([6, 0])).tolist() == pytest.approx([0.10 * (1 - left), 0.0])
    more = [0.10 * (1 - 1 / (0.14 + 0.86 * 1.5**0.5)), 0.04 * (1 - 1 / (0.14 + 0.86 * 1.25**0.5))]
    assert needs.gains().tolist() == pytest.approx(more)


def test_the_plan_adds_where_one_more_brings_most():
    needs = ClassNeeds(np.array([4, 4, 8]), np.array([0.20, 0.01, 0.01]), HALF)
    plan = needs.plan()
    assert plan.more.tolist()[1:] == [0, 0]
    more = plan.more[0]
    steps = [needs.gains(np.array([n, 0, 0]))[0] for n in range(more + 2)]
    assert more >= 2
    assert steps[more] - steps[more - 1] >= 0.6 * steps[1] > steps[more + 1] - steps[more]
    assert plan.gain == pytest.approx(steps[more])
    assert plan.rest == pytest.approx(needs.gains()[1:].sum())
    assert plan.doubled == pytest.approx(0.22 * (1 - 1 / (0.22 + 0.78 * 2**0.5)))


def test_no_class_is_planned_to_more_than_double():
    assert ClassNeeds(np.array([1, 2]), np.array([0.01, 0.0]), LearningCurve((), 1e-3)).plan().more.tolist() == [1, 0]


def test_equal_classes_are_planned_alike():
    assert len(set(ClassNeeds(np.full(5, 3), np.full(5, 0.02), HALF).plan().more.tolist())) == 1


def test_nothing_is_planned_where_there_is_no_error_to_lose():
    plan = ClassNeeds(np.array([3, 3]), np.zeros(2), HALF).plan()
    assert plan.more.tolist() == [0, 0]
    assert plan.gain == plan.doubled == 0.0


def test_the_classes_share_the_error_of_leave_one_out_as_it_would_be_with_all(examples):
    X, codes = examples
    found = left_out(WhitenedPrototypeClassifier(), X, codes)
    curve = learning_curve(WhitenedPrototypeClassifier(), X, codes, found, groups=np.arange(len(codes)))
    needs = ClassNeeds.of(found, codes, np.full(12, 5), curve)
    wrong = 1.0 - found.correct.mean()
    odds = wrong / (1 - wrong) * (5 / 4) ** -curve.exponent
    assert needs.error.sum() == pytest.approx(odds / (1 + odds))
    doubt = np.bincount(codes, 1.0 - found.own) + found.mistaken_for * len(codes)
    assert np.argsort(needs.error).tolist() == np.argsort(doubt).tolist()


def test_a_class_of_one_has_more_to_gain_than_one_of_five(examples):
    X, codes = examples
    kept = np.r_[0, 5 : len(codes)]  # one of the first class
    found = left_out(WhitenedPrototypeClassifier(), X[kept], codes[kept])
    curve = learning_curve(WhitenedPrototypeClassifier(), X[kept], codes[kept], found, groups=np.arange(len(kept)))
    gains = ClassNeeds.of(found, codes[kept], np.r_[1, np.full(11, 5)], curve).gains()
    assert gains.argmax() == 0
