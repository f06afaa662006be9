"""Adapting embeddings, or the encoder, to a domain of which there are unlabelled pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor
from torch.nn.functional import normalize

from fewshot.domain_adaptation.adaptation_report import DomainReport
from fewshot.domain_adaptation.norm_adapter import NormAdapter
from fewshot.encoders import TimmEncoder, check_image_batch
from fewshot.media import ImageSource
from fewshot.validation import check_choice, check_count, check_vectors
from fewshot.vectors import Covariance, check_shrinkage

if TYPE_CHECKING:
    from typing_extensions import Self

Adaptation = Literal["center", "whiten", "coral", "batch-norm", "entropy"]
ADAPTATIONS: tuple[Adaptation, ...] = get_args(Adaptation)
_OF_THE_ENCODER = ("batch-norm", "entropy")
_LEARNED = {"whiten": "_target", "coral": "_source"}
# Of the mean square of the vectors: what float32 vectors of one direction differ by, once normalised, is less.
_ROUNDING = 1e-12


class DomainAdapter(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Learn from unlabelled pictures of the target domain how to read it; a scikit-learn transformer.

    "center", "whiten" and "coral" take embeddings to embeddings, by their directions: vectors are L2-normalised
    first. "batch-norm" and "entropy" take pictures to embeddings, by a changed copy of an encoder.

    Parameters
    ----------
    method : {"center", "whiten", "coral", "batch-norm", "entropy"}, default "center"
        - "center" takes the target's mean away. The safe one: it mostly gained with one example a class, and cost at
          most 1 point with five.
        - "whiten" then gives all directions equal variance (ZCA). Fit it on pictures of many classes, more than are to
          be told apart: with few, what varies most is the very difference between them, and is whitened away.
        - "coral" gives the target's embeddings the source's mean and covariance: for a classifier that learned from
          source pictures (a catalogue) and is asked about target ones (a phone's). Transform only what is asked. The
          paper moves the labelled source to the target instead; here what has been learned stays as it is. Where it
          can be learned again, two "center" adapters did better, each domain with its own.
        - "batch-norm" re-estimates the statistics of the encoder's batch norms.
        - "entropy" does so, then learns their scales and shifts. On pocket neither helped, and both cost up to 7 points
          of 100, on characters, photographs and bad photographs: ask ``report`` before you keep either.
    source : array-like of shape (m, d), optional
        Embeddings of the source domain: "coral" needs them, the others refuse them.
    encoder : TimmEncoder, optional
        "batch-norm" and "entropy" need it, the others refuse it. It is never changed.
    shrinkage : float, default 0.9
        In (0, 1]: how far "whiten" and "coral" draw each covariance to a multiple of the identity, which makes them
        well defined for n < d. At 1, "whiten" is "center". 0.9 was found by trial: what estimates the covariance
        best (Ledoit and Wolf's, 0.01 to 0.05 on thousands of embeddings) is far too little for few examples a class.
    prior : float, default 256
        How many pictures the batch norms' own statistics count as; 0 forgets them.
    n_clusters : int, default 10
        Of "entropy": how many kinds of picture it should tell apart.
    epochs : int, default 1
        Of "entropy".
    learning_rate : float, default 0.001
        Of "entropy", for Adam.
    random_state : int, RandomState or None, default 0
        Draws the order of pictures and the first cluster centres.

    Attributes
    ----------
    mean_ : ndarray of shape (d,), float32
        "center", "whiten", "coral": the mean of the target's directions.
    encoder_ : TimmEncoder
        "batch-norm", "entropy": the adapted encoder, with a fingerprint of its own.

    Notes
    -----
    What is learned is of the unlabelled pictures, not of a support set, so in a pipeline the fitted adapter is frozen:
    ``make_pipeline(FrozenEstimator(adapter), PrototypeClassifier()).fit(X, y)``; unfrozen it would be fitted again on
    the support. Support and queries pass through the same adapter, except with "coral".

    References
    ----------
    Wang et al. 2019, arXiv:1911.04623, section 2.2 ("center", there with the mean of base data, before L2).
    Kessy, Lewin & Strimmer 2018, arXiv:1512.00809 ("whiten"); Ledoit & Wolf 2004,
    doi:10.1016/S0047-259X(03)00096-4 (the form of the shrinkage).
    Sun, Feng & Saenko 2016, arXiv:1511.05547, algorithm 1 ("coral"; there source to target, the identity added to
    both covariances, and the means taken to be equal).
    Schneider et al. 2020, arXiv:2006.16971, and Li et al. 2016, arXiv:1603.04779 ("batch-norm").
    Wang et al. 2021, arXiv:2006.10726 ("entropy"; see ``fewshot.domain_adaptation.norm_adapter`` for the departures).
    """

    def __init__(
        self,
        method: Adaptation = "center",
        *,
        source: ArrayLike | None = None,
        encoder: TimmEncoder | None = None,
        shrinkage: float = 0.9,
        prior: float = 256.0,
        n_clusters: int = 10,
        epochs: int = 1,
        learning_rate: float = 0.001,
        random_state: int | np.random.RandomState | None = 0,
    ) -> None:
        self.method = method
        self.source = source
        self.encoder = encoder
        self.shrinkage = shrinkage
        self.prior = prior
        self.n_clusters = n_clusters
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> Self:
        """Learn the target domain.

        Parameters
        ----------
        X : array-like of shape (n, d), or sequence of n image sources
            Unlabelled embeddings, two or more; pictures for "batch-norm" and "entropy".
        y : ignored

        Raises
        ------
        ValueError : for a source or encoder that the method needs and has not, or has and does not use; a wrong
            setting; vectors of other sizes; a network without batch norms of its own.
        TypeError : for an encoder that is no ``TimmEncoder``.
        ImageError : naming a picture that cannot be read.
        """
        check_choice("method", self.method, ADAPTATIONS)
        self._check_given("source", self.source, ("coral",), "embeddings of the source domain, of shape (m, d)")
        self._check_given("encoder", self.encoder, _OF_THE_ENCODER, "the TimmEncoder to adapt")
        if self.method in _OF_THE_ENCODER:
            self._fit_encoder(list(check_image_batch(X)))
        else:
            self._fit_vectors(X)
        return self

    def transform(self, X: Any) -> NDArray[np.float32]:
        """Adapt embeddings (q, d), or embed q pictures with the adapted encoder.

        Returns
        -------
        ndarray of shape (q, d), float32
            Not normalised.

        Raises
        ------
        NotFittedError : before ``fit``.
        ValueError : if d differs from ``n_features_in_``, or X holds NaN or infinity.
        ImageError : naming a picture that cannot be read.
        """
        if self.method in _OF_THE_ENCODER:
            check_is_fitted(self, "encoder_")
            return self.encoder_.encode(X)
        check_is_fitted(self, _LEARNED.get(self.method, "mean_"))
        vectors = _directions(validate_data(self, X, dtype=np.float32, reset=False))
        if self.method == "center":
            adapted = vectors - torch.from_numpy(self.mean_)
        else:
            adapted = self._target.whitened(vectors)
            if self.method == "coral":
                adapted = self._source.coloured(adapted)
        return np.asarray(adapted[0].numpy(), np.float32)

    def report(self, X: Any, y: Any) -> DomainReport:
        """Say whether adapting helped to tell the classes of a support set apart.

        Parameters
        ----------
        X : array-like of shape (s, d), or sequence of s image sources
            As given to ``transform``, before it.
        y : sequence of s labels

        Returns
        -------
        DomainReport
            Its ``verdict`` is one sentence; with one example a class it says that this cannot be known.
        """
        if self.method in _OF_THE_ENCODER:
            X = list(check_image_batch(X))
            adapted = self.transform(X)
            assert self.encoder is not None  # else nothing was fitted
            return DomainReport.compare(self.method, self.encoder.encode(X), adapted, y)
        return DomainReport.compare(self.method, X, self.transform(X), y)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []  # always float32
        return tags

    def _check_given(self, name: str, value: object, methods: tuple[str, ...], what: str) -> None:
        if self.method in methods and value is None:
            raise ValueError(f"{self.method!r} needs {name}=: {what}")
        if self.method not in methods and value is not None:
            raise ValueError(f"{name}= is for {' and '.join(methods)}; {self.method!r} does not use it: leave it out")

    def _fit_vectors(self, X: ArrayLike) -> None:
        vectors = _directions(validate_data(self, X, dtype=np.float32, ensure_min_samples=2))
        self.mean_ = np.asarray(vectors.mean(1)[0].numpy(), np.float32)
        if self.method == "center":
            return
        check_shrinkage(self.shrinkage)
        self._target = self._covariance(vectors, "the target vectors")
        if self.method == "coral":
            try:
                given = check_vectors(np.asarray(self.source), vectors.shape[-1])
            except ValueError as error:
                raise ValueError(f"source: {error}") from error
            source = _directions(given)
            self._source = self._covariance(source, "the source vectors")

    def _covariance(self, vectors: Tensor, what: str) -> Covariance:
        if bool((vectors - vectors[:, :1]).square().mean() <= _ROUNDING * vectors.square().mean()):
            n, d = vectors.shape[1:]
            raise ValueError(f"{what} (n = {n}, n_features = {d}) all point the same way, so they have no covariance")
        return Covariance.of(vectors, torch.ones(vectors.shape[:2], dtype=torch.bool), self.shrinkage)

    def _fit_encoder(self, images: list[ImageSource]) -> None:
        if not isinstance(self.encoder, TimmEncoder):
            raise TypeError(f"encoder must be a TimmEncoder, whose network can be read, not {self.encoder!r}")
        least = check_count("n_clusters", self.n_clusters, minimum=2) if self.method == "entropy" else 2
        if len(images) < least:
            raise ValueError(f"{self.method!r} needs at least {least} unlabelled pictures, not {len(images)}")
        if not 0 <= self.prior < float("inf"):
            raise ValueError(f"prior must be a finite number of pictures, at least 0, not {self.prior!r}")
        if self.method == "entropy" and not 0 < self.learning_rate < float("inf"):
            raise ValueError(f"learning_rate must be a finite number above 0, not {self.learning_rate!r}")
        norms = NormAdapter(self.encoder, images, check_random_state(self.random_state))
        norms.estimate(self.prior)
        if self.method == "entropy":
            norms.sharpen(self.n_clusters, check_count("epochs", self.epochs), self.learning_rate)
        self.encoder_ = self.encoder.with_network(norms.network)


def _directions(vectors: NDArray[np.float32]) -> Tensor:
    """Vectors (n, d) as unit vectors (1, n, d), in float64."""
    return normalize(torch.from_numpy(np.asarray(vectors, np.float64)), dim=-1).unsqueeze(0)
