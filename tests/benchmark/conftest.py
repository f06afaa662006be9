"""Vectors that open-set tests share: known classes, and classes of a background."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(12), 30)
    return (rng.normal(size=(12, 20))[y] + 1.2 * rng.normal(size=(len(y), 20))).astype(np.float32), y


@pytest.fixture(scope="module")
def others():
    return np.random.default_rng(1).normal(size=(90, 20)).astype(np.float32), np.repeat(np.arange(9), 10).astype(str)
