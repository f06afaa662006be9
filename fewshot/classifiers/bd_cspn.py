"""BD-CSPN: prototypes rectified by pseudo-labelled queries."""

from __future__ import annotations

import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn.functional import normalize

from fewshot.classifiers.transductive import PRIORS, Prior, Task, TransductiveClassifier, cosine_logits, proportions
from fewshot.validation import check_choice


class BDCSPNClassifier(TransductiveClassifier):
    """Classify by cosine to prototypes rectified by shifting and pseudo-labelling the queries; transductive.

    Parameters
    ----------
    epsilon : float, default 20.0
        What cosines are multiplied by before the softmax over classes, whose values weigh the examples of the
        rectified prototypes. The authors' 10 is for centred embeddings; others' cosines lie closer together.
    prior : {"estimated", "uniform"}, default "estimated"
        Class proportions of the queries. The paper's shift moves the queries' mean onto the support's, which is right
        only for equal proportions ("uniform"): queries of one class only are moved into the middle of all.
    center : array-like of shape (d,), optional
        The mean embedding of base data, as in ``SimpleShotClassifier``.

    Notes
    -----
    ``scores`` are 10 times the cosines. The weights are those of the authors' code; the paper's, exp(epsilon cos)
    over the examples of a class, let the one example of a class outweigh its queries. Departs from the paper in that
    all queries are pseudo-labelled, not the 8 most confident of each class, and in the estimated prior.

    References
    ----------
    Liu, Song & Qin 2020, arXiv:1911.10713, eq. 4-7.

    Examples
    --------
    >>> from fewshot import BDCSPNClassifier
    >>> classifier = BDCSPNClassifier().fit([[1, 0], [2, 1], [0, 1]], ["cat", "cat", "dog"])
    >>> classifier.predict([[1.0, 0.3], [1.0, 0.6], [0.3, 0.8], [0.1, 0.9]]).tolist()
    ['cat', 'cat', 'dog', 'dog']
    """

    def __init__(self, *, epsilon: float = 20.0, prior: Prior = "estimated", center: ArrayLike | None = None) -> None:
        self.epsilon = epsilon
        self.prior = prior
        self.center = center

    def _refined(self, task: Task, query: Tensor) -> Tensor:
        shifted = shift(task, query, self.prior)
        return cosine_logits(shifted, rectify(task, shifted, self.epsilon))


def shift(task: Task, query: Tensor, prior: Prior) -> Tensor:
    """Move queries (e, q, d) so that their mean is where class means in their proportions would have it."""
    check_choice("prior", prior, PRIORS)
    expected = proportions(task, query, prior) @ task.means  # (e, 1, d)
    moved = query + (expected - query.mean(dim=1, keepdim=True))
    # In place: at this size a second array costs more than the division.
    return moved.div_(torch.linalg.vector_norm(moved, dim=-1, keepdim=True).clamp_min_(1e-12))


def rectify(task: Task, query: Tensor, epsilon: float) -> Tensor:
    """Prototypes (e, c, d): means of support and pseudo-labelled queries, weighted by their softmax over classes."""
    # Classes before examples: a softmax over an axis of five is slow where that axis is the last.
    prototypes = epsilon * normalize(task.means, dim=-1)
    of_support, of_query = ((prototypes @ part.mT).softmax(dim=1) for part in (task.support, query))
    highest, pseudo = of_query.max(dim=1, keepdim=True)  # many times as fast as argmax
    of_support, of_query = task.one_hot.mT * of_support, torch.zeros_like(of_query).scatter_(1, pseudo, highest)
    total = (of_support.sum(2) + of_query.sum(2)).clamp_min(torch.finfo(query.dtype).tiny)
    return (of_support @ task.support + of_query @ query) / total.unsqueeze(-1)
