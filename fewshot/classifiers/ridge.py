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
    Solved in the (s, s) dual. ``scores`` are the regression's outputs, mostly in [0, 1]. Every class weighs the same,
    as with scikit-learn's ``class_weight="balanced"``: unweighted, classes of one example are hardly ever predicted
    beside classes of five. There is no intercept, as in ``Ridge(fit_intercept=False)``: with many examples of few
    dimensions, center the embeddings first. Departs from the paper in the weights, in that the embeddings are
    normalised, and its learned scale and bias are left out.

    References
    ----------
    Bertinetto et al. 2019, arXiv:1805.08136, eq. 6 (Woodbury's form), R2-D2.

    Examples
    --------
    >>> from fewshot import RidgeClassifier
    >>> classifier = RidgeClassifier(penalty=0.1).fit([[1, 0], [2, 1], [0, 1]], ["cat", "cat", "dog"])
    >>> classifier.predict([[1.0, 0.3], [0.3, 0.8]]).tolist()
    ['cat', 'dog']
    """

    def __init__(self, *, penalty: float = 1.0) -> None:
        self.penalty = penalty

    def prepare(self, vectors: Tensor) -> Tensor:
        """Return the unit vectors."""
        return normalize(vectors, dim=-1)

    def _learn(self, support: Tensor, membership: Membership) -> Tensor:
        if not self.penalty > 0:
            raise ValueError(f"penalty must be above 0, not {self.penalty!r}")
        targets = membership.one_hot()
        x = support * targets.sum(-1, keepdim=True)  # padding becomes zero
        weights = membership.balanced()
        kernel = x @ x.mT + torch.diag_embed(self.penalty / torch.where(weights > 0, weights, 1.0))
        weight: Tensor = x.mT @ torch.linalg.solve(kernel, targets)
        return weight  # (e, d, c)

    def _scores(self, learned: Tensor, query: Tensor) -> Tensor:
        return query @ learned
