from __future__ import annotations

import numpy as np

from fewshot.diagnosis import one_sided


def test_a_class_whose_examples_are_far_more_alike_than_others_is_one_sided():
    rng = np.random.default_rng(0)
    codes = np.repeat(np.arange(8), 5)
    spread = np.where(codes == 3, 0.05, 1.0)[:, None]
    X = (3 * rng.normal(size=(8, 30))[codes] + spread * rng.normal(size=(40, 30))).astype(np.float32)
    assert np.flatnonzero(one_sided(X, codes, np.full(8, 5))).tolist() == [3]


def test_a_class_of_near_duplicates_alone_is_one_sided_and_a_class_of_one_is_not():
    X = np.eye(4, 6, dtype=np.float32)[[0, 0, 1, 2, 2, 3]]
    assert one_sided(X, np.array([0, 0, 1, 2, 2, 3]), np.array([1, 1, 2, 1])).tolist() == [True, False, False, False]
