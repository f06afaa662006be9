"""Gaussian classifiers: one shrunk covariance for all classes, or one for each."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fewshot.classifiers.base import FewShotClassifier
from fewshot.classifiers.membership import Membership


@dataclass(frozen=True)
class _Linear:
    weight: Tensor  # (e, d, c)
    bias: Tensor  # (e, 1, c)


class LinearDiscriminantClassifier(FewShotClassifier):
    """Classify by Gaussians with one covariance for all classes, shrunk towards a multiple of the identity.

    Notes
    -----
    The precision matrix is the empirical-Bayes estimate d (R'R + t I)^-1, where R (s, d) are the residuals from the
    class means and t = tr(R'R) / (s - 1); it has no parameter. It is applied through the (s, s) Gram matrix of the
    residuals, never formed. With one example of each class there are no residuals: the identity is used, and the
    predictions are those of the squared Euclidean distance to the prototypes. ``scores`` are log densities up to a
    constant, with a uniform prior.

    References
    ----------
    Wang et al. 2024, arXiv:2402.04087, eq. 4-6; Kubokawa & Srivastava 2008 for the precision matrix.

    Examples
    --------
    >>> from fewshot import LinearDiscriminantClassifier
    >>> classifier = LinearDiscriminantClassifier().fit([[1, 0], [2, 1], [0, 1]], ["cat", "cat", "dog"])
    >>> classifier.predict([[1.0, 0.3], [0.3, 0.8]]).tolist()
    ['cat', 'dog']
    """

    def _learn(self, support: Tensor, membership: Membership) -> _Linear:
        one_hot = membership.one_hot()
        real = one_hot.sum(-1, keepdim=True)  # (e, s, 1), 0 where padded
        means = membership.sums(support) / membership.counts().clamp_min(1.0).unsqueeze(-1)
        centre = (means * (membership.counts() > 0).unsqueeze(-1)).mean(1, keepdim=True)
        means = means - centre  # a common shift changes no decision, and keeps float32 exact
        residuals = (support - centre - one_hot @ means) * real
        gram = residuals @ residuals.mT
        spread = gram.diagonal(dim1=1, dim2=2).sum(-1) / (real.sum((1, 2)) - 1.0).clamp_min(1.0)
        flat = spread <= torch.finfo(spread.dtype).eps * support.square().sum((1, 2))
        shrink = torch.where(flat, torch.ones_like(spread), spread).view(-1, 1, 1)
        inner = torch.linalg.solve(gram + shrink * torch.eye(gram.shape[1], device=gram.device), residuals @ means.mT)
        weight = support.shape[2] * (means.mT - residuals.mT @ inner) / shrink
        weight = torch.where(flat.view(-1, 1, 1), means.mT, weight)
        bias = -0.5 * (weight * means.mT).sum(1, keepdim=True)
        return _Linear(weight, bias - (centre @ weight))

    def _scores(self, learned: _Linear, query: Tensor) -> Tensor:
        return query @ learned.weight + learned.bias


@dataclass(frozen=True)
class _Quadratic:
    centre: Tensor  # (e, 1, d)
    axes: Tensor  # (e, r, d): the support's principal axes around the centre, r = min(s, d)
    placed: Tensor  # (e, c, r): the class means along them
    inverse: Tensor  # (e, c, r): of the variances that the task and the ridge give along them
    own: Tensor  # (e, c, m, r): from coordinates to what the class's own covariance takes off; m is the largest n_k


class MahalanobisClassifier(FewShotClassifier):
    """Classify by the Mahalanobis distance to each class mean, under a covariance of its own (Simple CNAPS).

    Parameters
    ----------
    ridge : float, default 1.0
        Beta, added to the diagonal of every covariance; in squared embedding units, so it depends on the encoder.

    Notes
    -----
    Q_k = l S_k + (1 - l) S + beta I with l = n_k / (n_k + 1), where S_k and S are the covariances of the class and of
    the whole support set. S is diagonal along the support's principal axes, whatever its weight, so that one
    decomposition, of the (s, s) or (d, d) matrix of products, whichever is smaller, serves classes of every size; S_k
    is a correction of rank below n_k (Woodbury). ``scores`` are minus half the squared distances; the log-determinant
    is left out, as in the paper.

    References
    ----------
    Bateni et al. 2020, arXiv:1912.03432, eq. 2-3.

    Examples
    --------
    >>> from fewshot import MahalanobisClassifier
    >>> classifier = MahalanobisClassifier(ridge=0.1).fit([[1, 0], [2, 1], [0, 1]], ["cat", "cat", "dog"])
    >>> classifier.predict([[1.0, 0.3], [0.3, 0.8]]).tolist()
    ['cat', 'dog']
    """

    def __init__(self, *, ridge: float = 1.0) -> None:
        self.ridge = ridge

    def _learn(self, support: Tensor, membership: Membership) -> _Quadratic:
        if not self.ridge > 0:
            raise ValueError(f"ridge must be above 0, not {self.ridge!r}")
        one_hot = membership.one_hot()  # (e, s, c)
        real = one_hot.sum(-1, keepdim=True)  # (e, s, 1)
        counts, total = membership.counts().unsqueeze(-1), real.sum(1, keepdim=True)  # (e, c, 1), (e, 1, 1)
        centre = (support * real).sum(1, keepdim=True) / total
        support = (support - centre) * real
        averaging = one_hot.mT / counts.clamp_min(1.0)  # (e, c, s)
        axes, rows = _principal(support)
        spread = rows.square().sum(1, keepdim=True)  # (e, 1, r)
        share = counts / (counts + 1.0)
        inverse = 1.0 / (self.ridge + (1.0 - share) * spread / (total - 1.0).clamp_min(1.0))  # (e, c, r)
        placed = averaging @ rows
        rows = (rows - one_hot @ placed) * (one_hot @ (share / (counts - 1.0).clamp_min(1.0)).sqrt())
        own = _by_class(rows, membership)
        root = own * inverse.sqrt().unsqueeze(2)
        inner = root @ root.mT + torch.eye(own.shape[2], device=own.device)
        own = torch.linalg.solve_triangular(torch.linalg.cholesky(inner), own * inverse.unsqueeze(2), upper=False)
        return _Quadratic(centre, axes, placed, inverse, own)

    def _scores(self, learned: _Quadratic, query: Tensor) -> Tensor:
        query = query - learned.centre
        along = query @ learned.axes.mT  # (e, q, r)
        weighted = learned.inverse * learned.placed
        # sum_r inverse (along - placed)^2, without an array of all its four axes
        squared = along.square() @ learned.inverse.mT - 2.0 * along @ weighted.mT
        squared = squared + (weighted * learned.placed).sum(-1).unsqueeze(1)
        shift = learned.own @ learned.placed.unsqueeze(-1)
        squared = squared - (learned.own @ along.mT.unsqueeze(1) - shift).square().sum(2).mT
        squared = squared.clamp_min(0.0)
        if along.shape[2] < query.shape[2]:
            # Off the axes there is the ridge only; it is the same for all classes, so its rounding decides nothing.
            length: Tensor = torch.linalg.vector_norm(query, dim=-1, keepdim=True)
            off = length.square() - along.square().sum(-1, keepdim=True)
            squared = squared + off.clamp_min(0.0) / self.ridge
        return -0.5 * squared


def _principal(support: Tensor) -> tuple[Tensor, Tensor]:
    """Return the principal axes (e, r, d) of centred support (e, s, d) and its coordinates along them (e, s, r).

    r = min(s, d); axes along which the support does not extend may be zero.
    """
    if support.shape[1] >= support.shape[2]:
        axes = torch.linalg.eigh(support.mT @ support).eigenvectors
        return axes.mT, support @ axes
    spread, rows = torch.linalg.eigh(support @ support.mT)
    noise = 10.0 * torch.finfo(spread.dtype).eps * spread[:, -1:]  # the largest is the last
    length = torch.where(spread > noise, spread, 0.0).sqrt().unsqueeze(1)  # (e, 1, r)
    return torch.where(length > 0.0, rows / length, 0.0).mT @ support, rows * length


def _by_class(rows: Tensor, membership: Membership) -> Tensor:
    """Gather the rows (e, s, r) of each class: (e, c, m, r), m the size of the largest, zeros where one is smaller."""
    most = int(membership.counts().max())
    place = membership.numbered()
    end = membership.n_classes * most
    place = torch.where(membership.labels < 0, end, membership.labels * most + place)
    gathered = rows.new_zeros(len(rows), end + 1, rows.shape[2])
    gathered.scatter_(1, place.unsqueeze(-1).expand_as(rows), rows)
    return gathered[:, :-1].reshape(len(rows), membership.n_classes, most, -1)
