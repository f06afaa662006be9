"""Logistic regression with a strong L2 penalty."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor
from torch.nn.functional import normalize

from fewshot.classifiers.base import FewShotClassifier
from fewshot.classifiers.membership import Membership
from fewshot.validation import check_count

_POWER_STEPS = 12


@dataclass(frozen=True)
class Weights:
    """Weights of a fitted linear classifier, and the number of steps."""

    weight: Tensor  # (e, d, c)
    bias: Tensor  # (e, 1, c)
    steps: int


class LogisticRegressionClassifier(FewShotClassifier):
    """Classify by multinomial logistic regression on L2-normalised embeddings.

    Parameters
    ----------
    C : float, optional
        Inverse strength of the penalty on the weights, as in scikit-learn; the bias is not penalised. By default
        the number of examples: many classes want a weaker penalty.
    max_iter : int, default 2000
    tol : float, default 1e-5
        Largest gradient entry at which to stop, beyond what float32 can resolve.

    Notes
    -----
    The weights stay in the span of the support set, so where s is below d the problem is solved for (s, c)
    coefficients; by accelerated gradient descent (Nesterov 2004, scheme 2.2.22, restarted where the loss would turn).
    ``scores`` are the logits. Equal to scikit-learn's ``LogisticRegression(C=C, class_weight="balanced")`` on
    normalised embeddings, which gives two classes one weight vector: two opposite ones of half its length carry half
    its penalty, at half of C. Unweighted, classes of one example are hardly ever predicted beside classes of five.

    References
    ----------
    Tian et al. 2020, arXiv:2003.11539, section 3.2 (RFS: logistic regression on normalised embeddings).

    Examples
    --------
    >>> from fewshot import LogisticRegressionClassifier
    >>> classifier = LogisticRegressionClassifier(C=10.0).fit([[1, 0], [2, 1], [0, 1]], ["cat", "cat", "dog"])
    >>> classifier.predict([[1.0, 0.3], [0.3, 0.8]]).tolist()
    ['cat', 'dog']
    """

    def __init__(self, *, C: float | None = None, max_iter: int = 2000, tol: float = 1e-5) -> None:
        self.C = C
        self.max_iter = max_iter
        self.tol = tol

    def prepare(self, vectors: Tensor) -> Tensor:
        """Return the unit vectors."""
        return normalize(vectors, dim=-1)

    def _learn(self, support: Tensor, membership: Membership) -> Weights:
        return self.solve(support, membership.one_hot(), membership.balanced())

    def solve(self, x: Tensor, targets: Tensor, weights: Tensor | None = None) -> Weights:
        """Fit vectors (e, n, d) to one-hot targets (e, n, c), where a row of zeros is padding, weighted by (e, n)."""
        if self.C is not None and not self.C > 0:
            raise ValueError(f"C must be above 0, not {self.C!r}")
        check_count("max_iter", self.max_iter)
        # Classes before vectors: on a CPU a product with few long rows is several times faster than with long columns.
        targets = targets.mT.contiguous()  # (e, c, n)
        real = targets.sum(1, keepdim=True)  # (e, 1, n), 0 where padded
        if weights is not None:
            real = real * weights.unsqueeze(1)
        counts = real.sum(2, keepdim=True)
        C = counts if self.C is None else torch.full_like(counts, self.C)
        C = C / 2.0 if targets.shape[1] == 2 else C
        # The bias is not penalised, so centring changes no solution; without the direction that all vectors share the
        # steps are longer.
        centre = real @ x / counts  # (e, 1, d)
        x = (x - centre) * (real > 0).mT
        dual = x.shape[1] <= x.shape[2]
        design = x @ x.mT if dual else x  # (e, n, r): coefficients (e, c, r) times its transpose are the logits
        # The loss's curvature is at most C / 2 times the largest eigenvalue, and C / 2 times n for the bias.
        step = (1.0 + 0.5 * C * _largest_eigenvalue(design, real, dual)).reciprocal()
        bias_step = (0.5 * C * counts).reciprocal()
        coefficients = targets.new_zeros(*targets.shape[:2], design.shape[2])
        bias = torch.zeros_like(targets[..., :1])
        ahead, ahead_bias, momentum = coefficients, bias, torch.ones_like(step)
        enough = self.tol + 4.0 * torch.finfo(x.dtype).eps * float(C.amax()) * x.shape[1]
        steps = 0
        while steps < self.max_iter:
            steps += 1
            residual = ((ahead @ design.mT + ahead_bias).softmax(dim=1) - targets) * real
            if dual:
                gradient = C * residual + ahead
                slope = gradient @ design
            else:
                gradient = slope = C * (residual @ design) + ahead
            gradient_bias = C * residual.sum(2, keepdim=True)
            largest = float(torch.maximum(slope.abs().amax(), gradient_bias.abs().amax()))
            if largest <= enough:
                break
            new, new_bias = ahead - step * gradient, ahead_bias - bias_step * gradient_bias
            turned = (slope * (new - coefficients)).sum((1, 2), keepdim=True)
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
        weight = (ahead @ x if dual else ahead).mT
        return Weights(weight, ahead_bias.mT - centre @ weight, steps)

    @property
    def n_iter_(self) -> int:
        """Number of steps taken."""
        return int(self._learned.steps)

    def _scores(self, learned: Weights, query: Tensor) -> Tensor:
        return query @ learned.weight + learned.bias


def _largest_eigenvalue(design: Tensor, weights: Tensor, dual: bool) -> Tensor:
    """Bound the largest eigenvalue of w x x^T, (e, 1, 1), given x x^T (dual) or x, and w (e, 1, n)."""
    if dual:
        return (design.abs() @ weights.mT).amax(1, keepdim=True)
    # Its row sums would cost more than the fit. The power method approaches the eigenvalue from below, hence the
    # tenth; and the curvature's C / 2 is reached only where every vector lies on the border of the same two classes.
    design = design * weights.sqrt().mT
    vector = torch.randn(1, design.shape[2], generator=torch.Generator().manual_seed(0)).to(design.device)
    vector = vector.expand(len(design), -1, -1)
    for _ in range(_POWER_STEPS):
        vector = normalize(vector, dim=2) @ design.mT @ design
    length: Tensor = torch.linalg.vector_norm(vector, dim=2, keepdim=True)
    return 1.1 * length
