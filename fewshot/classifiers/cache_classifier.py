"""The cache model of Tip-Adapter, without its text branch."""

from __future__ import annotations

import torch
from torch import Tensor

from fewshot.calibration import log_vote_shares
from fewshot.classifiers.base import FewShotClassifier
from fewshot.classifiers.membership import LabelledSupport, Membership
from fewshot.vectors import closeness


class CacheClassifier(FewShotClassifier):
    """Classify by a cache of the support: each example votes with a kernel of its cosine (Tip-Adapter without text).

    Parameters
    ----------
    beta : float, default 5.5
        Inverse width of the kernel exp(-beta (1 - cos)).

    Notes
    -----
    ``scores`` are the summed votes of each class, from 0 to its number of examples.

    References
    ----------
    Zhang et al. 2022, arXiv:2207.09519, eq. 4-5; the zero-shot term is left out, and beta is their default.

    Examples
    --------
    >>> from fewshot import CacheClassifier
    >>> classifier = CacheClassifier(beta=2.0).fit([[1, 0], [2, 1], [0, 1]], ["cat", "cat", "dog"])
    >>> classifier.predict([[1.0, 0.3], [0.3, 0.8]]).tolist()
    ['cat', 'dog']
    """

    def __init__(self, *, beta: float = 5.5) -> None:
        self.beta = beta

    def _learn(self, support: Tensor, membership: Membership) -> LabelledSupport:
        return LabelledSupport(support, membership)

    def _scores(self, learned: LabelledSupport, query: Tensor) -> Tensor:
        votes = torch.exp(-self.beta * (1.0 - closeness(query, learned.support, "cosine")))  # (e, q, s)
        return learned.membership.sums(votes.mT).mT

    def _calibration_logits(self, learned: LabelledSupport, query: Tensor, scores: Tensor) -> Tensor:
        return log_vote_shares(scores)
