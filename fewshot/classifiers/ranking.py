"""The closest classes of some queries: by the scores of all, or of candidates and a sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from fewshot.calibration import CalibrationParams, CalibrationTable
from fewshot.classifiers.class_index import MOST_RANKED, ClassIndex, SomeClasses
from fewshot.classifiers.task_scale import TaskScale
from fewshot.vectors import top_k

# Scores held at once by ``rank``.
_MOST_SCORES = 2**24
# Scores that stay in a processor's cache.
_MOST_IN_CACHE = 2**17
# Queries whose candidates' prototypes are held at once.
_QUERIES_AT_ONCE = 64


class Beside(Protocol):
    """Whoever wants the products of q vectors with the means of the classes' unit vectors, too.

    Attributes
    ----------
    vectors : ndarray of shape (q, d), float32
    """

    vectors: NDArray[np.float32]

    def take(self, rows: slice, products: Tensor, some: SomeClasses | None = None) -> None:
        """Receive the products of some of the vectors with all classes (n, c) or some (n, r + s), to overwrite."""


@dataclass(frozen=True)
class Ranking:
    """The closest classes of q queries.

    Attributes
    ----------
    classes : ndarray of shape (q, k), int64
        Positions in ``classes_``, closest first; of equal ones the first comes first.
    scores : ndarray of shape (q, k), float32
    probability : ndarray of shape (q,), float32
        Calibrated, of the closest class.
    """

    classes: NDArray[np.int64]
    scores: NDArray[np.float32]
    probability: NDArray[np.float32]


class RankedClasses:
    """The part of ``FewShotClassifier`` that ranks classes."""

    transductive: bool
    classes_: NDArray[Any]
    _learned: Any

    class_index: ClassIndex | None = None
    """Finds candidates for the closest classes, once it is in use; given up with what it was made of."""

    def rank(
        self, X: ArrayLike, k: int, calibration: CalibrationTable | None = None, beside: Beside | None = None
    ) -> Ranking:
        """Return the k closest classes of each query (q, d), or all if there are fewer; in bounded memory.

        The arguments are ``predict_proba``'s. ``beside`` is given the products of its q vectors with ``unit_means``, by
        methods that hold these, for little time more than without.

        With a ``class_index`` up to 100 are ranked among its candidates, by the same scores as without. The
        probability is then that of the candidates and a sample for all others, 99 in 100 within 0.01 of the exact one.
        """
        check_is_fitted(self, "classes_")
        query = self._checked(X, reset=False)
        if self.class_index is not None and self.class_index.in_use and k <= MOST_RANKED:
            return self._ranked_by_index(self.class_index, query, k, calibration, beside)
        size = len(query) if self.transductive else max(1, _MOST_SCORES // len(self.classes_))
        parts = []
        for start in range(0, max(len(query), 1), max(size, 1)):
            rows = slice(start, start + size)
            prepared, scores = self._prepared_scores(query[rows], beside, rows)
            found = self._best_probability(prepared, scores, calibration)
            parts.append((*top_k(scores[0].numpy(), k), found))
        return Ranking(*(np.concatenate(part) for part in zip(*parts, strict=True)))

    def new_class_index(self) -> ClassIndex | None:
        """Return an index for the classes, with none in it yet; None (the default) by methods that use none."""
        return None

    def _index_scores(
        self, learned: Any, query: Tensor, others: Tensor | None, some: SomeClasses
    ) -> tuple[Tensor, Tensor | None]:
        """Scores (q, r + s) of prepared queries (q, d) for some classes, and products (q, r + s) of ``others``."""
        raise NotImplementedError

    def _ranked_by_index(
        self,
        index: ClassIndex,
        query: NDArray[np.float32],
        k: int,
        calibration: CalibrationTable | None,
        beside: Beside | None,
    ) -> Ranking:
        parts, params = [], self.calibration_params(calibration, len(query))
        for start in range(0, max(len(query), 1), _QUERIES_AT_ONCE):
            rows = slice(start, start + _QUERIES_AT_ONCE)
            with torch.inference_mode():
                prepared = self.prepare(torch.from_numpy(query[rows].copy()))
                others = None if beside is None else torch.from_numpy(beside.vectors[rows])
                some = index.some_classes(prepared, others)
                scores, products = self._index_scores(self._learned, prepared, others, some)
                if beside is not None and products is not None:
                    beside.take(rows, products, some)
                absent = some.weights == 0.0
                where, best = _largest(scores.masked_fill(absent, -torch.inf), some, k)
                # What is there twice weighs nothing: it only must not be the best one.
                task, logits = self._task_scale(), scores.masked_fill(absent, float(scores.min()))[None]
                behind, features = task.margins(logits, some.weights)
                found = params.best_probability(behind, features, some.weights)[0]
            parts.append((where, best, np.asarray(found.numpy())))
        return Ranking(*(np.concatenate(part) for part in zip(*parts, strict=True)))

    def _best_probability(
        self, query: Tensor, scores: Tensor, calibration: CalibrationTable | None
    ) -> NDArray[np.float32]:
        """From prepared queries (1, q, d) and their scores to the probability of the best class: (q,)."""
        _, q, c = scores.shape
        if c == 1:
            return np.ones(q, np.float32)
        found = np.empty(q, np.float32)
        with torch.inference_mode():
            logits, task = self._calibration_logits(self._learned, query, scores), self._task_scale()
            params = self.calibration_params(calibration, q)
            size = max(1, _MOST_IN_CACHE // c)
            for start in range(0, q, size):
                behind, features = task.margins(logits[:, start : start + size])
                found[start : start + size] = params.best_probability(behind, features)[0].numpy()
        return found

    def prepare(self, vectors: Tensor) -> Tensor:
        """See ``FewShotClassifier``."""
        raise NotImplementedError

    def calibration_params(self, table: CalibrationTable | None = None, n_queries: int = 2) -> CalibrationParams:
        """See ``FewShotClassifier``."""
        raise NotImplementedError

    def _checked(self, X: ArrayLike, *, reset: bool) -> NDArray[np.float32]:
        raise NotImplementedError

    def _calibration_logits(self, learned: Any, query: Tensor, scores: Tensor) -> Tensor:
        raise NotImplementedError

    def _prepared_scores(
        self, query: NDArray[np.float32], beside: Beside | None = None, rows: slice = slice(0, 0)
    ) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def _task_scale(self) -> TaskScale:
        raise NotImplementedError


def _largest(scores: Tensor, some: SomeClasses, k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the k classes of the largest scores (q, r + s), and these; of equal ones the first class first."""
    places, values = top_k(scores.numpy(), k)
    classes = torch.cat([some.candidates, some.sample.expand(len(scores), -1)], dim=1)
    found = np.take_along_axis(classes.numpy(), places, axis=1)
    order = np.lexsort((found, -values))
    return np.take_along_axis(found, order, axis=1), np.take_along_axis(values, order, axis=1)
