from __future__ import annotations

import numpy as np
import pytest

from fewshot.vectors import top_k


@pytest.mark.parametrize("n", [3, 40, 700, 5_001])
@pytest.mark.parametrize("k", [1, 5, 9])
def test_the_largest_come_in_order_and_of_equal_ones_the_first_first(n, k):
    rows = np.random.default_rng(n).integers(0, max(2, n // 3), (6, n)).astype(np.float32)  # many are equal
    rows[0], rows[1, -1] = 7.0, 1e6
    places, values = top_k(rows, k)
    expected = np.argsort(-rows, axis=1, kind="stable")[:, :k]
    assert np.array_equal(places, expected)
    assert np.array_equal(values, np.take_along_axis(rows, expected, axis=1))
