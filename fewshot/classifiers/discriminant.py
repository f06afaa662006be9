"""Gaussian classifiers: one shrunk covariance for all classes, or one for each."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fewshot.classifiers.base import FewShotClassifier, Membership
from fewshot.distances import closeness


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
    classes are those of the squared Euclidean distance to the prototypes. ``scores`` are log densities up to a
    constant; all classes are equally likely beforehand.

    References
    ----------
    Wang et al. 2024, arXiv:2402.04087, eq. 4-6; Kubokawa & Srivastava 2008 for the precision matrix.
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
    support: Tensor  # (e, s, d), around the centre
    centre: Tensor  # (e, 1, d)
    gram: Tensor  # (e, s, s)
    mean: Tensor  # (e, c, s): the weights that make each class mean of the support
    roots: Tensor  # (e, c, 2s, s): rows whose images in the support are the covariance's square root
    solver: Tensor  # (e, c, 2s, 2s)


class MahalanobisClassifier(FewShotClassifier):
    """Classify by the Mahalanobis distance to each class mean, under a covariance of its own (Simple CNAPS).

    Parameters
    ----------
    ridge : float, default 1.0
        Beta, added to the diagonal of every covariance; in squared embedding units, so it depends on the encoder.

    Notes
    -----
    Q_k = l S_k + (1 - l) S + beta I with l = n_k / (n_k + 1), where S_k and S are the covariances of the class and of
    the whole support set. Inverted through inner products of the support set (Woodbury), never formed. ``scores`` are
    minus half the squared distances; the log-determinant is left out, as in the paper.

    References
    ----------
    Bateni et al. 2020, arXiv:1912.03432, eq. 2-3.
    """

    def __init__(self, *, ridge: float = 1.0) -> None:
        self.ridge = ridge

    def _learn(self, support: Tensor, membership: Membership) -> _Quadratic:
        if not self.ridge > 0:
            raise ValueError(f"ridge must be above 0, not {self.ridge!r}")
        one_hot = membership.one_hot()  # (e, s, c)
        real = one_hot.sum(-1, keepdim=True)  # (e, s, 1)
        counts, total = membership.counts(), real.sum((1, 2)).view(-1, 1, 1)
        everyone = (real / total).mT  # (e, 1, s)
        centre = everyone @ support
        support = (support - centre) * real
        mean = one_hot.mT / counts.clamp_min(1.0).unsqueeze(-1)  # (e, c, s)
        share = (counts / (counts + 1.0)).unsqueeze(-1)
        own = (share / (counts.unsqueeze(-1) - 1.0).clamp_min(1.0)).sqrt() * one_hot.mT  # (e, c, s)
        task = ((1.0 - share) / (total - 1.0).clamp_min(1.0)).sqrt() * real.mT
        identity = torch.eye(support.shape[1], device=support.device)
        roots = torch.cat(
            [
                own.unsqueeze(-1) * (identity - mean.unsqueeze(2)),
                task.unsqueeze(-1) * (identity - everyone.unsqueeze(2)),
            ],
            dim=2,
        )
        gram = support @ support.mT
        inner = roots @ gram.unsqueeze(1) @ roots.mT
        inner = inner + self.ridge * torch.eye(inner.shape[-1], device=inner.device)
        return _Quadratic(support, centre, gram, mean, roots, torch.linalg.cholesky(inner))

    def _scores(self, learned: _Quadratic, query: Tensor) -> Tensor:
        query = query - learned.centre
        with_support = learned.support @ query.mT  # (e, s, q)
        from_mean = with_support.unsqueeze(1) - (learned.mean @ learned.gram).unsqueeze(-1)  # (e, c, s, q)
        along = learned.roots @ from_mean
        explained = (along * torch.cholesky_solve(along, learned.solver)).sum(2)  # (e, c, q)
        squared = -closeness(query, learned.mean @ learned.support, "sqeuclidean")  # (e, q, c)
        return -0.5 * ((squared - explained.mT) / self.ridge).clamp_min(0.0)
