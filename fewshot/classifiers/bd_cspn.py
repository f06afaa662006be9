"""BD-CSPN: prototypes rectified by pseudo-labelled queries."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from fewshot.classifiers.transductive import PRIORS, Prior, Task, TransductiveClassifier, cosine_logits, proportions
from fewshot.validation import check_choice


class BDCSPNClassifier(TransductiveClassifier):
    """Classify by cosine to prototypes rectified by shifting and pseudo-labelling the queries; transductive.

    Parameters
    ----------
    epsilon : float, default 1.0
        Of the weights exp(epsilon cos) with which examples enter the rectified prototypes. The paper has 10; at 1 shot
        the example, whose cosine to its own mean is 1, then outweighs all the queries of its class.
    prior : {"estimated", "uniform"}, default "estimated"
        Class proportions of the queries. The paper's shift moves the queries' mean onto the support's, which is right
        only for equal proportions ("uniform"): queries of one class only are moved into the middle of all.

    Notes
    -----
    ``scores`` are 10 times the cosines. Departs from the paper in that all queries are pseudo-labelled, not the 8 most
    confident of each class, and in the estimated prior.

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

    def __init__(self, *, epsilon: float = 1.0, prior: Prior = "estimated") -> None:
        self.epsilon = epsilon
        self.prior = prior

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
    """Prototypes (e, c, d) as means of support and pseudo-labelled queries, weighted by exp(epsilon cos)."""
    prototypes = normalize(task.means, dim=-1)
    to_support, to_query = task.support @ prototypes.mT, query @ prototypes.mT
    pseudo = one_hot(to_query.argmax(dim=-1), prototypes.shape[1])
    # The largest exponent is taken out: it cancels, and exp cannot overflow.
    of_support = task.one_hot * (epsilon * (to_support - 1.0)).exp()
    of_query = pseudo * (epsilon * (to_query - 1.0)).exp()
    total = (of_support.sum(1) + of_query.sum(1)).clamp_min(torch.finfo(query.dtype).tiny)
    return (of_support.mT @ task.support + of_query.mT @ query) / total.unsqueeze(-1)
