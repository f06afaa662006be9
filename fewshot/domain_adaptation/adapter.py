"""Adapting embeddings to a domain of which there are unlabelled images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor
from torch.nn.functional import normalize

from fewshot.domain_adaptation.adaptation_report import AdaptationReport
from fewshot.validation import check_choice, check_vectors
from fewshot.vectors import Covariance, check_shrinkage

if TYPE_CHECKING:
    from typing_extensions import Self

Adaptation = Literal["center", "whiten", "coral"]
ADAPTATIONS: tuple[Adaptation, ...] = get_args(Adaptation)
_LEARNED = {"whiten": "_target", "coral": "_source"}
# Of the mean square of the vectors: what float32 vectors of one direction differ by, once normalised, is less.
_ROUNDING = 1e-12


class DomainAdapter(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Adapt embeddings to a target domain, given unlabelled embeddings from it; a scikit-learn transformer.

    Embeddings are L2-normalised first.

    Parameters
    ----------
    method : {"center", "whiten", "coral"}, default "center"
        - "center" subtracts the target's mean.
        - "whiten" then gives all directions equal variance (ZCA). Fit it on images of many classes, more than are to
          be told apart: with few, the difference between them is what varies most, and is whitened away.
        - "coral" gives the target's embeddings the source's mean and covariance: for a classifier trained on a source
          domain (a catalogue) and asked about a target one (a phone's photographs). Transform only the queries.
          Where the classifier can be trained again, fit two "center" adapters instead, one for each domain.
    source : array-like of shape (m, d), optional
        Embeddings of the source domain: "coral" needs them, the others refuse them.
    shrinkage : float, default 0.9
        In (0, 1]: how far "whiten" and "coral" shrink each covariance towards a multiple of the identity, which makes
        them well defined for n < d. At 1, "whiten" is "center".

    Attributes
    ----------
    mean_ : ndarray of shape (d,), float32
        The mean of the target's normalised embeddings.

    Notes
    -----
    The adapter is fitted on the unlabelled embeddings, not on a support set, so in a pipeline it is frozen:
    ``make_pipeline(FrozenEstimator(adapter), PrototypeClassifier()).fit(X, y)``; unfrozen it would be fitted again on
    the support. Support and queries pass through the same adapter, except with "coral".

    References
    ----------
    Wang et al. 2019, arXiv:1911.04623, section 2.2 ("center", there with the mean of base data, before L2).
    Kessy, Lewin & Strimmer 2018, arXiv:1512.00809 ("whiten"); Ledoit & Wolf 2004,
    doi:10.1016/S0047-259X(03)00096-4 (the form of the shrinkage).
    Sun, Feng & Saenko 2016, arXiv:1511.05547, algorithm 1 ("coral"; there source to target, the identity added to
    both covariances, and the means taken to be equal).

    Examples
    --------
    >>> import numpy as np
    >>> from fewshot import DomainAdapter
    >>> unlabelled = np.random.default_rng(0).normal(2.0, 1.0, (100, 8))
    >>> adapter = DomainAdapter("center").fit(unlabelled)
    >>> bool(abs(adapter.transform(unlabelled).mean(axis=0)).max() < 1e-6)
    True
    """

    def __init__(
        self, method: Adaptation = "center", *, source: ArrayLike | None = None, shrinkage: float = 0.9
    ) -> None:
        self.method = method
        self.source = source
        self.shrinkage = shrinkage

    def fit(self, X: ArrayLike, y: Any = None) -> Self:
        """Learn the target domain.

        Parameters
        ----------
        X : array-like of shape (n, d)
            Unlabelled embeddings, two or more.
        y : ignored

        Raises
        ------
        ValueError : for a source that the method needs and has not, or has and does not use; a wrong setting; vectors
            of other sizes, or that are all alike.
        """
        check_choice("method", self.method, ADAPTATIONS)
        if self.method == "coral" and self.source is None:
            raise ValueError("'coral' needs source=: embeddings of the source domain, of shape (m, d)")
        if self.method != "coral" and self.source is not None:
            raise ValueError(f"source= is for coral; {self.method!r} does not use it: leave it out")
        vectors = _directions(validate_data(self, X, dtype=np.float32, ensure_min_samples=2))
        self.mean_ = np.asarray(vectors.mean(1)[0].numpy(), np.float32)
        if self.method == "center":
            return self
        check_shrinkage(self.shrinkage)
        self._target = self._covariance(vectors, "the target vectors")
        if self.method == "coral":
            try:
                given = check_vectors(np.asarray(self.source), vectors.shape[-1])
            except ValueError as error:
                raise ValueError(f"source: {error}") from error
            self._source = self._covariance(_directions(given), "the source vectors")
        return self

    def transform(self, X: ArrayLike) -> NDArray[np.float32]:
        """Adapt embeddings (q, d).

        Returns
        -------
        ndarray of shape (q, d), float32
            Not normalised.

        Raises
        ------
        NotFittedError : before ``fit``.
        ValueError : if d differs from ``n_features_in_``, or X holds NaN or infinity.
        """
        check_is_fitted(self, _LEARNED.get(self.method, "mean_"))
        vectors = _directions(validate_data(self, X, dtype=np.float32, reset=False))
        if self.method == "center":
            adapted = vectors - torch.from_numpy(self.mean_)
        else:
            adapted = self._target.whitened(vectors)
            if self.method == "coral":
                adapted = self._source.coloured(adapted)
        return np.asarray(adapted[0].numpy(), np.float32)

    def report(self, X: ArrayLike, y: Any) -> AdaptationReport:
        """Compare leave-one-out accuracy on a support set before and after adaptation.

        Parameters
        ----------
        X : array-like of shape (s, d)
            As given to ``transform``, before it.
        y : sequence of s labels

        Returns
        -------
        AdaptationReport
            Its ``summary`` is one sentence; with one example a class it says that nothing can be known.
        """
        return AdaptationReport.compare(self.method, X, self.transform(X), y)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []  # always float32
        return tags

    def _covariance(self, vectors: Tensor, what: str) -> Covariance:
        if bool((vectors - vectors[:, :1]).square().mean() <= _ROUNDING * vectors.square().mean()):
            n, d = vectors.shape[1:]
            raise ValueError(f"{what} (n = {n}, n_features = {d}) all point the same way, so they have no covariance")
        return Covariance.of(vectors, torch.ones(vectors.shape[:2], dtype=torch.bool), self.shrinkage)


def _directions(vectors: NDArray[np.float32]) -> Tensor:
    """Vectors (n, d) as unit vectors (1, n, d), in float64."""
    return normalize(torch.from_numpy(np.asarray(vectors, np.float64)), dim=-1).unsqueeze(0)
