"""Temperature scaling whose parameters are linear in features of the task."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fewshot.calibration.task_features import FEATURES, mean_margin


@dataclass(frozen=True)
class CalibrationParams:
    """Ten numbers that turn a method's margins into probabilities.

    Attributes
    ----------
    log_inverse_temperature : tuple of len(FEATURES) floats
        Coefficients of log beta, which is linear in the features; beta multiplies margins.
    uniform_mix : float
        lambda, the weight of the uniform distribution, 0 to 1.
    shape : float
        gamma, the Box-Cox power of the margins, above 0: below 1, distant classes are more likely than in a softmax.
    """

    log_inverse_temperature: tuple[float, ...]
    uniform_mix: float = 0.0
    shape: float = 1.0

    @classmethod
    def constant(cls, inverse_temperature: float) -> CalibrationParams:
        """Return plain temperature scaling, the same for every task."""
        return cls((math.log(inverse_temperature), *[0.0] * (len(FEATURES) - 1)))

    def probabilities(self, margins: Tensor, features: Tensor) -> Tensor:
        """Return probabilities (..., c) for margins (..., c) and features (..., len(FEATURES))."""
        coefficients = torch.tensor(self.log_inverse_temperature, device=features.device)
        beta = inverse_temperature(features, coefficients)
        return calibrated_probabilities(margins, beta, self.uniform_mix, self.shape)

    def best_probability(self, margins: Tensor, features: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return the largest of ``probabilities`` (...,); the margins are overwritten.

        With weights (..., c) each margin is that of so many classes.
        """
        c = margins.shape[-1] if weights is None else weights.sum(-1)
        beta = inverse_temperature(features, torch.tensor(self.log_inverse_temperature, device=features.device))
        mean = mean_margin(margins, weights).clamp_min(torch.finfo(margins.dtype).tiny)
        if self.shape == 1.0:
            margins.mul_(-beta)
        else:
            # Their fast functions lose digits only where a margin is far below the mean.
            margins.div_(mean).add_(1.0).log_().mul_(self.shape).exp_().sub_(1.0).mul_(-beta * mean / self.shape)
        shares = margins.exp_() if weights is None else margins.exp_() * weights
        return (1.0 - self.uniform_mix) / shares.sum(-1) + self.uniform_mix / c  # the best one's margin is 0


def inverse_temperature(features: Tensor, coefficients: Tensor) -> Tensor:
    """Return beta (..., 1) for features (..., f) and coefficients (f,)."""
    return (features @ coefficients).clamp(-3.0, 7.0).exp().unsqueeze(-1)


def support_margin(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean margin of the support's own classes over the others, and the others' mean score: (e, 1, 1) each.

    The margin is positive and has the scores' unit: scores divided by it are comparable across encoders, metrics and
    shots. Where the support does not separate its classes, it is the largest absolute score instead.

    Parameters
    ----------
    scores : Tensor of shape (e, s, c)
    labels : Tensor of shape (e, s), int64
        -1 for padding.
    """
    own = scores.gather(2, labels.clamp_min(0).unsqueeze(-1)).squeeze(-1)
    others = (scores.sum(-1) - own) / max(1, scores.shape[2] - 1)
    counted = labels >= 0
    own, others = ((some * counted).sum(1) / counted.sum(1).clamp_min(1) for some in (own, others))
    largest = (scores.abs().amax(-1) * counted).amax(1).clamp_min(torch.finfo(scores.dtype).tiny)
    margin = torch.where(own - others > 1e-6 * largest, own - others, largest)
    return margin.view(-1, 1, 1), others.view(-1, 1, 1)


def margins(scores: Tensor, unit: Tensor) -> Tensor:
    """Return each class's distance behind the best one of its query, in support margins: (e, q, c), 0 for the best."""
    return (scores.amax(-1, keepdim=True) - scores) / unit


def log_vote_shares(votes: Tensor) -> Tensor:
    """Return the logarithms of shares of votes (..., c), where 0.001 is added to each share."""
    share = votes / votes.sum(-1, keepdim=True).clamp_min(torch.finfo(votes.dtype).tiny)
    return (share + 1e-3).log()


def calibrated_probabilities(
    margins: Tensor, beta: Tensor | float, uniform_mix: Tensor | float, gamma: Tensor | float
) -> Tensor:
    """Return (1 - lambda) softmax(-beta m ((1 + margin / m)^gamma - 1) / gamma) + lambda / c: probabilities (..., c).

    They are in the order of the scores. m is the mean margin of all classes but the best; for gamma = 1 the softmax is
    that of -beta margin.

    References
    ----------
    Guo et al. 2017, arXiv:1706.04599, section 4.2 (temperature scaling: support margin / beta is the temperature).
    Box & Cox 1964, JRSS B 26(2), eq. 2 (the power, whose slope is 1 at the best class). The mix, and what is raised to
    the power, are ours.
    """
    c = margins.shape[-1]
    mean = mean_margin(margins).clamp_min(torch.finfo(margins.dtype).tiny)
    transformed = mean * torch.expm1(gamma * torch.log1p(margins / mean)) / gamma
    return (1.0 - uniform_mix) * (-beta * transformed).softmax(-1) + uniform_mix / c
