"""Ridge regression onto the labels, in closed form."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from fewshot.classifiers.base import FewShotClassifier
from fewshot.classifiers.membership import Membership


class RidgeClassifier(FewShotClassifier):
    """Classify by ridge regression from L2-normalised embeddings to one-hot labels.

    Parameters
    ----------
    penalty : float, default 1.0
        Lambda, above 0.

    Notes
    -----
    Solved in the (s, s) dual, with an intercept that is not penalised. ``scores`` are the regression's outputs, mostly
    in [0, 1]: for labels of -1 and 1, as of scikit-learn's ``RidgeClassifier(alpha=penalty)``, twice that less 1.
    Departs from the paper in the normalised embeddings and in the intercept, instead of a learned scale and bias.

    References
    ----------
    Bertinetto et al. 2019, arXiv:1805.08136, eq. 6 (Woodbury's form), R2-D2.
    """

    def __init__(self, *, penalty: float = 1.0) -> None:
        self.penalty = penalty

    def prepare(self, vectors: Tensor) -> Tensor:
        """Return the unit vectors."""
        return normalize(vectors, dim=-1)

    def _learn(self, support: Tensor, membership: Membership) -> tuple[Tensor, Tensor]:
        if not self.penalty > 0:
            raise ValueError(f"penalty must be above 0, not {self.penalty!r}")
        targets = membership.one_hot()
        real = targets.sum(-1, keepdim=True)  # (e, s, 1), 0 where padded
        n = real.sum(1, keepdim=True)
        # Around the means the intercept is zero.
        centre, share = (real.mT @ support) / n, targets.sum(1, keepdim=True) / n  # (e, 1, d) and (e, 1, c)
        x = (support - centre) * real
        kernel = x @ x.mT + self.penalty * torch.eye(x.shape[1], device=x.device)
        weight: Tensor = x.mT @ torch.linalg.solve(kernel, (targets - share) * real)  # (e, d, c)
        return weight, share - centre @ weight

    def _scores(self, learned: tuple[Tensor, Tensor], query: Tensor) -> Tensor:
        weight, intercept = learned
        return query @ weight + intercept
