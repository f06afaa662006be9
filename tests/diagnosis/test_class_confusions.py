from __future__ import annotations

import numpy as np
import pytest

from fewshot.diagnosis import LeftOut, confused_pairs


def found(own, correct, rivals, likely, classes):
    m = len(own)
    return LeftOut(
        np.arange(m),
        np.ones(m, int),
        np.array(own, np.float32),
        np.array(correct),
        np.array(rivals),
        np.array(likely, np.float32),
        np.zeros(classes),
    )


def test_the_rate_is_the_mean_of_what_each_has_of_the_other():
    codes = np.array([0, 0, 1, 1, 2])
    some = found(
        [0.6, 0.2, 0.9, 0.5, 0.8],
        [True, False, True, True, True],
        [[1, 2], [1, 2], [0, 2], [0, 2], [0, 1]],
        [[0.3, 0.1], [0.7, 0.1], [0.1, 0.0], [0.4, 0.1], [0.1, 0.1]],
        3,
    )
    pairs = confused_pairs(some, codes, least=0.0)
    rates = {
        tuple(pair): (rate, n) for pair, rate, n in zip(pairs.pairs.tolist(), pairs.rate, pairs.counted, strict=True)
    }
    assert rates[0, 1] == (pytest.approx(((0.3 + 0.7) / 2 + (0.1 + 0.4) / 2) / 2), 1)
    assert rates[0, 2][0] == pytest.approx((0.1 + 0.1) / 2)
    assert len(rates) == 3  # each pair once
    assert pairs.pairs[0].tolist() == [0, 1]  # the most confused first, of the two the one that is mistaken more


def test_pairs_below_the_least_rate_are_left_out_unless_two_were_counted():
    codes = np.array([0, 0, 1, 1])
    some = found([0.9] * 4, [False, False, True, True], [[1], [1], [0], [0]], [[0.02]] * 4, 2)
    assert confused_pairs(some, codes, least=0.5).pairs.tolist() == [[0, 1]]
    some = found([0.9] * 4, [False, True, True, True], [[1], [1], [0], [0]], [[0.02]] * 4, 2)
    assert confused_pairs(some, codes, least=0.5).pairs.shape == (0, 2)


def test_equal_rates_give_the_pair_once():
    some = found([0.5, 0.5], [True, True], [[1], [0]], [[0.5], [0.5]], 2)
    assert confused_pairs(some, np.array([0, 1]), least=0.1).pairs.tolist() == [[0, 1]]
