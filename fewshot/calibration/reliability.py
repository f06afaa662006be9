"""Reliability of probabilities: expected calibration error and negative log-likelihood."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Reliability:
    """Agreement of predicted probabilities with the true classes.

    Attributes
    ----------
    n : int
        Number of queries.
    accuracy, confidence : float
        Share of right predictions, and their mean probability.
    ece : float
        Expected calibration error: mean over all predictions of |confidence - accuracy| of their bin.
    nll : float
        Mean negative log-likelihood of the true classes, in nats.
    bins : tuple of (float, float, int)
        Confidence, accuracy and number of predictions of each non-empty bin.

    References
    ----------
    Guo et al. 2017, arXiv:1706.04599, eq. 2, 3 and 5.
    """

    n: int
    accuracy: float
    confidence: float
    ece: float
    nll: float
    bins: tuple[tuple[float, float, int], ...]


def measure_reliability(probabilities: Tensor, labels: Tensor, *, n_bins: int = 15) -> Reliability:
    """Compare probabilities (..., c) with the true classes (...), in bins of equal width."""
    flat, true = probabilities.reshape(-1, probabilities.shape[-1]), labels.reshape(-1)
    highest, predicted = flat.max(-1)
    right, highest = (predicted == true).to(torch.float64), highest.to(torch.float64)
    place = (highest * n_bins).ceil().long().clamp(1, n_bins) - 1  # a bin holds its upper edge, as in eq. 3
    number = torch.bincount(place, minlength=n_bins)
    each = number.clamp_min(1)
    confidence = torch.bincount(place, highest, n_bins) / each
    accuracy = torch.bincount(place, right, n_bins) / each
    ece = float(((confidence - accuracy).abs() * number).sum() / len(true))
    # What float32 has rounded to 0 counts as 1e-9.
    nll = -float(flat.gather(1, true.unsqueeze(-1)).clamp_min(1e-9).log().mean())
    rows = zip(confidence.tolist(), accuracy.tolist(), number.tolist(), strict=True)
    bins = tuple(row for row in rows if row[2])
    return Reliability(len(true), float(right.mean()), float(highest.mean()), ece, nll, bins)
