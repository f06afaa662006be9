from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.base import clone

from fewshot import WhitenedPrototypeClassifier
from fewshot.classifiers import export_head
from fewshot.diagnosis import influence, left_out


def by_hand(X, codes, parts=None):
    """How many others change to right and to wrong without each, by class means in the whitened space, in loops."""
    classifier = WhitenedPrototypeClassifier(parts).fit(X, codes)
    head = export_head(classifier)
    pieces = np.split(X, np.cumsum(head.parts)[:-1], axis=1)
    units = np.concatenate([piece / np.linalg.norm(piece, axis=1, keepdims=True) for piece in pieces], axis=1)
    x = (units * head.arrays.get("scale", 1.0) - head.arrays["center"]).astype(float)
    axes, factors = head.arrays["axes"], head.arrays.get("factors")
    Y = x @ axes if factors is None else x + (x @ axes * factors) @ axes.T
    found = left_out(classifier, X, codes)

    def right(query, without):
        best = {}
        at = np.flatnonzero(found.positions == query)
        for code in [codes[query], *found.rivals[at].ravel()]:
            rows = [row for row in np.flatnonzero(codes == code) if row not in (query, without)]
            if rows:
                mean = Y[rows].mean(axis=0)
                best[code] = Y[query] @ mean / np.linalg.norm(mean)
            elif code == codes[query]:
                return None
        return max(best, key=best.get) == codes[query]

    before = [right(query, None) for query in range(len(X))]
    mended, broken = np.zeros(len(X), int), np.zeros(len(X), int)
    for example in range(len(X)):
        for query in found.positions[found.positions != example]:
            after = right(query, example)
            if after is not None:
                mended[example] += after and not before[query]
                broken[example] += before[query] and not after
    return mended, broken, found


@pytest.mark.parametrize("parts", [None, (10, 14)])
@pytest.mark.parametrize("sizes", [(5,) * 12, (1, 2, 2, 3, 6, 4, 2, 5, 9)])
def test_the_closed_formulas_are_the_loops(parts, sizes):
    rng = np.random.default_rng(2)
    codes = np.repeat(np.arange(len(sizes)), sizes)
    X = (0.5 * rng.normal(size=(len(sizes), 24))[codes] + rng.normal(size=(len(codes), 24))).astype(np.float32)
    mended, broken, found = by_hand(X, codes, parts)
    effect = influence(clone(WhitenedPrototypeClassifier(parts)), X, codes, found)
    assert mended.sum() > 3
    assert broken.sum() > 3
    assert_array_equal(effect.mended, mended)
    assert_array_equal(effect.broken, broken)
    assert_array_equal(effect.gain, mended - broken)


def test_an_example_far_from_its_class_hurts_most():
    rng = np.random.default_rng(3)
    codes = np.repeat(np.arange(6), 4)
    X = (2.0 * np.eye(6, 20)[codes] + 0.4 * rng.normal(size=(24, 20))).astype(np.float32)
    X[0] = 6.0 * np.eye(6, 20)[3] + 0.2 * rng.normal(size=20)  # of class 0, where class 3 is
    found = left_out(WhitenedPrototypeClassifier(), X, codes)
    effect = influence(WhitenedPrototypeClassifier(), X, codes, found)
    assert effect.change.argmax() == 0


def test_in_blocks_it_is_the_same(monkeypatch, examples):
    X, codes = examples
    found = left_out(WhitenedPrototypeClassifier(), X, codes)
    whole = influence(WhitenedPrototypeClassifier(), X, codes, found)
    monkeypatch.setattr("fewshot.diagnosis.example_influence._MOST_AT_ONCE", 12)
    parts = influence(WhitenedPrototypeClassifier(), X, codes, found)
    assert_array_equal(parts.gain, whole.gain)
    assert parts.change == pytest.approx(whole.change)


def test_the_only_rival_may_vanish():
    X = np.array([[1, 0.1], [1, -0.1], [0.2, 1]], np.float32)
    codes = np.array([0, 0, 1])
    found = left_out(WhitenedPrototypeClassifier(), X, codes)
    effect = influence(WhitenedPrototypeClassifier(), X, codes, found)
    assert np.isfinite(effect.change).all()
