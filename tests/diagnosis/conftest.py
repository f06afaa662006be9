"""Examples of classes that overlap, drawn once."""

from __future__ import annotations

import numpy as np
import pytest


def overlapping(classes: int, examples: int, d: int = 24, apart: float = 1.0, seed: int = 0):
    """Vectors (n, d) around random means, and their classes."""
    rng = np.random.default_rng(seed)
    means = apart * rng.normal(size=(classes, d))
    codes = np.repeat(np.arange(classes), examples)
    return (means[codes] + rng.normal(size=(len(codes), d))).astype(np.float32), codes


@pytest.fixture(scope="session")
def examples():
    """Vectors (60, 24) of 12 classes of 5."""
    return overlapping(12, 5, apart=0.7)


@pytest.fixture(scope="session")
def apart():
    """As many, of which the classifiers recognise nearly all."""
    return overlapping(12, 5, apart=1.5)
