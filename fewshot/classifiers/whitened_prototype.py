"""Prototypes in a space where the variation within classes has been whitened away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize, pad

from fewshot.classifiers.base import FewShotClassifier
from fewshot.classifiers.class_index import ClassIndex, SomeClasses
from fewshot.classifiers.class_means import ClassMeans, some_classes
from fewshot.classifiers.embedding_parts import EmbeddingParts
from fewshot.classifiers.membership import Membership
from fewshot.validation import check_count

# The weight of the scatter around the overall mean beside that within classes.
_TOTAL = 0.1
# Whitening is this many times the ratio of the variances between and within classes, at most ``_MOST_RATIO``; where
# classes have one example each, the ratio is taken to be ``_RATIO``, which counts as ``_PRIOR`` residuals.
_STRENGTH, _RATIO, _MOST_RATIO, _PRIOR = 2.0, 0.5, 2.0, 2.0
# Up to so many examples an added one changes the metric at once; beyond, only once a tenth has been added.
_FEW = 256
# Up to so many, learning from all takes no longer than a request may.
_MOST_AT_ONCE = 5_000
_FEW_QUERIES = 8
# Of larger blocks the memory is not given back to the system once they are done.
_ROWS_AT_ONCE = 2**11


@dataclass(frozen=True)
class _Metric:
    """The inverse of M = I + Z'Z: itself, or from the Cholesky factor of I + ZZ' (s, s) if the rows Z are given."""

    matrix: Tensor  # (e, s, s) or (e, d, d)
    rows: Tensor | None  # (e, s, d)

    def solve(self, vectors: Tensor) -> Tensor:
        """M^-1 of vectors (e, n, d)."""
        if self.rows is None:
            return vectors @ self.matrix
        return vectors - torch.cholesky_solve(self.rows @ vectors.mT, self.matrix).mT @ self.rows

    def norms(self, means: Tensor, center: Tensor) -> Tensor:
        """Norms (e, c) under M^-1 of class means (e, c, d) around the centre."""
        parts = []
        for some in torch.split(means, _ROWS_AT_ONCE, dim=1):
            apart = some - center
            parts.append(self.solve(apart).mul_(apart).sum(-1))
        return _lengths(torch.cat(parts, dim=1))


@dataclass(frozen=True)
class _Learned:
    prototypes: ClassMeans
    center: Tensor  # (e, 1, d)
    metric: _Metric
    norms: Tensor  # (e, c)
    n_measured: int  # how many examples the metric is made of
    n_changed: int = 0  # how many have been added or removed since
    scale: Tensor | None = None  # (e, 1, d), of parts, by which all vectors are multiplied

    def scaled(self, vectors: Tensor) -> Tensor:
        """Vectors (e, n, d) in the space of what is remembered."""
        return vectors if self.scale is None else vectors * self.scale

    def asked(self, query: Tensor) -> Tensor:
        """M^-1 (q - m) of query (e, q, d), divided by its norm under M^-1."""
        apart = query - self.center
        along = self.metric.solve(apart)
        return along / _lengths((apart * along).sum(-1, keepdim=True))

    def cosines(self, query: Tensor, keys: Tensor, norms: Tensor) -> Tensor:
        """Of query (e, q, d) with keys (e, k, d), whose norms (e, k) are known: (e, q, k)."""
        rows = self.metric.rows
        if rows is None or query.shape[1] <= keys.shape[1]:
            along = self.asked(query)
            found = _products(along, keys).sub_(along @ self.center.mT).div_(norms.unsqueeze(1))
            return found.clamp_(-1.0, 1.0)
        # Several times faster for many queries: hardly an array of their size but in one product.
        weights = torch.cat([self.metric.solve(keys - self.center), rows], dim=1)
        apart = query - self.center
        scores, within = torch.split(apart @ weights.mT, [keys.shape[1], rows.shape[1]], dim=2)
        within = torch.linalg.solve_triangular(self.metric.matrix, within.mT, upper=False)
        square = _squares(apart) - within.square().sum(1)
        return (scores / (_lengths(square).unsqueeze(-1) * norms.unsqueeze(1))).clamp_(-1.0, 1.0)


class WhitenedPrototypeClassifier(FewShotClassifier):
    """Classify by the cosine to class prototypes where the variation within classes has been whitened away.

    What varies among the examples of a class (light, pose, handwriting) says little about the class: directions in
    which examples vary around their own prototypes are shrunk, the more so the better the classes are separated.

    Notes
    -----
    On unit vectors x_i, with class means p_c and their mean m: W is the scatter of the x_i around their p_c, T that
    around m, n the number of examples and v = n - c. With D = v W + 0.1 n T,

        M = I + 2 f n D / tr D,    score = cosine of M^(-1/2) (x - m) and M^(-1/2) (p_c - m), in [-1, 1].

    f estimates tr(between-class covariance) / tr(within-class covariance), at most 2, from the support itself; with
    one example of each class, where that cannot be done, it is 1/2, and D is the total scatter. At f n = (n - 1) / 2,
    M^-1 is the empirical-Bayes precision that ``LinearDiscriminantClassifier`` uses. One class alone is compared
    without m. There is nothing to tune.

    Closed-form: the (s, s) Gram matrix is factored for s below d, else the (d, d) scatter. ``partial_fit`` beyond
    256 examples keeps m and M until a tenth has been added or removed, and then learns them anew from all.

    References
    ----------
    Hayes & Kanan 2020, arXiv:1909.01520, eq. 2-4 (one shared, shrunk covariance kept beside running class means).
    Kubokawa & Srivastava 2008, doi:10.1016/j.jmva.2008.01.016 (the shrinkage to the identity).
    Wang et al. 2024, arXiv:2402.04087 (Gaussians with one covariance on frozen features). The cosine, the part of T,
    and the ratio f in place of a constant are ours.

    Examples
    --------
    >>> from fewshot import WhitenedPrototypeClassifier
    >>> classifier = WhitenedPrototypeClassifier().fit([[1, 0], [2, 1], [0, 1]], ["cat", "cat", "dog"])
    >>> classifier.predict([[1.0, 0.3], [0.3, 0.8]]).tolist()
    ['cat', 'dog']
    """

    def __init__(self, parts: Sequence[int] | None = None) -> None:
        self.parts = parts

    def prepare(self, vectors: Tensor) -> Tensor:
        """Return the unit vectors, or vectors of unit parts."""
        n, d = vectors.shape[-2:]
        if vectors.dim() > 2 or n <= _ROWS_AT_ONCE:
            return self._units(vectors)
        units = vectors.new_empty(n + n // 4, d)[:n]  # with room for more, which takes no memory before it is used
        for start in range(0, n, _ROWS_AT_ONCE):
            units[start : start + _ROWS_AT_ONCE] = self._units(vectors[start : start + _ROWS_AT_ONCE])
        return units

    def _units(self, vectors: Tensor) -> Tensor:
        return normalize(vectors, dim=-1) if self.parts is None else self._embedding_parts().unit_parts(vectors)

    def _embedding_parts(self) -> EmbeddingParts:
        assert self.parts is not None
        return EmbeddingParts(tuple(check_count("parts", size) for size in self.parts))

    def _learn(self, support: Tensor, membership: Membership) -> _Learned:
        scale = self._scale(support, membership)
        support = support if scale is None else support * scale
        return replace(_learned(support, membership, ClassMeans.of(support, membership)), scale=scale)

    def _learn_one(self, support: Tensor, membership: Membership) -> _Learned:
        scale = self._scale(support, membership)
        support = support if scale is None else support.mul_(scale)  # nobody else's: what ``prepare`` has made
        return replace(_learned(support, membership, ClassMeans.of_one(support, membership)), scale=scale)

    def _scale(self, support: Tensor, membership: Membership) -> Tensor | None:
        if self.parts is None:
            return None
        parts = self._embedding_parts()
        return parts.scale(support, membership, parts.weight(support, membership, _own_scores))

    def _extend(self, learned: _Learned, support: Tensor, membership: Membership) -> _Learned | None:
        known, c = learned.prototypes.means.shape[1], membership.n_classes
        n_changed = learned.n_changed + support.shape[1]
        if self._must_renew(n_changed, learned.n_measured):
            return None
        prototypes, touched = learned.prototypes.extended(learned.scaled(support), membership, shared=False)
        norms = pad(learned.norms, (0, c - known))
        norms[:, touched] = learned.metric.norms(prototypes.means[:, touched], learned.center)
        return replace(learned, prototypes=prototypes, norms=norms, n_changed=n_changed)

    def _exchange(self, learned: _Learned, support: Tensor, membership: Membership, before: Tensor) -> _Learned | None:
        counts, kept = learned.prototypes.counts, before[before >= 0]
        n_changed = learned.n_changed + support.shape[1] + int(counts.sum() - counts[:, kept].sum())
        if self._must_renew(n_changed, learned.n_measured):
            return None
        prototypes, touched = learned.prototypes.exchanged(learned.scaled(support), membership, before)
        norms = learned.norms[:, before.clamp_min(0)]
        norms[:, touched] = learned.metric.norms(prototypes.means[:, touched], learned.center)
        return replace(learned, prototypes=prototypes, norms=norms, n_changed=n_changed)

    def _must_renew(self, n_changed: int, n_measured: int) -> bool:
        n = self._support.n_examples
        if n <= _FEW or n_changed > n_measured:
            return True
        return 10 * n_changed > n_measured and not (self.defer_renewal and n > _MOST_AT_ONCE)

    @property
    def renewal_due(self) -> bool:
        """See ``FewShotClassifier.renewal_due``."""
        learned: _Learned = self._learned
        return 10 * learned.n_changed > learned.n_measured

    def _scores(self, learned: _Learned, query: Tensor) -> Tensor:
        return learned.cosines(learned.scaled(query), learned.prototypes.means, learned.norms)

    def _scores_beside(self, learned: _Learned, query: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
        along, q = learned.asked(query), query.shape[1]
        products = _products(torch.cat([along, others], dim=1), learned.prototypes.means)
        scores = products[:, :q].sub_(along @ learned.center.mT).div_(learned.norms.unsqueeze(1))
        return scores, products[:, q:]

    def new_class_index(self) -> ClassIndex | None:
        """See ``FewShotClassifier.new_class_index``; of parts, or few examples, there is none."""
        metric, center = self._learned.metric, self._learned.center
        if metric.rows is not None or self.parts is not None:
            return None
        return ClassIndex(torch.linalg.cholesky(metric.matrix[0].double()).to(center), center[0])

    def _index_scores(
        self, learned: _Learned, query: Tensor, others: Tensor | None, some: SomeClasses
    ) -> tuple[Tensor, Tensor | None]:
        means, norms, along = learned.prototypes.means[0], learned.norms[0], learned.asked(query[None])[0]
        asked = along.unsqueeze(1) if others is None else torch.stack([along, others], dim=1)  # (q, 1 or 2, d)
        # Picked by ``index_select``, which takes a quarter of the time of indexing.
        found = means.index_select(0, some.candidates.flatten()).view(*some.candidates.shape, -1)
        close = torch.bmm(asked, found.mT)
        rest = (asked.flatten(0, 1) @ means.index_select(0, some.sample).mT).view(*asked.shape[:2], -1)
        products = torch.cat([close, rest], dim=2)
        own = torch.cat([norms[some.candidates], norms[some.sample].expand(len(query), -1)], dim=1)
        scores = (products[:, 0] - along @ learned.center[0].mT).div_(own).clamp_(-1.0, 1.0)
        return scores, None if others is None else products[:, 1].contiguous()

    def example_scores(self, X: NDArray[np.float32], examples: NDArray[np.float32]) -> NDArray[np.float32]:
        """See ``FewShotClassifier.example_scores``; cosines as of the scores, with examples in place of prototypes."""
        with torch.inference_mode():
            prepared = (self.prepare(torch.from_numpy(vectors))[None] for vectors in (X, examples))
            query, keys = map(self._learned.scaled, prepared)
            norms = self._learned.metric.norms(keys, self._learned.center)
            return np.asarray(self._learned.cosines(query, keys, norms)[0].numpy())

    def _support_margin(self, learned: _Learned, support: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        some = some_classes(learned.norms.shape[1], labels)
        if some is None:
            return super()._support_margin(learned, support, labels)
        classes, labels = some
        means, counts = learned.prototypes.means[:, classes], learned.prototypes.counts[:, classes]
        few = replace(learned, prototypes=ClassMeans(means, counts), norms=learned.norms[:, classes])
        return super()._support_margin(few, support, labels)

    @property
    def prototypes_(self) -> Any:
        """Ndarray of shape (c, d): the means of the classes' unit vectors, or weighted parts, as ``classes_``."""
        return self._learned.prototypes.means[0].numpy().copy()

    def unit_means(self) -> NDArray[np.float32] | None:
        """See ``FewShotClassifier.unit_means``."""
        return None if self.parts is not None else np.asarray(self._learned.prototypes.means[0].numpy())


