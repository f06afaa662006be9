"""Base class of transductive methods, which learn from the queries too; the class proportions of the queries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn.functional import normalize

from fewshot.classifiers.base import FewShotClassifier
from fewshot.classifiers.centering import centred_directions
from fewshot.classifiers.membership import Membership

Prior = Literal["estimated", "uniform"]
PRIORS: tuple[Prior, ...] = ("estimated", "uniform")

SCALE = 10.0  # of cosines before a softmax, by default: Hu et al. 2022 learn one near 10
_PRIOR_STEPS, _NEARLY_UNIFORM = 5, 0.9


@dataclass(frozen=True)
class Task:
    """A support set, L2-normalised.

    Attributes
    ----------
    support : Tensor of shape (e, s, d)
        Zero where padded.
    one_hot : Tensor of shape (e, s, c)
        Zero where padded.
    sums, counts : Tensor of shape (e, c, d) and (e, c, 1)
    """

    support: Tensor
    one_hot: Tensor
    sums: Tensor
    counts: Tensor

    @property
    def means(self) -> Tensor:
        """The class means (e, c, d)."""
        return self.sums / self.counts.clamp_min(1.0)


class TransductiveClassifier(FewShotClassifier):
    """Base of methods that learn from the queries too: a prediction depends on the batch of queries.

    Embeddings are L2-normalised first, from the ``center`` of methods that take one. A single query is predicted by the
    closest class mean. ``predict`` still changes nothing: the same batch gives the same predictions.

    These methods gain most on balanced queries. Where nearly all queries are of one class they do worse than
    prototypes, though better than chance.
    """

    transductive = True
    center: ArrayLike | None = None

    def prepare(self, vectors: Tensor) -> Tensor:
        """Return the unit vectors, from the centre where there is one."""
        return centred_directions(vectors, self.center)

    def _learn(self, support: Tensor, membership: Membership) -> Task:
        one_hot = membership.one_hot()
        support = support * one_hot.sum(-1, keepdim=True)
        return Task(support, one_hot, membership.sums(support), membership.counts().unsqueeze(-1))

    def _scores(self, learned: Task, query: Tensor) -> Tensor:
        if query.shape[1] == 1:
            return cosine_logits(query, learned.means)
        return self._refined(learned, query)

    def _support_scores(self, learned: Task, support: Tensor) -> Tensor:
        return cosine_logits(support, learned.means)

    def _calibration_key(self, n_queries: int) -> str:
        if self.center is None:
            return "PrototypeClassifier" if n_queries == 1 else type(self).__name__
        return ("SimpleShotClassifier" if n_queries == 1 else type(self).__name__) + " of centred"

    def _refined(self, task: Task, query: Tensor) -> Tensor:
        """From a task and at least two normalised queries (e, q, d) to scores (e, q, c)."""
        raise NotImplementedError


def cosine_logits(query: Tensor, keys: Tensor, scale: float = SCALE) -> Tensor:
    """Cosines of normalised queries (e, q, d) to keys (e, c, d), scaled: (e, q, c)."""
    return scale * (query @ normalize(keys, dim=-1).mT)


def proportions(task: Task, query: Tensor, prior: Prior) -> Tensor:
    """Class proportions of the queries: (e, 1, c), rows summing to 1.

    "uniform" is what most papers assume. "estimated" is the share of each class in a soft k-means of the queries that
    starts from the class means, all centred on their mean (else a class in the middle takes most), with one
    pseudo-query of each class. An estimate that is nearly uniform (perplexity above 0.9 c) is replaced by the uniform
    one. Expectation maximisation of the proportions (Saerens et al. 2002) diverges with one-shot means.
    """
    q, c = query.shape[1], task.sums.shape[1]
    uniform = query.new_full((len(query), 1, c), 1.0 / c)
    if prior == "uniform":
        return uniform
    centre = task.means.mean(dim=1, keepdim=True)
    start, query = normalize(task.means - centre, dim=-1), normalize(query - centre, dim=-1)
    means = start
    for _ in range(_PRIOR_STEPS):
        assigned = cosine_logits(query, means).softmax(dim=-1)
        means = (task.counts * start + assigned.mT @ query) / (task.counts + assigned.sum(1).unsqueeze(-1))
    assigned = cosine_logits(query, means).softmax(dim=-1)
    found = (assigned.sum(1, keepdim=True) + 1.0) / (q + c)
    perplexity = (-(found * found.log()).sum(-1, keepdim=True)).exp()
    return torch.where(perplexity > _NEARLY_UNIFORM * c, uniform, found)


def soft_means(task: Task, query: Tensor, assigned: Tensor) -> Tensor:
    """Class means over support and softly assigned queries (e, q, c): (e, c, d)."""
    return (task.sums + assigned.mT @ query) / (task.counts + assigned.sum(1).unsqueeze(-1)).clamp_min(1e-12)


def squared_distances(query: Tensor, keys: Tensor) -> Tensor:
    """Squared distances (e, q, c) of unit queries to keys of any length; at these lengths the Gram matrix is exact."""
    lengths = keys.square().sum(-1).unsqueeze(1) + 1.0
    return torch.baddbmm(lengths, query, keys.mT, alpha=-2.0).clamp_min_(0.0)


def safe_log(values: Tensor) -> Tensor:
    """Logarithm of probabilities, finite at 0."""
    return values.clamp_min(torch.finfo(values.dtype).tiny).log()
