"""SimpleShot: centred, L2-normalised embeddings and the nearest class mean."""

from __future__ import annotations

from numpy.typing import ArrayLike
from torch import Tensor

from fewshot.classifiers.base import FewShotClassifier
from fewshot.classifiers.centering import centred_directions
from fewshot.classifiers.membership import Membership
from fewshot.vectors import closeness


class SimpleShotClassifier(FewShotClassifier):
    """Classify by the nearest class mean of centred, L2-normalised embeddings (CL2N).

    Parameters
    ----------
    center : array-like of shape (d,), optional
        The mean embedding of base data, images of other classes, by the same encoder. Without it the embeddings are
        normalised only (the paper's L2N). It is never taken from the support set: with few classes that would push
        their means to opposite sides and inflate every margin.

    Notes
    -----
    ``scores`` are minus squared distances, in [-4, 0].

    References
    ----------
    Wang et al. 2019, arXiv:1911.04623, section 2.2 (L2N, CL2N) and eq. 1.

    Examples
    --------
    >>> from fewshot import SimpleShotClassifier
    >>> classifier = SimpleShotClassifier(center=[1.0, 0.5]).fit([[1, 0], [2, 1], [0, 1]], ["cat", "cat", "dog"])
    >>> classifier.predict([[1.0, 0.3], [0.3, 0.8]]).tolist()
    ['cat', 'dog']
    """

    def __init__(self, *, center: ArrayLike | None = None) -> None:
        self.center = center

    def _calibration_key(self, n_queries: int) -> str:
        # Centred directions are nearly orthogonal and of both signs: the features of the same task differ.
        return super()._calibration_key(n_queries) + ("" if self.center is None else " of centred")

    def prepare(self, vectors: Tensor) -> Tensor:
        """Return the centred unit vectors."""
        return centred_directions(vectors, self.center)

    def _learn(self, support: Tensor, membership: Membership) -> Tensor:
        return membership.sums(support) / membership.counts().clamp_min(1.0).unsqueeze(-1)

    def _scores(self, learned: Tensor, query: Tensor) -> Tensor:
        return closeness(query, learned, "sqeuclidean")
