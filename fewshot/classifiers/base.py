"""What every few-shot classifier shares: labels, numpy, growing class sets, probabilities, and the two doors."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from fewshot.classifiers.membership import Membership, harmless
from fewshot.classifiers.witnesses import Witnesses
from fewshot.temperature import (
    SHIPPED,
    Sharpness,
    Table,
    expected_shift,
    gaps,
    log_likelihood,
    margin,
    shifted,
    tempered,
)
from fewshot.validation import check_labels, label_array, sorted_labels

if TYPE_CHECKING:
    from typing_extensions import Self


class _Rows:
    """An array that grows at its end without copying what it holds at each growth."""

    def __init__(self, rows: NDArray[Any]) -> None:
        self._buffer, self._n = rows, len(rows)

    def append(self, rows: NDArray[Any]) -> None:
        total = self._n + len(rows)
        if total > len(self._buffer):
            grown = np.empty((max(total, 2 * len(self._buffer)), *rows.shape[1:]), rows.dtype)
            grown[: self._n] = self._buffer[: self._n]
            self._buffer = grown
        self._buffer[self._n : total] = rows
        self._n = total

    @property
    def array(self) -> NDArray[Any]:
        return self._buffer[: self._n]


class FewShotClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
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
    # Whether examples left out of the support tell how sure to be of queries.
    _leaves_out = True
    _learned: Any

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

    def _extend(self, learned: Any, support: Tensor, membership: Membership) -> Any | None:
        """What it remembers after more prepared support (1, s, d); None to learn again from all (the default)."""
        return None

    def _evidence(self, scores: Tensor) -> Tensor:
        """From scores (e, q, c) to what a softmax takes, in the same order; by default the scores themselves."""
        return scores

    def _kind(self, n_queries: int) -> str:
        """Under what name a table holds this method's sharpness for so many queries at once."""
        return type(self).__name__

    @property
    def sharpness_name(self) -> str:
        """Under what name a table of sharpness holds this method where many queries are asked at once."""
        return self._kind(2)

    def _support_scores(self, learned: Any, support: Tensor) -> Tensor:
        """Scores (e, s, c) of prepared support (e, s, d), whose margin is the unit of the queries' scores."""
        return self._scores(learned, support)

    def fit(self, X: ArrayLike, y: Any) -> Self:
        """Learn the classes of the support set, forgetting any learned before.

        Parameters
        ----------
        X : array-like of shape (s, d)
            Embeddings; any real dtype.
        y : sequence of s labels
            Any hashable values; classes may differ in size, one example is enough.

        Raises
        ------
        ValueError : for NaN, infinity, wrong shapes, or numbers that are not whole as labels.
        """
        support = self._checked(X, reset=True)
        labels = check_labels(y, len(support))
        self.classes_ = _sorted_classes(labels)
        self._codes = {label: code for code, label in enumerate(self.classes_.tolist())}
        codes = self._encode(labels)
        self._support = _Rows(support.copy())  # not the caller's own array, which they may change
        self._support_codes = _Rows(codes)
        self._relearn()
        return self

    def partial_fit(self, X: ArrayLike, y: Any, classes: Any = None) -> Self:
        """Learn more examples, of known or new classes, keeping what was learned.

        Parameters
        ----------
        X : array-like of shape (s, d)
        y : sequence of s labels
        classes : ignored
            Accepted because scikit-learn passes it; a class is known from its first example on.
        """
        if not hasattr(self, "classes_"):
            return self.fit(X, y)
        support = self._checked(X, reset=False)
        labels = check_labels(y, len(support))
        new = sorted_labels(label for label in labels.tolist() if label not in self._codes)
        if new:
            self.classes_ = label_array([*self.classes_.tolist(), *new])
            for label in new:
                self._codes[label] = len(self._codes)
        codes = self._encode(labels)
        self._support.append(support)
        self._support_codes.append(codes)
        more = Membership(torch.from_numpy(codes)[None], len(self.classes_))
        with torch.inference_mode():
            extended = self._extend(self._learned, self.prepare(_tensor(support))[None], more)
        if extended is None:
            self._relearn()
        else:
            self._learned = extended
        return self

    def forget(self, label: Hashable) -> Self:
        """Forget one class; the others stay as they are.

        Raises
        ------
        KeyError : if there is no such class.
        ValueError : if it is the last one.
        """
        check_is_fitted(self, "classes_")
        if label not in self._codes:
            raise KeyError(f"no class {label!r} to forget; the {len(self.classes_)} known ones are in classes_")
        if len(self.classes_) == 1:
            raise ValueError(f"{label!r} is the only class left; fit new ones instead of forgetting it")
        kept = self._support_codes.array != self._codes[label]
        labels = self.classes_[self._support_codes.array[kept]]
        self.classes_ = np.delete(self.classes_, self._codes[label])
        self._codes = {known: code for code, known in enumerate(self.classes_.tolist())}
        self._support_codes = _Rows(self._encode(labels))
        self._support = _Rows(self._support.array[kept])
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
        return np.asarray(self._score_tensor(X).numpy(), dtype=np.float32)

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Return the label of the closest class for each query (q, d); nothing is changed by asking."""
        best = self._score_tensor(X).argmax(dim=-1).numpy()
        return np.asarray(self.classes_[best])

    def predict_proba(self, X: ArrayLike, sharpness: Table | None = None) -> NDArray[np.float32]:
        """Probability of each class for each query; over many queries, answers given with 0.8 are right in 80 %.

        Scores are divided by the margin by which the support's own score their class above the others, and multiplied
        by the method's sharpness, which was fitted to base episodes. Where classes have two examples or more, examples
        left out in turn then tell how far these classes are easier or harder than those; with one example of each,
        nothing tells, and another kind of pictures may make the answers too sure or not sure enough.

        Parameters
        ----------
        X : array-like of shape (q, d)
            Embeddings; any real dtype.
        sharpness : mapping of name to Sharpness, optional
            As ``fewshot calibrate`` has fitted it to other data (``fewshot.confidence.read_table``); by default what
            ships with fewshot.

        Returns
        -------
        ndarray of shape (q, c), columns ordered as ``classes_``, rows summing to 1
            The likeliest class is the one of ``predict``.

        References
        ----------
        Guo et al. 2017, arXiv:1706.04599 (temperature scaling).
        """
        scores = self._score_tensor(X)[None]
        labels = torch.from_numpy(self._support_codes.array)[None]
        witnesses = Witnesses.among(labels, len(self.classes_))
        with torch.inference_mode():
            support = self.prepare(_tensor(self._support.array[witnesses.where[0].numpy()]))[None]
            found = self._calibrated(self._learned, scores, support, witnesses, sharpness)
        return np.asarray(found[0].numpy(), dtype=np.float32)

    def episode_scores(
        self,
        support: Tensor,
        labels: Tensor,
        query: Tensor,
        *,
        n_classes: int | None = None,
        prepared: bool = False,
    ) -> Tensor:
        """Score many episodes at once: the benchmark's door to the same mathematics.

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
            _, scores, _ = self._answered(support, labels, query, n_classes, prepared)
        return scores

    def episode_probabilities(
        self,
        support: Tensor,
        labels: Tensor,
        query: Tensor,
        *,
        n_classes: int | None = None,
        prepared: bool = False,
        sharpness: Table | None = None,
    ) -> Tensor:
        """Return ``predict_proba`` of many episodes at once, (e, q, c); the arguments are ``episode_scores``'s."""
        with torch.inference_mode():
            learned, scores, support = self._answered(support, labels, query, n_classes, prepared)
            witnesses = Witnesses.among(labels, scores.shape[2])
            return self._calibrated(learned, scores, witnesses.gathered(support), witnesses, sharpness)

    def episode_gaps(self, support: Tensor, labels: Tensor, query: Tensor, *, prepared: bool = False) -> Tensor:
        """How far each class is behind the best, in the support's margins: (e, q, c), for ``temperature.fit``."""
        with torch.inference_mode():
            learned, scores, support = self._answered(support, labels, query, None, prepared)
            witnesses = Witnesses.among(labels, scores.shape[2])
            return self._gaps(learned, scores, witnesses.gathered(support), witnesses)

    def _answered(
        self, support: Tensor, labels: Tensor, query: Tensor, n_classes: int | None, prepared: bool
    ) -> tuple[Any, Tensor, Tensor]:
        """What was learned, the scores (e, q, c), and the prepared support without padding."""
        c = int(labels.max()) + 1 if n_classes is None else n_classes
        if not prepared:
            support, query = self.prepare(support), self.prepare(query)
        support = harmless(support, labels)
        learned = self._learn(support, Membership(labels, c))
        return learned, self._scores(learned, query), support

    def _gaps(self, learned: Any, scores: Tensor, support: Tensor, witnesses: Witnesses) -> Tensor:
        own = self._evidence(self._support_scores(learned, support))
        return gaps(self._evidence(scores), margin(own, witnesses.labels))

    def _calibrated(
        self, learned: Any, scores: Tensor, support: Tensor, witnesses: Witnesses, table: Table | None
    ) -> Tensor:
        """From scores (e, q, c), with the witnesses' prepared support (e, w, d), to probabilities (e, q, c)."""
        if scores.shape[2] == 1:
            return torch.ones_like(scores)
        sharpness = self._sharpness(table, scores.shape[1])
        at = sharpness.at(witnesses.n_classes, witnesses.shots)
        if self._leaves_out and not self.transductive:  # left-out examples are other company than a batch of queries
            at = shifted(at, self._shift(support, witnesses, sharpness).exp().view(-1, 1, 1))
        return tempered(self._gaps(learned, scores, support, witnesses), *at)

    def _sharpness(self, table: Table | None, n_queries: int) -> Sharpness:
        """The table's entry for this method, or the nearest type's it derives from."""
        names = [self._kind(n_queries), *(kind.__name__ for kind in type(self).__mro__)]
        known = {**SHIPPED, **({} if table is None else table)}
        return next(known[name] for name in names if name in known)

    def _shift(self, support: Tensor, witnesses: Witnesses, sharpness: Sharpness) -> Tensor:
        """How much surer to be than ``sharpness`` says, by examples left out of the support: logarithms (e,)."""
        found = torch.zeros(len(support), 1, device=support.device)
        for seen, truth in witnesses.folds():
            learned = self._learn(harmless(support, seen.labels), seen)
            scores = self._evidence(self._scores(learned, support))
            gap = gaps(scores, margin(scores, seen.labels))
            found = found + log_likelihood(gap, truth, sharpness.at(seen.n_classes, seen.shots()))
        return expected_shift(found)

    def _checked(self, X: ArrayLike, *, reset: bool) -> NDArray[np.float32]:
        return np.asarray(validate_data(self, X, dtype=np.float32, order="C", reset=reset))

    def _encode(self, labels: NDArray[Any]) -> NDArray[np.int64]:
        return np.fromiter((self._codes[label] for label in labels.tolist()), np.int64, len(labels))

    def _relearn(self) -> None:
        membership = Membership(torch.from_numpy(self._support_codes.array)[None], len(self.classes_))
        with torch.inference_mode():
            self._learned = self._learn(self.prepare(_tensor(self._support.array))[None], membership)

    def _score_tensor(self, X: ArrayLike) -> Tensor:
        check_is_fitted(self, "classes_")
        query = self._checked(X, reset=False)
        with torch.inference_mode():
            return self._scores(self._learned, self.prepare(_tensor(query))[None])[0]


def _sorted_classes(labels: NDArray[Any]) -> NDArray[Any]:
    if labels.dtype.kind != "O":
        return np.unique(labels)
    return label_array(sorted_labels(labels.tolist()))


def _tensor(array: NDArray[np.float32]) -> Tensor:
    return torch.from_numpy(array if array.flags.writeable else array.copy())
