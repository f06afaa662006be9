"""Baseline++'s classifier: a cosine head fine-tuned on the support set."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import normalize

from fewshot.classifiers.base import FewShotClassifier
from fewshot.classifiers.membership import Membership
from fewshot.validation import check_count
from fewshot.vectors import closeness


class CosineHeadClassifier(FewShotClassifier):
    """Classify by cosines to class weights that gradient descent has fitted to the support set.

    Parameters
    ----------
    scale : float, default 10.0
        What cosines are multiplied by before the softmax.
    steps : int, default 100
        Of full-batch gradient descent on the cross-entropy.
    learning_rate : float, default 0.1

    Notes
    -----
    Departs from the paper in that the weights start as the class means, so that nothing is random and few steps do,
    and that plain gradient descent on all examples is used, with the gradient written out. ``scores`` are cosines.

    References
    ----------
    Chen et al. 2019, arXiv:1904.04232, section 3.2 (Baseline++).

    Examples
    --------
    >>> from fewshot import CosineHeadClassifier
    >>> classifier = CosineHeadClassifier(steps=20).fit([[1, 0], [2, 1], [0, 1]], ["cat", "cat", "dog"])
    >>> classifier.predict([[1.0, 0.3], [0.3, 0.8]]).tolist()
    ['cat', 'dog']
    """

    def __init__(self, *, scale: float = 10.0, steps: int = 100, learning_rate: float = 0.1) -> None:
        self.scale = scale
        self.steps = steps
        self.learning_rate = learning_rate

    def prepare(self, vectors: Tensor) -> Tensor:
        """Return the unit vectors."""
        return normalize(vectors, dim=-1)

    def _learn(self, support: Tensor, membership: Membership) -> Tensor:
        check_count("steps", self.steps, minimum=0)
        targets = membership.one_hot()
        real = targets.sum(-1, keepdim=True)
        x = support * real
        weight = normalize(membership.sums(x), dim=-1)  # (e, c, d)
        for _ in range(self.steps):
            length = weight.norm(dim=-1, keepdim=True).clamp_min(1e-12)
            unit = weight / length
            cosine = x @ unit.mT  # (e, s, c)
            slope = self.scale * ((self.scale * cosine).softmax(dim=-1) - targets) * real / real.sum(1, keepdim=True)
            # d cos(w, x) / dw = (x - cos(w, x) w/|w|) / |w|
            gradient = (slope.mT @ x - (slope * cosine).sum(1).unsqueeze(-1) * unit) / length
            weight = weight - self.learning_rate * gradient
        return weight

    def _scores(self, learned: Tensor, query: Tensor) -> Tensor:
        return closeness(query, learned, "cosine")
