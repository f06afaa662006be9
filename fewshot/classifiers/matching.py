"""Matching networks' classifier: every support example votes with its attention."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fewshot.calibration import log_vote_shares
from fewshot.classifiers.base import FewShotClassifier
from fewshot.classifiers.membership import Membership
from fewshot.vectors import closeness


@dataclass(frozen=True)
class _Remembered:
    support: Tensor  # (e, s, d)
    membership: Membership


class MatchingClassifier(FewShotClassifier):
    """Classify by attention: a softmax over the cosines to all support examples, summed within each class.

    Parameters
    ----------
    scale : float, default 10.0
        What cosines are multiplied by before the softmax. The paper has 1, for an encoder trained that way; frozen
        encoders need more, or all examples vote nearly alike.

    Notes
    -----
    ``scores`` are the attention of each class, in [0, 1], summing to 1. A class with more
    examples has more votes, as in the paper.

    References
    ----------
    Vinyals et al. 2016, arXiv:1606.04080, eq. 1 and section 2.1.1; without full context embeddings.
    """

    def __init__(self, *, scale: float = 10.0) -> None:
        self.scale = scale

    def _learn(self, support: Tensor, membership: Membership) -> _Remembered:
        return _Remembered(support, membership)

    def _scores(self, learned: _Remembered, query: Tensor) -> Tensor:
        logits = self.scale * closeness(query, learned.support, "cosine")
        logits = logits.masked_fill((learned.membership.labels < 0).unsqueeze(1), -torch.inf)
        attention = logits.softmax(dim=-1)  # (e, q, s)
        return learned.membership.sums(attention.mT).mT

    def _calibration_logits(self, learned: _Remembered, query: Tensor, scores: Tensor) -> Tensor:
        return log_vote_shares(scores)


class CacheClassifier(FewShotClassifier):
    """Classify by a cache of the support: each example votes with a kernel of its cosine (Tip-Adapter without text).

    Parameters
    ----------
    beta : float, default 5.5
        Sharpness of the kernel exp(-beta (1 - cos)).

    Notes
    -----
    ``scores`` are the summed votes of each class, from 0 to its number of examples.

    References
    ----------
    Zhang et al. 2022, arXiv:2207.09519, eq. 4-5; the zero-shot term is left out, and beta is their default.
    """

    def __init__(self, *, beta: float = 5.5) -> None:
        self.beta = beta

    def _learn(self, support: Tensor, membership: Membership) -> _Remembered:
        return _Remembered(support, membership)

    def _scores(self, learned: _Remembered, query: Tensor) -> Tensor:
        votes = torch.exp(-self.beta * (1.0 - closeness(query, learned.support, "cosine")))  # (e, q, s)
        return learned.membership.sums(votes.mT).mT

    def _calibration_logits(self, learned: _Remembered, query: Tensor, scores: Tensor) -> Tensor:
        return log_vote_shares(scores)
