"""Logistic regression with a strong L2 penalty."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor
from torch.nn.functional import normalize

from fewshot.classifiers.base import FewShotClassifier, Membership
from fewshot.validation import check_count


@dataclass(frozen=True)
class _Weights:
    weight: Tensor  # (e, d, c)
    bias: Tensor  # (e, 1, c)
    steps: int


class LogisticRegressionClassifier(FewShotClassifier):
    """Classify by multinomial logistic regression on L2-normalised embeddings.

    Parameters
    ----------
    C : float, default 1.0
        Inverse strength of the penalty on the weights, as in scikit-learn; the bias is not penalised.
    max_iter : int, default 2000
    tol : float, default 1e-5
        Largest gradient entry at which to stop, beyond what float32 can resolve.

    Notes
    -----
    The weights stay in the span of the support set, so the problem is solved for (s, c) coefficients, by accelerated
    gradient descent (Nesterov 2004, scheme 2.2.22, restarted where the loss would turn). ``scores`` are the logits,
    ``predict_proba`` their softmax. Equal to scikit-learn's ``LogisticRegression(C=C)`` on normalised embeddings.

    References
    ----------
    Tian et al. 2020, arXiv:2003.11539, section 3.2 (RFS: logistic regression on normalised embeddings).
    """

    def __init__(self, *, C: float = 1.0, max_iter: int = 2000, tol: float = 1e-5) -> None:
        self.C = C
        self.max_iter = max_iter
        self.tol = tol

    def prepare(self, vectors: Tensor) -> Tensor:
        """Return the unit vectors."""
        return normalize(vectors, dim=-1)

    def _learn(self, support: Tensor, membership: Membership) -> _Weights:
        if not self.C > 0:
            raise ValueError(f"C must be above 0, not {self.C!r}")
        check_count("max_iter", self.max_iter)
        targets = membership.one_hot()
        real = targets.sum(-1, keepdim=True)  # (e, s, 1), 0 where padded
        x = support * real
        kernel = x @ x.mT
        # The loss's curvature is at most C / 2 times the kernel's largest row sum; the bias counts as a feature of 1.
        curvature = 1.0 + 0.5 * self.C * (kernel + real @ real.mT).abs().sum(-1).amax(-1)
        step = curvature.reciprocal().view(-1, 1, 1)
        coefficients, bias = torch.zeros_like(targets), torch.zeros_like(targets[:, :1])
        ahead, ahead_bias, momentum = coefficients, bias, torch.ones_like(step)
        enough = self.tol + 4.0 * torch.finfo(x.dtype).eps * self.C * x.shape[1]
        steps = 0
        while steps < self.max_iter:
            steps += 1
            residual = ((kernel @ ahead + ahead_bias).softmax(dim=-1) - targets) * real
            gradient, gradient_bias = self.C * residual + ahead, self.C * residual.sum(1, keepdim=True)
            largest = max(float((kernel @ gradient).abs().max()), float(gradient_bias.abs().max()))
            if largest <= enough:
                break
            new, new_bias = ahead - step * gradient, ahead_bias - step * gradient_bias
            turned = (gradient * (kernel @ (new - coefficients))).sum((1, 2), keepdim=True)
            turned = turned + (gradient_bias * (new_bias - bias)).sum((1, 2), keepdim=True)
            momentum = torch.where(turned > 0, torch.ones_like(momentum), momentum)
            following = (1.0 + (1.0 + 4.0 * momentum.square()).sqrt()) / 2.0
            push = (momentum - 1.0) / following
            ahead = new + push * (new - coefficients)
            ahead_bias = new_bias + push * (new_bias - bias)
            coefficients, bias, momentum = new, new_bias, following
        else:
            warnings.warn(
                f"logistic regression stopped after max_iter={self.max_iter} steps with a gradient of {largest:.1e}, "
                f"above {enough:.1e}; raise max_iter or lower C",
                ConvergenceWarning,
                stacklevel=2,
            )
        return _Weights(x.mT @ ahead, ahead_bias, steps)

    @property
    def n_iter_(self) -> int:
        """How many steps were taken."""
        return int(self._learned.steps)

    def _scores(self, learned: _Weights, query: Tensor) -> Tensor:
        return query @ learned.weight + learned.bias
