"""Prototypes rectified by the queries (BD-CSPN), and neighbours that agree (LaplacianShot)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from fewshot.classifiers.transductive import (
    PRIORS,
    Prior,
    Task,
    TransductiveClassifier,
    cosine_logits,
    proportions,
    squared_distances,
)
from fewshot.validation import check_choice, check_count


class BDCSPNClassifier(TransductiveClassifier):
    """Classify by cosine to prototypes rectified by shifting and pseudo-labelling the queries; transductive.

    Parameters
    ----------
    epsilon : float, default 1.0
        Sharpness of the weights exp(epsilon cos) with which examples enter the rectified prototypes. The paper has 10;
        at 1 shot the example, whose cosine to its own mean is 1, then outweighs all the queries of its class.
    prior : {"estimated", "uniform"}, default "estimated"
        Class proportions of the queries. The paper's shift moves the queries' mean onto the support's, which is right
        only for equal proportions ("uniform"): with one class asked it moves that class into the middle of all.

    Notes
    -----
    ``scores`` are 10 times the cosines. Departs from the paper in that all queries
    are pseudo-labelled, not the 8 surest of each class, and in the estimated prior.

    References
    ----------
    Liu, Song & Qin 2020, arXiv:1911.10713, eq. 4-7.
    """

    def __init__(self, *, epsilon: float = 1.0, prior: Prior = "estimated") -> None:
        self.epsilon = epsilon
        self.prior = prior

    def _refined(self, task: Task, query: Tensor) -> Tensor:
        shifted = shift(task, query, self.prior)
        return cosine_logits(shifted, rectify(task, shifted, self.epsilon))


class LaplacianShotClassifier(TransductiveClassifier):
    """Classify so that near queries agree: a Laplacian term over k nearest neighbours; transductive.

    Parameters
    ----------
    weight : float, default 0.7
        Lambda, of the Laplacian term.
    n_neighbors : int, default 3
        Neighbours of each query among the other queries; fewer where there are fewer.
    n_iter : int, default 20
        Bound updates.
    epsilon : float, default 1.0
        As in ``BDCSPNClassifier``, whose rectified prototypes are the starting point.
    prior : {"estimated", "uniform"}, default "estimated"
        As in ``BDCSPNClassifier``.

    Notes
    -----
    ``scores`` are the logits of the last update.

    References
    ----------
    Ziko et al. 2020, arXiv:2006.15486, eq. 9-10 (bound updates); section 3.4 (rectified prototypes).
    """

    def __init__(
        self,
        *,
        weight: float = 0.7,
        n_neighbors: int = 3,
        n_iter: int = 20,
        epsilon: float = 1.0,
        prior: Prior = "estimated",
    ) -> None:
        self.weight = weight
        self.n_neighbors = n_neighbors
        self.n_iter = n_iter
        self.epsilon = epsilon
        self.prior = prior

    def _refined(self, task: Task, query: Tensor) -> Tensor:
        check_count("n_neighbors", self.n_neighbors)
        check_count("n_iter", self.n_iter, minimum=0)
        shifted = shift(task, query, self.prior)
        # Classes before queries: a softmax over an axis of five is slow where that axis is the last.
        unary = -squared_distances(shifted, rectify(task, shifted, self.epsilon)).mT.contiguous()
        influence = self._affinity(shifted).mT
        logits = unary
        for _ in range(self.n_iter):
            logits = torch.baddbmm(unary, logits.softmax(dim=1), influence, alpha=self.weight)
        return logits.mT.contiguous()

    def _affinity(self, query: Tensor) -> Tensor:
        """1 where query j is among the k nearest others of query i: (e, q, q)."""
        q = query.shape[1]
        close = query @ query.mT
        close.diagonal(dim1=1, dim2=2).fill_(-4.0)  # no query is its own neighbour
        near = close.topk(min(self.n_neighbors, q - 1), dim=-1, sorted=False).indices
        return torch.zeros_like(close).scatter_(2, near, 1.0)


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
    # Each class's largest exponent is taken out: it cancels, and exp cannot overflow.
    surely = epsilon * (to_support - 1.0), epsilon * (to_query - 1.0)
    of_support, of_query = task.one_hot * surely[0].exp(), pseudo * surely[1].exp()
    total = (of_support.sum(1) + of_query.sum(1)).clamp_min(torch.finfo(query.dtype).tiny)
    return (of_support.mT @ task.support + of_query.mT @ query) / total.unsqueeze(-1)
