from __future__ import annotations

import numpy as np
import pytest

from fewshot.diagnosis import near_pairs


@pytest.fixture(scope="module")
def planted():
    """Vectors (90, 40) of 9 classes, with near copies: three of 0, one of them in another class, and one of 50."""
    rng = np.random.default_rng(0)
    codes = np.repeat(np.arange(9), 10)
    X = (rng.normal(size=(9, 40))[codes] + rng.normal(size=(90, 40))).astype(np.float32)
    for copy, of in ((1, 0), (2, 1), (80, 0), (51, 50)):
        X[copy] = 3.0 * (X[of] + 0.03 * rng.normal(size=40))  # cosines do not see lengths
    return X, codes


def test_copies_are_found_within_and_across_classes_and_nothing_else(planted):
    found = near_pairs(*planted)
    assert {tuple(pair) for pair in found.pairs.tolist()} == {
        (0, 1),
        (1, 2),
        (0, 2),
        (0, 80),
        (1, 80),
        (2, 80),
        (50, 51),
    }
    assert 0.6 < found.limit < 0.99
    assert np.all(found.cosines[:-1] >= found.cosines[1:])


def test_cosines_are_exact(planted):
    X, _ = planted
    found = near_pairs(*planted)
    units = X / np.linalg.norm(X, axis=1, keepdims=True)
    expected = [units[a] @ units[b] for a, b in found.pairs]
    assert found.cosines == pytest.approx(expected, abs=1e-6)


def test_groups_join_what_is_of_one_class_only(planted):
    groups = near_pairs(*planted).groups
    assert groups[[0, 1, 2]].tolist() == [0, 0, 0]
    assert groups[80] == 80
    assert groups[51] == 50
    assert len(np.unique(groups)) == 90 - 3


def test_candidates_by_random_projections_give_the_same_pairs(monkeypatch):
    rng = np.random.default_rng(1)
    X = rng.normal(size=(200, 600)).astype(np.float32)
    X[100:110] = X[:10] + 0.05 * rng.normal(size=(10, 600))
    codes = np.arange(200) % 20
    exact = near_pairs(X, codes)
    monkeypatch.setattr("fewshot.diagnosis.near_duplicates._MANY", 100)
    projected = near_pairs(X, codes)
    assert len(exact.pairs) == 10
    assert projected.pairs.tolist() == exact.pairs.tolist()
    assert projected.cosines == pytest.approx(exact.cosines, abs=1e-6)


def test_of_a_few_examples_only_copies_are_near_duplicates():
    X = np.array([[1, 0, 0], [1, 0.02, 0], [0, 1, 0], [0, 1, 0.2]], np.float32)
    found = near_pairs(X, np.array([0, 0, 1, 1]))
    assert found.limit == 0.999
    assert found.pairs.tolist() == [[0, 1]]


def test_one_example_has_no_pair():
    found = near_pairs(np.ones((1, 3), np.float32), np.zeros(1, int))
    assert found.pairs.shape == (0, 2)
    assert found.groups.tolist() == [0]
