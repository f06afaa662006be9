"""Matching networks' classifier: every support example votes with its attention."""

from __future__ import annotations

import torch
from torch import Tensor

from fewshot.calibration import log_vote_shares
from fewshot.classifiers.base import FewShotClassifier
from fewshot.classifiers.membership import LabelledSupport, Membership
from fewshot.vectors import closeness


class MatchingClassifier(FewShotClassifier):
    """Classify by attention: a softmax over the cosines to all support examples, summed within each class.

    Parameters
    ----------
    scale : float, default 10.0
        What cosines are multiplied by before the softmax. The paper has 1, for an encoder trained that way; with a
        frozen one the attention would be nearly uniform.

    Notes
    -----
    ``scores`` are the attention of each class, in [0, 1], summing to 1. As in the paper, a class with more examples has
    more votes.

    References
    ----------
    Vinyals et al. 2016, arXiv:1606.04080, eq. 1 and section 2.1.1; without full context embeddings.

    Examples
    --------
    >>> from fewshot import MatchingClassifier
    >>> classifier = MatchingClassifier().fit([[1, 0], [2, 1], [0, 1]], ["cat", "cat", "dog"])
    >>> classifier.predict([[1.0, 0.3], [0.3, 0.8]]).tolist()
    ['cat', 'dog']
    >>> classifier.scores([[1.0, 0.3]]).round(2)
    array([[1., 0.]], dtype=float32)
    """

    def __init__(self, *, scale: float = 10.0) -> None:
        self.scale = scale

    def _learn(self, support: Tensor, membership: Membership) -> LabelledSupport:
        return LabelledSupport(support, membership)

    def _scores(self, learned: LabelledSupport, query: Tensor) -> Tensor:
        logits = self.scale * closeness(query, learned.support, "cosine")
        logits = logits.masked_fill((learned.membership.labels < 0).unsqueeze(1), -torch.inf)
        attention = logits.softmax(dim=-1)  # (e, q, s)
        return learned.membership.sums(attention.mT).mT

    def _calibration_logits(self, learned: LabelledSupport, query: Tensor, scores: Tensor) -> Tensor:
        return log_vote_shares(scores)