def _own_scores(support: Tensor, membership: Membership) -> Tensor:
    """Cosines (e, s, c) of a support, those of the classes' own members and of others alike."""
    learned = _learned(support, membership, ClassMeans.of(support, membership))
    return learned.cosines(support, learned.prototypes.means, learned.norms)


def _learned(support: Tensor, membership: Membership, prototypes: ClassMeans) -> _Learned:
    means, counts = prototypes.means, prototypes.counts
    known = (counts > 0).to(means.dtype)
    c, n = known.sum(1), counts.sum(1)
    mean = means.sum(1, keepdim=True) / c.view(-1, 1, 1)  # a class without examples is zero
    center = torch.where(c.view(-1, 1, 1) > 1, mean, torch.zeros_like(mean))
    if bool((known == 0).any()):
        means = torch.where(known.unsqueeze(-1) > 0, means, center)
        prototypes = ClassMeans(means, counts)
    length = _squares(means)
    spread = (length - 2.0 * (means @ mean.mT).squeeze(-1) + _squares(mean)).clamp_min(0.0) * known
    between = (counts * spread).sum(1)
    within = ((_squares(support) * (membership.labels >= 0)).sum(1) - (counts * length).sum(1)).clamp_min(0.0)
    one_within = (within + _PRIOR * (within + between) / (n * (1.0 + _RATIO))) / (n - c + _PRIOR)
    unsure = one_within * (known / counts.clamp_min(1.0)).sum(1) / c
    one_between = (spread.sum(1) / (c - 1.0).clamp_min(1.0) - unsure).clamp_min(0.0)
    tiny = torch.finfo(means.dtype).tiny
    ratio = (one_between / one_within.clamp_min(tiny)).clamp_max(_MOST_RATIO)
    ratio = torch.where(c > 1, ratio, torch.full_like(ratio, _RATIO))
    inner, outer = n - c + _TOTAL * n, _TOTAL * n
    # At least what rounding leaves of examples that are equal: divided by less, that would be taken for variation.
    trace = torch.maximum(inner * within + outer * between, torch.finfo(means.dtype).eps * n.square())
    scale = _STRENGTH * ratio * n / trace
    inner, outer = ((part * scale).sqrt().view(-1, 1, 1) for part in (inner, outer))
    metric = _metric_of(support, membership, means, mean, inner, outer)
    return _Learned(prototypes, center, metric, metric.norms(means, center), support.shape[1])


