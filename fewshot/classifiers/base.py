"""Base class of all methods: labels, growing sets of classes, probabilities; one estimator or a batch of episodes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from fewshot.calibration import (
    CalibrationParams,
    CalibrationTable,
    shipped_calibration,
    support_margin,
)
from fewshot.classifiers.example_comparison import ExampleComparison
from fewshot.classifiers.incremental_learning import IncrementalLearning
from fewshot.classifiers.membership import Membership, harmless
from fewshot.classifiers.ranking import Beside, RankedClasses
from fewshot.classifiers.support_sample import SupportSample
from fewshot.classifiers.support_set import SupportSet
from fewshot.classifiers.task_scale import LazyScale, TaskScale
from fewshot.validation import check_labels, check_range

if TYPE_CHECKING:
    from typing_extensions import Self


# Of a support set's largest number; what is much shorter counts as zero where vectors are divided by their lengths.
_SMALLEST = 1e-10


class FewShotClassifier(
    RankedClasses,
    ExampleComparison,
    IncrementalLearning,
    ClassifierMixin,  # type: ignore[misc]
    BaseEstimator,  # type: ignore[misc]
):
    """Base of all methods: a method is its hyper-parameters, ``prepare``, ``_learn`` and ``_scores``.

    The mathematics carries a leading episode axis. ``fit`` and ``predict`` use it for a batch of one episode,
    ``episode_scores`` for any number.

    Attributes
    ----------
    classes_ : ndarray of shape (c,)
        The known labels. ``fit`` sorts them; later ones follow in the order they came (sorted within one call), so
        that the columns of the earlier ones stay where they were.
    n_features_in_ : int
        d, the embedding size.
    """

    transductive = False

    def prepare(self, vectors: Tensor) -> Tensor:
        """Return what the method makes of each vector alone, such as its direction; by default the vector itself.

        Parameters
        ----------
        vectors : Tensor of shape (..., d), float32

        Returns
        -------
        Tensor of the same shape
        """
        return vectors

    def _learn(self, support: Tensor, membership: Membership) -> Any:
        """From prepared support (e, s, d) and its membership to whatever the method remembers."""
        raise NotImplementedError

    def _scores(self, learned: Any, query: Tensor) -> Tensor:
        """From what was learned and prepared queries (e, q, d) to scores (e, q, c), higher is closer."""
        raise NotImplementedError

    def _learn_one(self, support: Tensor, membership: Membership) -> Any:
        """What an estimator remembers of its one support set (1, s, d), on the CPU: as ``_learn`` (the default)."""
        return self._learn(support, membership)

    def unit_means(self) -> NDArray[np.float32] | None:
        """Return the means of the classes' unit vectors (c, d), if it holds them: not a copy, so not to be changed."""
        return None

    def _calibration_logits(self, learned: Any, query: Tensor, scores: Tensor) -> Tensor:
        """From prepared queries and their scores (e, q, c) to logits with the same best class."""
        return scores

    def _calibration_key(self, n_queries: int) -> str:
        """Return the key of this method's entry in a calibration table, for so many queries at once."""
        return type(self).__name__

    @property
    def calibration_name(self) -> str:
        """Key of this method's entry in a calibration table, for several queries at once."""
        return self._calibration_key(2)

    def _support_scores(self, learned: Any, support: Tensor) -> Tensor:
        """Scores (e, s, c) of prepared support (e, s, d), whose margin is the unit of the queries' scores."""
        return self._scores(learned, support)

    def _support_margin(self, learned: Any, support: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """``calibration.support_margin`` of prepared support (e, n, d) with classes (e, n); -1 is padding."""
        own = self._calibration_logits(learned, support, self._support_scores(learned, support))
        return support_margin(own, labels)

    def set_params(self, **params: Any) -> Self:
        """Set hyper-parameters; a fitted classifier learns its support set again with them.

        Raises
        ------
        ValueError : for an unknown one, or a value that a fitted classifier refuses; then nothing has changed.
        """
        before = self.get_params()
        super().set_params(**params)
        if params and hasattr(self, "classes_"):
            try:
                self._relearn()
            except Exception:
                super().set_params(**before)
                raise
        return self

    def fit(self, X: ArrayLike, y: Any, *, copy: bool = True) -> Self:
        """Learn the classes of the support set, forgetting any learned before.

        Parameters
        ----------
        X : array-like of shape (s, d)
            Embeddings; any real dtype.
        y : sequence of s labels
            Any hashable values; classes may differ in size, one example is enough.
        copy : bool, default True
            Whether X is copied. With False it is kept where it is float32 already, and must not be changed afterwards.

        Raises
        ------
        ValueError : for NaN, infinity, wrong shapes, or numbers that are not whole as labels; for vectors whose largest
            number is above 1e15, or below 1e-10 but not 0.
        """
        support = self._checked(X, reset=True)
        check_range(support, smallest=_SMALLEST)
        labels = check_labels(y, len(support))
        self._support = SupportSet(support.copy() if copy else support, labels)
        self.classes_ = self._support.classes
        self._relearn()
        return self

    def scores(self, X: ArrayLike) -> NDArray[np.float32]:
        """Closeness of each query to each class; higher is closer.

        Parameters
        ----------
        X : array-like of shape (q, d)
            Embeddings; any real dtype.

        Returns
        -------
        ndarray of shape (q, c), columns ordered as ``classes_``
            Its range is the method's.

        Raises
        ------
        NotFittedError : before the first ``fit`` or ``partial_fit``.
        ValueError : if d differs from ``n_features_in_``, or X holds NaN or infinity.
        """
        return np.asarray(self._score_queries(X)[1][0].numpy(), dtype=np.float32)

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Return the label of the closest class for each query (q, d)."""
        best = self._score_queries(X)[1][0].argmax(dim=-1).numpy()
        return np.asarray(self.classes_[best])

    def score(self, X: ArrayLike, y: Any, sample_weight: ArrayLike | None = None) -> float:
        """Return the accuracy, in [0, 1], of the predictions for queries (q, d) with labels ``y`` as in ``fit``."""
        labels = check_labels(y, len(np.asarray(X)))
        return float(super().score(X, labels, sample_weight=sample_weight))

    def predict_proba(self, X: ArrayLike, calibration: CalibrationTable | None = None) -> NDArray[np.float32]:
        """Calibrated probability of each class for each query: of predictions with 0.8, 80 % are right.

        Temperature scaling of the scores in units of the support's margin. The temperature depends on the task
        (``fewshot.calibration.TaskFeatures``) by coefficients that were fitted to base classes, for an encoder: pass
        the table of yours, or fit one with ``fewshot calibrate``.

        Parameters
        ----------
        X : array-like of shape (q, d)
            Embeddings; any real dtype.
        calibration : mapping of name to CalibrationParams, optional
            ``fewshot.calibration.shipped_calibration(encoder.fingerprint)``, or ``read_calibration`` of the file that
            ``fewshot calibrate`` has written; by default the table for networks trained on ImageNet.

        Returns
        -------
        ndarray of shape (q, c), columns ordered as ``classes_``, rows summing to 1
            The likeliest class is the one of ``predict``.

        References
        ----------
        Guo et al. 2017, arXiv:1706.04599 (temperature scaling).
        """
        return self.scores_and_probabilities(X, calibration)[1]

    def scores_and_probabilities(
        self, X: ArrayLike, calibration: CalibrationTable | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return ``scores`` and ``predict_proba``, (q, c) each, for the time of the one."""
        query, scores = self._score_queries(X)
        found = self._calibrated_one(query, scores, calibration)
        return np.asarray(scores[0].numpy(), dtype=np.float32), np.asarray(found[0].numpy(), dtype=np.float32)

    def episode_scores(
        self,
        support: Tensor,
        labels: Tensor,
        query: Tensor,
        *,
        n_classes: int | None = None,
        prepared: bool = False,
    ) -> Tensor:
        """Score many episodes at once, on the device of their tensors; for benchmarks.

        Parameters
        ----------
        support : Tensor of shape (e, s, d), float32
        labels : Tensor of shape (e, s), int64
            0 to c - 1; -1 where an episode is padded, whatever the support holds there.
        query : Tensor of shape (e, q, d), float32
        n_classes : int, optional
            c; by default one more than the largest label.
        prepared : bool, default False
            Whether the vectors have been through ``prepare``: once for all data, where episodes share vectors.

        Returns
        -------
        Tensor of shape (e, q, c)
        """
        with torch.inference_mode():
            return self._learn_and_score(support, labels, query, n_classes, prepared)[2]

    def episode_probabilities(
        self,
        support: Tensor,
        labels: Tensor,
        query: Tensor,
        *,
        n_classes: int | None = None,
        prepared: bool = False,
        calibration: CalibrationTable | None = None,
    ) -> Tensor:
        """Return ``predict_proba`` of many episodes at once, (e, q, c); the arguments are ``episode_scores``'s."""
        with torch.inference_mode():
            learned, query, scores, support = self._learn_and_score(support, labels, query, n_classes, prepared)
            sample = SupportSample.choose(labels, scores.shape[2])
            return self._calibrated(learned, query, scores, sample.gather(support), sample, calibration)

    def episode_margins(
        self, support: Tensor, labels: Tensor, query: Tensor, *, prepared: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return scores and margins, (e, q, c) each, and task features (e, q, f), for ``fit_calibration``."""
        with torch.inference_mode():
            learned, query, scores, support = self._learn_and_score(support, labels, query, None, prepared)
            sample = SupportSample.choose(labels, scores.shape[2])
            return scores, *self._margins(learned, query, scores, sample.gather(support), sample)

    def _learn_and_score(
        self, support: Tensor, labels: Tensor, query: Tensor, n_classes: int | None, prepared: bool
    ) -> tuple[Any, Tensor, Tensor, Tensor]:
        """What was learned, the prepared queries, their scores (e, q, c), and the prepared support without padding."""
        c = int(labels.max()) + 1 if n_classes is None else n_classes
        if not prepared:
            support, query = self.prepare(support), self.prepare(query)
        support = harmless(support, labels)
        learned = self._learn(support, Membership(labels, c))
        return learned, query, self._scores(learned, query), support

    def _margins(
        self, learned: Any, query: Tensor, scores: Tensor, support: Tensor, sample: SupportSample
    ) -> tuple[Tensor, Tensor]:
        """Margins (e, q, c) in units of the support's, and task features (e, q, f), of sampled support (e, n, d)."""
        logits = self._calibration_logits(learned, query, scores)
        margin = self._support_margin(learned, support, sample.labels)
        return TaskScale(*margin, sample.features(support)).margins(logits)

    def _calibrated(
        self,
        learned: Any,
        query: Tensor,
        scores: Tensor,
        support: Tensor,
        sample: SupportSample,
        table: CalibrationTable | None,
    ) -> Tensor:
        """From prepared queries and their scores to probabilities (e, q, c)."""
        if scores.shape[2] == 1:
            return torch.ones_like(scores)
        behind, features = self._margins(learned, query, scores, support, sample)
        return self.calibration_params(table, scores.shape[1]).probabilities(behind, features)

    def calibration_params(self, table: CalibrationTable | None = None, n_queries: int = 2) -> CalibrationParams:
        """Return a table's entry for this method, or for the nearest type it derives from; else the shipped one."""
        names = [self._calibration_key(n_queries), *(kind.__name__ for kind in type(self).__mro__)]
        known = {**shipped_calibration(), **({} if table is None else table)}
        return next(known[name] for name in names if name in known)

    def _checked(self, X: ArrayLike, *, reset: bool) -> NDArray[np.float32]:
        checked = np.asarray(validate_data(self, X, dtype=np.float32, order="C", reset=reset))
        if not reset:
            check_range(checked)
        return checked

    def _relearn(self) -> None:
        if self.class_index is not None:  # an estimator's fit adds no public attribute
            self.class_index = None
        membership = Membership(torch.from_numpy(self._support.codes)[None], len(self.classes_))
        with torch.inference_mode():
            self._take_over(self._learn_one(self.prepare(_tensor(self._support.vectors))[None], membership))

    def _take_over(self, learned: Any) -> None:
        self._learned, self._task = learned, LazyScale()

    def _task_scale(self) -> TaskScale:
        """Of the support set, computed once."""
        if self._task.scale is None:
            sample = SupportSample.choose(torch.from_numpy(self._support.codes)[None], len(self.classes_))
            support = self.prepare(_tensor(self._support.take(sample.indices[0].numpy())))[None]
            margin = self._support_margin(self._learned, support, sample.labels)
            self._task.scale = TaskScale(*margin, sample.features(support))
        return self._task.scale

    def _calibrated_one(self, query: Tensor, scores: Tensor, calibration: CalibrationTable | None) -> Tensor:
        """From prepared queries (1, q, d) and their scores to probabilities (1, q, c)."""
        if scores.shape[2] == 1:
            return torch.ones_like(scores)
        with torch.inference_mode():
            logits = self._calibration_logits(self._learned, query, scores)
            behind, features = self._task_scale().margins(logits)
            return self.calibration_params(calibration, scores.shape[1]).probabilities(behind, features)

    def _score_queries(self, X: ArrayLike) -> tuple[Tensor, Tensor]:
        """Prepared queries (1, q, d) and their scores (1, q, c)."""
        check_is_fitted(self, "classes_")
        return self._prepared_scores(self._checked(X, reset=False))

    def _prepared_scores(
        self, query: NDArray[np.float32], beside: Beside | None = None, rows: slice = slice(0, 0)
    ) -> tuple[Tensor, Tensor]:
        with torch.inference_mode():
            prepared = self.prepare(_tensor(query))[None]
            if beside is None or self.unit_means() is None:
                return prepared, self._scores(self._learned, prepared)
            scores, products = self._scores_beside(self._learned, prepared, _tensor(beside.vectors[rows])[None])
            beside.take(rows, products[0])
            return prepared, scores

    def _scores_beside(self, learned: Any, query: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
        """``_scores``, and products (e, n, c) of other vectors (e, n, d) with ``unit_means``."""
        raise NotImplementedError


def _tensor(array: NDArray[np.float32]) -> Tensor:
    return torch.from_numpy(array if array.flags.writeable else array.copy())
