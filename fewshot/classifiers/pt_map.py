"""PT-MAP: power-transformed embeddings, assigned by optimal transport to class means that are updated."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import normalize

from fewshot.classifiers.membership import Membership
from fewshot.classifiers.transductive import (
    PRIORS,
    Prior,
    Task,
    TransductiveClassifier,
    proportions,
    safe_log,
    soft_means,
    squared_distances,
)
from fewshot.validation import check_choice, check_count

_SINKHORN_STEPS, _SINKHORN_TOLERANCE = 200, 1e-4


class PTMAPClassifier(TransductiveClassifier):
    """Classify by optimal transport from queries to class means, updated in turn; transductive.

    Parameters
    ----------
    power : float, default 0.5
        Exponent of the power transform sign(x) |x|^power: the sign is kept, so that no half of a signed embedding is
        lost. For embeddings without negative entries it is the paper's.
    sharpness : float, default 10.0
        Lambda: assignments are proportional to exp(-lambda |f - mu|^2) before they are balanced.
    rate : float, default 0.2
        Step size of the means' updates.
    n_iter : int, default 20
    prior : {"estimated", "uniform"}, default "estimated"
        Class proportions of the queries. The paper's "uniform" is the best on balanced queries and the worst on others
        (16 to 18 points lost; Veilleux et al. 2021, table 1).

    Notes
    -----
    ``scores`` are the logarithms of the assignments. Departs from the paper in the signed
    power and in the estimated prior, and from its authors' code in centring queries on the mean of the support's class
    means, not on their own, which lies nearer to the most frequent class.

    References
    ----------
    Hu, Gripon & Pateux 2021, arXiv:2006.03806, eq. 1-6 and algorithm 1; the centring is of its authors' code.

    Examples
    --------
    >>> from fewshot import PTMAPClassifier
    >>> classifier = PTMAPClassifier(prior="uniform").fit([[1, 0], [2, 1], [0, 1]], ["cat", "cat", "dog"])
    >>> classifier.predict([[1.0, 0.3], [1.0, 0.6], [0.3, 0.8], [0.1, 0.9]]).tolist()
    ['cat', 'cat', 'dog', 'dog']
    """

    def __init__(
        self,
        *,
        power: float = 0.5,
        sharpness: float = 10.0,
        rate: float = 0.2,
        n_iter: int = 20,
        prior: Prior = "estimated",
    ) -> None:
        self.power = power
        self.sharpness = sharpness
        self.rate = rate
        self.n_iter = n_iter
        self.prior = prior

    def prepare(self, vectors: Tensor) -> Tensor:
        """Return the unit vectors of the signed powers."""
        return normalize(vectors.sign() * vectors.abs() ** self.power, dim=-1)

    def _learn(self, support: Tensor, membership: Membership) -> Task:
        check_choice("prior", self.prior, PRIORS)
        check_count("n_iter", self.n_iter, minimum=0)
        return super()._learn(support, membership)

    def _refined(self, task: Task, query: Tensor) -> Tensor:
        share = proportions(task, query, self.prior)
        task, query = _centred(task, query)
        means = task.means
        for _ in range(self.n_iter):
            found = soft_means(task, query, self._transport(query, means, share))
            means = means + self.rate * (found - means)
        return safe_log(self._transport(query, means, share))

    def _transport(self, query: Tensor, means: Tensor, share: Tensor) -> Tensor:
        """Assignments (e, q, c): rows sum to 1, columns to the classes' share of the queries (Sinkhorn)."""
        cost = squared_distances(query, means)
        plan = torch.exp(-self.sharpness * (cost - cost.amin(dim=-1, keepdim=True)))
        wanted = share * query.shape[1]
        for _ in range(_SINKHORN_STEPS):
            balanced = plan * (wanted / plan.sum(dim=1, keepdim=True).clamp_min(1e-12))
            rows = balanced.sum(dim=-1, keepdim=True)
            # Each episode stops on its own, so that its scores do not depend on the others of the batch.
            going = (rows - 1.0).abs().amax(dim=1, keepdim=True) > _SINKHORN_TOLERANCE
            plan = torch.where(going, balanced / rows.clamp_min(1e-12), plan)
            if not bool(going.any()):
                break
        return plan / plan.sum(dim=-1, keepdim=True)


def _centred(task: Task, query: Tensor) -> tuple[Task, Tensor]:
    """Directions from the mean of the class means.

    Powers of one encoder's embeddings have high cosines: assignments at the paper's sharpness would be nearly uniform,
    and draw all class means together.
    """
    centre = task.means.mean(dim=1, keepdim=True)
    support = normalize(task.support - centre, dim=-1) * task.one_hot.sum(-1, keepdim=True)
    return replace(task, support=support, sums=task.one_hot.mT @ support), normalize(query - centre, dim=-1)
