"""Scans of digits as images."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits


def scan(digit, n, side=48):
    """The n-th scan of a digit, enlarged to a size that the encoder must shrink, in grey on white."""
    pixels, digits = load_digits(return_X_y=True)
    grey = (255 - pixels[digits == digit][n].reshape(8, 8) * 15).astype(np.uint8)
    return np.kron(grey, np.ones((side // 8 + n % 3, side // 8), np.uint8))
