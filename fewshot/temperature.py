"""Temperature scaling: from scores to probabilities that are right as often as they say."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

# The numbers of classes and of examples at which a ``Sharpness`` is known; between them it is linear in the logarithm
# of the one and the reciprocal of the other, beyond them constant.
WAYS, SHOTS = (5, 20), (1, 5)
# What ``fit`` tries: beta from 0.3 to 200 in steps of 15 %.
_BETAS = torch.exp(torch.arange(-8, 36) * 0.15)
_BENDS = torch.tensor([0.0, 0.5, 1.0, 2.0, 4.0, 8.0])
_DOUBTS = torch.tensor([0.0, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5])
# What a bend or a doubt must gain, in nats: one neighbour's vote, say, can be told by beta alone.
_WORTH = 0.002
# How far domains are from each other: the standard deviation of the logarithm of their best sharpness.
_DOMAINS = 0.5
_SHIFTS = torch.linspace(-1.5, 1.5, 31)


@dataclass(frozen=True)
class Point:
    """A method's sharpness at one number of classes and of examples of each.

    Attributes
    ----------
    beta : float
        Above 0. How much surer one more margin makes.
    bend : float
        Kappa, 0 or above: surer than in proportion, for methods that confirm themselves.
    doubt : float
        Lambda, from 0 to 1: share of the answers that are right by chance only, however sure the scores.
    """

    beta: float
    bend: float = 0.0
    doubt: float = 0.0


@dataclass(frozen=True)
class Sharpness:
    """A method's sharpness as a function of the numbers of classes and of examples.

    Attributes
    ----------
    points : tuple of four Points
        At 5 classes with 1 and with 5 examples of each, then at 20 classes.
    """

    points: tuple[Point, Point, Point, Point]

    @classmethod
    def of(cls, *values: tuple[float, float, float]) -> Sharpness:
        """Make one of (beta, bend, doubt) at each of the four, or of one for all."""
        first, second, third, fourth = (Point(*value) for value in (values * 4 if len(values) == 1 else values))
        return cls((first, second, third, fourth))

    def at(self, ways: int, shots: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return beta, kappa and lambda for mean numbers of examples (e,): three tensors (e, 1, 1)."""
        wide = (math.log(min(max(ways, WAYS[0]), WAYS[1])) - math.log(WAYS[0])) / math.log(WAYS[1] / WAYS[0])
        many = ((1.0 / shots.clamp(*SHOTS) - 1.0 / SHOTS[0]) / (1.0 / SHOTS[1] - 1.0 / SHOTS[0])).view(-1, 1, 1)
        shares = ((1.0 - wide) * (1.0 - many), (1.0 - wide) * many, wide * (1.0 - many), wide * many)
        beta, bend, doubt = torch.zeros_like(many), torch.zeros_like(many), torch.zeros_like(many)
        for share, point in zip(shares, self.points, strict=True):
            beta = beta + share * math.log(point.beta)
            bend, doubt = bend + share * point.bend, doubt + share * point.doubt
        return beta.exp(), bend, doubt


Table = Mapping[str, Sharpness]


def margin(scores: Tensor, labels: Tensor) -> Tensor:
    """By how much the support's scores of their own class exceed the mean of the others': (e, 1, 1), above 0.

    It carries the scores' unit, so that scores divided by it are alike for all encoders, metrics and numbers of
    examples. Where the support does not tell its classes apart, it is the largest score instead.

    Parameters
    ----------
    scores : Tensor of shape (e, s, c)
    labels : Tensor of shape (e, s), int64
        -1 for examples that do not count.
    """
    own = scores.gather(2, labels.clamp_min(0).unsqueeze(-1)).squeeze(-1)
    others = (scores.sum(-1) - own) / max(1, scores.shape[2] - 1)
    counted = labels >= 0
    found = ((own - others) * counted).sum(1) / counted.sum(1).clamp_min(1)
    largest = (scores.abs().amax(-1) * counted).amax(1).clamp_min(torch.finfo(scores.dtype).tiny)
    return torch.where(found > 1e-6 * largest, found, largest).view(-1, 1, 1)


def gaps(scores: Tensor, unit: Tensor) -> Tensor:
    """How far each class is behind the best one of its query, in margins: (e, q, c), 0 for the best."""
    return (scores.amax(-1, keepdim=True) - scores) / unit


def log_votes(votes: Tensor) -> Tensor:
    """Logarithms of the shares of votes (..., c), where a class without any counts as having one in a thousand."""
    share = votes / votes.sum(-1, keepdim=True).clamp_min(torch.finfo(votes.dtype).tiny)
    return (share + 1e-3).log()


