from __future__ import annotations

import math

import pytest

from fewshot.diagnosis import Share


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [(8, 10, 0.4902, 0.9433), (0, 5, 0.0, 0.4345), (5, 5, 0.5655, 1.0)],  # as statsmodels' proportion_confint
)
def test_the_interval_is_wilsons(right, n, low, high):
    share = Share.of(right, n)
    assert (share.value, share.n) == (right / n, n)
    assert (share.low, share.high) == pytest.approx((low, high), abs=1e-4)


def test_of_nothing_there_is_no_share():
    assert math.isnan(Share.of(0, 0).value)


def test_half_the_errors_move_the_share_and_its_interval():
    share = Share.of(8, 10).changed(lambda accuracy: (1 + accuracy) / 2)
    assert share.value == pytest.approx(0.9)
    assert share.low == pytest.approx(1 - (1 - 0.4902) / 2, abs=1e-4)
