"""Closeness to single examples: that of a class of one, and of vectors as the method has prepared them."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.metrics.pairwise import cosine_similarity

from fewshot import DistributionCalibrationClassifier, PrototypeClassifier, SimpleShotClassifier
from fewshot.validation import METRICS

RNG = np.random.default_rng(0)
X, QUERY = (RNG.normal(size=(n, 7)).astype(np.float32) + 1.0 for n in (5, 3))


@pytest.mark.parametrize("metric", METRICS)
def test_an_example_alone_in_its_class_is_as_close_as_its_class(metric):
    clf = PrototypeClassifier(metric=metric).fit(X, range(5))
    assert_allclose(clf.example_scores(QUERY, X), clf.scores(QUERY), rtol=1e-4, atol=1e-5)


def test_examples_are_compared_as_the_method_prepares_them():
    center = X.mean(axis=0)
    clf = SimpleShotClassifier(center=center).fit(X, [0, 0, 1, 1, 1])
    assert_allclose(clf.example_scores(QUERY, X), cosine_similarity(QUERY - center, X - center), atol=1e-5)
    clf = DistributionCalibrationClassifier().fit(X, [0, 0, 1, 1, 1])
    root = [np.sign(v) * np.sqrt(np.abs(v)) for v in (QUERY, X)]
    assert_allclose(clf.example_scores(QUERY, X), cosine_similarity(*root), atol=1e-5)