def tempered(gap: Tensor, beta: Tensor | float, bend: Tensor | float, doubt: Tensor | float) -> Tensor:
    """(1 - lambda) softmax(-beta (gap + kappa gap^2)) + lambda / c: probabilities (..., c), in the order of the scores.

    References
    ----------
    Guo et al. 2017, arXiv:1706.04599, section 4.2 (temperature scaling: margin / beta is the temperature). The bend and
    the doubt are ours.
    """
    sure = (-beta * (gap + bend * gap.square())).softmax(-1)
    return (1.0 - doubt) * sure + doubt / gap.shape[-1]


def shifted(sharpness: tuple[Tensor, Tensor, Tensor], factor: Tensor | float) -> tuple[Tensor, Tensor, Tensor]:
    """Beta, kappa and lambda of classes that are easier by a factor: as much surer, and in as much less doubt."""
    beta, bend, doubt = sharpness
    return beta * factor, bend, (doubt / factor).clamp_max(1.0)


def log_likelihood(gap: Tensor, truth: Tensor, sharpness: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Log-likelihood (e, 31) of the true classes (e, q), -1 where none, if beta were exp(-1.5) to exp(1.5) as large."""
    beta, bend, doubt = sharpness
    known, at = truth >= 0, truth.clamp_min(0).unsqueeze(-1)
    found = []
    for shift in _SHIFTS.exp().tolist():
        right = tempered(gap, *shifted((beta, bend, doubt), shift)).gather(2, at).squeeze(-1)
        found.append((_log(right) * known).sum(1))
    return torch.stack(found, dim=1)


def expected_shift(likelihood: Tensor) -> Tensor:
    """Mean of the logarithm of what beta is to be multiplied by, (e,), after a normal prior and this likelihood."""
    shifts = _SHIFTS.to(likelihood.device)
    return (likelihood - 0.5 * (shifts / _DOMAINS).square()).softmax(dim=1) @ shifts


def fit(episodes: Iterable[tuple[Tensor, Tensor]]) -> Point:
    """Find the sharpness of the lowest negative log-likelihood, averaged over sets of episodes.

    Parameters
    ----------
    episodes : iterable of (gaps (e, q, c), true classes (e, q))
        One pair for each setting, such as an encoder and a data set.
    """
    total, n_sets = torch.zeros(len(_BETAS), len(_BENDS), len(_DOUBTS)), 0
    for gap, truth in episodes:
        n_sets += 1
        gap, truth = gap.flatten(0, 1), truth.reshape(-1, 1)
        for n, beta in enumerate(_BETAS):
            for k, bend in enumerate(_BENDS):
                right = tempered(gap, beta, bend, 0.0).gather(1, truth)
                mixed = (1.0 - _DOUBTS) * right + _DOUBTS / gap.shape[1]
                total[n, k] -= _log(mixed).mean(0)
    total += n_sets * _WORTH * ((_BENDS > 0)[:, None].float() + (_DOUBTS > 0).float())
    n, k, j = (int(i) for i in torch.unravel_index(total.argmin(), total.shape))
    return Point(round(float(_BETAS[n]), 2), float(_BENDS[k]), round(float(_DOUBTS[j]), 2))


@dataclass(frozen=True)
class Reliability:
    """How often answers are right that are given with some probability.

    Attributes
    ----------
    n : int
        Queries.
    accuracy, confidence : float
        Share of right answers, and the mean probability of the answers.
    ece : float
        Expected calibration error: the mean over all answers of |confidence - accuracy| of their bin; 15 equal bins.
    nll : float
        Mean negative log-likelihood of the true classes, in nats.
    bins : tuple of (float, float, int)
        Confidence, accuracy and number of the answers of each bin that has any.

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


def reliability(probabilities: Tensor, truth: Tensor, *, n_bins: int = 15) -> Reliability:
    """Compare probabilities (..., c) with the true classes (...)."""
    flat, true = probabilities.reshape(-1, probabilities.shape[-1]), truth.reshape(-1)
    sure, answer = flat.max(-1)
    right = (answer == true).to(torch.float64)
    sure = sure.to(torch.float64)
    place = (sure * n_bins).ceil().long().clamp(1, n_bins) - 1  # a bin holds its upper edge, as in eq. 3
    number = torch.bincount(place, minlength=n_bins)
    each = number.clamp_min(1)
    confidence = torch.bincount(place, sure, n_bins) / each
    accuracy = torch.bincount(place, right, n_bins) / each
    ece = float(((confidence - accuracy).abs() * number).sum() / len(true))
    nll = -float(_log(flat.gather(1, true.unsqueeze(-1))).mean())
    rows = zip(confidence.tolist(), accuracy.tolist(), number.tolist(), strict=True)
    bins = tuple(row for row in rows if row[2])
    return Reliability(len(true), float(right.mean()), float(sure.mean()), ece, nll, bins)


def _log(probability: Tensor) -> Tensor:
    """Its logarithm; what float32 has rounded to 0 counts as 1e-9."""
    return probability.clamp_min(1e-9).log()


# Fitted by `python benchmarks/calibration.py`, which prints these lines; by the name of a classifier's type.
SHIPPED: Table = {
    # A method of the caller's own: what most have in common.
    "FewShotClassifier": Sharpness.of((10.0, 0.5, 0.05), (9.5, 0.0, 0.01), (11.0, 0.5, 0.1), (9.5, 0.0, 0.01)),
    "PrototypeClassifier": Sharpness.of((11.02, 0.0, 0.05), (8.17, 0.0, 0.0), (12.81, 0.0, 0.1), (9.49, 0.0, 0.01)),
    "PrototypeClassifier of sqeuclidean": Sharpness.of(
        (11.02, 0.0, 0.1), (8.17, 0.0, 0.0), (12.81, 0.0, 0.2), (9.49, 0.0, 0.01)
    ),
    "SimpleShotClassifier": Sharpness.of((11.02, 0.0, 0.05), (9.49, 0.0, 0.0), (12.81, 0.0, 0.1), (9.49, 0.0, 0.01)),
    "NearestNeighborClassifier": Sharpness.of((1.82, 0.0, 0.0), (2.46, 0.0, 0.0), (2.46, 0.0, 0.0), (2.99, 0.0, 0.0)),
    "NearestNeighborClassifier of several": Sharpness.of(
        (66.69, 0.0, 0.05), (17.29, 0.0, 0.1), (77.48, 0.0, 0.4), (17.29, 0.0, 0.2)
    ),
    "MatchingClassifier": Sharpness.of((11.02, 0.0, 0.05), (12.81, 0.0, 0.0), (12.81, 0.0, 0.15), (14.88, 0.0, 0.0)),
    "CacheClassifier": Sharpness.of((11.02, 0.0, 0.05), (11.02, 0.0, 0.0), (12.81, 0.0, 0.1), (12.81, 0.0, 0.02)),
    "RidgeClassifier": Sharpness.of((11.02, 0.0, 0.0), (9.49, 0.0, 0.0), (12.81, 0.0, 0.0), (9.49, 0.0, 0.0)),
    "LogisticRegressionClassifier": Sharpness.of(
        (11.02, 0.0, 0.0), (9.49, 0.0, 0.0), (12.81, 0.0, 0.02), (9.49, 0.0, 0.0)
    ),
    "LinearDiscriminantClassifier": Sharpness.of(
        (11.02, 0.0, 0.1), (9.49, 0.0, 0.0), (12.81, 0.0, 0.2), (11.02, 0.0, 0.01)
    ),
    "MahalanobisClassifier": Sharpness.of((11.02, 0.0, 0.0), (20.09, 0.0, 0.0), (12.81, 0.0, 0.05), (23.34, 0.0, 0.0)),
    "CosineHeadClassifier": Sharpness.of((11.02, 0.0, 0.0), (9.49, 0.0, 0.0), (12.81, 0.0, 0.05), (9.49, 0.0, 0.0)),
    "AlphaTIMClassifier": Sharpness.of((1.82, 4.0, 0.2), (2.86, 0.0, 0.0), (2.12, 0.5, 0.0), (3.32, 0.0, 0.0)),
    "BDCSPNClassifier": Sharpness.of((5.21, 8.0, 0.05), (3.86, 2.0, 0.01), (3.86, 4.0, 0.2), (1.82, 4.0, 0.02)),
    "LaplacianShotClassifier": Sharpness.of((36.6, 8.0, 0.05), (23.34, 0.0, 0.0), (36.6, 8.0, 0.3), (17.29, 8.0, 0.0)),
    "PTMAPClassifier": Sharpness.of((3.86, 0.0, 0.0), (1.57, 0.0, 0.0), (2.12, 0.0, 0.0), (1.57, 0.0, 0.0)),
    "SoftKMeansClassifier": Sharpness.of((164.02, 0.0, 0.0), (36.6, 0.0, 0.01), (66.69, 0.0, 0.02), (20.09, 0.0, 0.0)),
    "TIMClassifier": Sharpness.of((3.32, 1.0, 0.0), (3.32, 0.0, 0.0), (3.32, 0.5, 0.0), (3.32, 0.0, 0.0)),
    "TransductiveFineTuningClassifier": Sharpness.of(
        (104.58, 0.0, 0.05), (77.48, 0.0, 0.0), (121.51, 0.0, 0.1), (90.02, 0.0, 0.01)
    ),
}