def _metric_of(
    support: Tensor, membership: Membership, means: Tensor, mean: Tensor, inner: Tensor, outer: Tensor
) -> _Metric:
    """Whiten rows inner (x_i - p_c(i)) + outer (p_c(i) - m), whose products are the weighted scatters' sum."""
    e, s, d = support.shape

    def rows(start: int, stop: int) -> Tensor:
        labels = membership.labels[:, start:stop]
        own = means.gather(1, labels.clamp_min(0).unsqueeze(-1).expand(-1, -1, d))
        some = inner * (support[:, start:stop] - own) + outer * (own - mean)
        return some.masked_fill_((labels < 0).unsqueeze(-1), 0.0)

    if s <= d:
        some = rows(0, s)
        return _Metric(torch.linalg.cholesky(_plus_identity(some @ some.mT)), some)
    scatter = support.new_zeros(e, d, d)
    for start in range(0, s, _ROWS_AT_ONCE):
        some = rows(start, start + _ROWS_AT_ONCE)
        scatter += some.mT @ some
    return _Metric(torch.cholesky_inverse(torch.linalg.cholesky(_plus_identity(scatter.double()))).to(scatter), None)


def _plus_identity(matrix: Tensor) -> Tensor:
    """Add the identity to a matrix (e, m, m), in place."""
    matrix.diagonal(dim1=1, dim2=2).add_(1.0)
    return matrix


def _products(query: Tensor, keys: Tensor) -> Tensor:
    """Inner products (e, q, k) of query (e, q, d) and keys (e, k, d)."""
    if len(keys) == 1 and keys.shape[1] > _ROWS_AT_ONCE and query.shape[1] <= _FEW_QUERIES:
        # This way round it takes a third of the time; two cost less than one.
        asked = query[0] if query.shape[1] > 1 else query[0].expand(2, -1)
        return (keys[0] @ asked.mT).mT[None, : query.shape[1]].contiguous()
    return query @ keys.mT


def _squares(vectors: Tensor) -> Tensor:
    """Squared lengths (e, n) of vectors (e, n, d)."""
    length: Tensor = torch.linalg.vector_norm(vectors, dim=-1)
    return length.square()


def _lengths(squares: Tensor) -> Tensor:
    """Return the roots of squares of differences of unit vectors, at least what rounding makes of equal ones."""
    return squares.clamp_min(torch.finfo(squares.dtype).eps ** 2).sqrt()
