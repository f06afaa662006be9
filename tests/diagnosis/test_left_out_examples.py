from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from fewshot import LogisticRegressionClassifier, PrototypeClassifier, WhitenedPrototypeClassifier
from fewshot.diagnosis import LeftOut, group_counts, leave_out_rounds, left_out


def test_each_example_of_a_class_that_has_another_is_left_out_once():
    codes = np.array([0, 1, 0, 2, 2, 2, 0, 3])
    rounds = leave_out_rounds(codes)
    assert np.sum(rounds, axis=0).tolist() == [1, 0, 1, 1, 1, 1, 1, 0]
    for out in rounds:
        assert np.bincount(codes[out], minlength=4).max() == 1  # one of a class at a time


def test_a_tenth_of_a_large_class_is_left_out_at_a_time():
    codes = np.repeat([0, 1], [35, 2])
    rounds = leave_out_rounds(codes)
    assert len(rounds) == 10
    assert np.sum(rounds, axis=0).tolist() == [1] * 37
    assert {int(out[:35].sum()) for out in rounds} == {3, 4}


def test_what_belongs_together_is_left_out_together_and_counts_once():
    codes, groups = np.array([0, 0, 0, 1, 1]), np.array([0, 0, 2, 3, 3])
    rounds = leave_out_rounds(codes, groups)
    assert [np.flatnonzero(out).tolist() for out in rounds] == [[0, 1], [2]]  # class 1 would have nothing left
    assert group_counts(codes, groups, 2).tolist() == [2, 1]


@pytest.mark.parametrize("classifier", [PrototypeClassifier(), WhitenedPrototypeClassifier()])
def test_an_example_is_recognised_by_what_a_fit_to_the_others_says(classifier, examples):
    X, codes = examples
    found = left_out(classifier, X, codes)
    assert found.positions.tolist() == list(range(len(codes)))
    for out in leave_out_rounds(codes):
        fitted = type(classifier)().fit(X[~out], codes[~out])
        rows, own = np.flatnonzero(out), codes[out]
        scores, likely = fitted.scores_and_probabilities(X[out])
        assert_allclose(found.own[rows], likely[np.arange(len(own)), own], rtol=1e-5)
        assert found.correct[rows].tolist() == (fitted.predict(X[out]) == own).tolist()
        scores[np.arange(len(own)), own] = -np.inf
        assert found.rivals[rows].tolist() == np.argsort(-scores, axis=1)[:, :3].tolist()
    assert 0.2 < found.correct.mean() < 1.0
    assert set(found.shots.tolist()) == {4}


def test_what_is_mistaken_for_a_class_adds_up_to_what_the_own_classes_lack(examples):
    X, codes = examples
    found = left_out(WhitenedPrototypeClassifier(), X, codes)
    assert found.mistaken_for.sum() == pytest.approx(1.0 - found.own.mean(), rel=1e-4)  # classes of one size


def test_scores_in_blocks_are_those_in_one(examples, monkeypatch):
    X, codes = examples
    whole = left_out(LogisticRegressionClassifier(), X, codes)
    monkeypatch.setattr("fewshot.diagnosis.left_out_examples._MOST_SCORES", 30)
    parts = left_out(LogisticRegressionClassifier(), X, codes)
    assert_allclose(parts.own, whole.own, rtol=1e-4)
    assert_allclose(parts.mistaken_for, whole.mistaken_for, rtol=1e-4)


def test_wrong_labels_are_the_most_suspect(apart):
    X, codes = apart[0], apart[1].copy()
    wrong = [3, 27, 51]
    codes[wrong] = (codes[wrong] + 5) % 12
    found = left_out(WhitenedPrototypeClassifier(), X, codes)
    first = found.positions[np.argsort(-found.suspicion)][:6]
    assert len(set(wrong) & set(first.tolist())) >= 2


def test_confident_learning_counts_by_the_mean_confidence_of_the_other_class():
    codes = np.array([0, 0, 1, 1])
    own = np.array([0.8, 0.2, 0.6, 0.4], np.float32)  # thresholds: 0.5 of both
    rivals = np.array([[1], [1], [0], [0]])
    found = LeftOut(np.arange(4), np.ones(4, int), own, own > 0.5, rivals, 1 - own[:, None], np.full(2, 0.25))
    assert found.mislabelled(codes).tolist() == [False, True, False, True]
    closer = np.array([[0.2], [0.49], [0.4], [0.45]], np.float32)
    found = LeftOut(np.arange(4), np.ones(4, int), own, own > 0.5, rivals, closer, np.full(2, 0.25))
    assert found.mislabelled(codes).tolist() == [False, False, False, False]
