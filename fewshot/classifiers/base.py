"""What every few-shot classifier shares: labels, numpy, growing class sets, probabilities, and the two doors."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor
from torch.nn.functional import one_hot

from fewshot.validation import check_labels, label_array, sorted_labels

if TYPE_CHECKING:
    from typing_extensions import Self

# Up to this many entries the dense matrix product beats the scatter; above it, it would not fit memory.
_DENSE_LIMIT = 2**22


@dataclass(frozen=True)
class Membership:
    """Which class each support vector belongs to.

    Attributes
    ----------
    labels : Tensor of shape (e, s), int64
        Class numbers below ``n_classes``; -1 marks padding, which belongs to none.
    n_classes : int
        c, the same for all episodes.
    """

    labels: Tensor
    n_classes: int

    def one_hot(self) -> Tensor:
        """Return membership as a float tensor of shape (e, s, c); a row of zeros where padded."""
        return one_hot(self.labels + 1, self.n_classes + 1)[..., 1:].to(torch.float32)

    def counts(self) -> Tensor:
        """Return how many examples each class has, float32 of shape (e, c)."""
        return self.sums(torch.ones_like(self.labels, dtype=torch.float32).unsqueeze(-1)).squeeze(-1)

    def sums(self, support: Tensor) -> Tensor:
        """Sum the support (e, s, d) within each class: (e, c, d)."""
        e, s, d = support.shape
        if e * s * self.n_classes <= _DENSE_LIMIT:
            return self.one_hot().mT @ support
        totals = support.new_zeros(e, self.n_classes + 1, d)
        where = torch.where(self.labels < 0, self.n_classes, self.labels)
        return totals.scatter_add_(1, where.unsqueeze(-1).expand(e, s, d), support)[:, :-1]


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

    def _probabilities(self, scores: Tensor) -> Tensor:
        """From scores (e, q, c) to probabilities (e, q, c)."""
        return scores.softmax(dim=-1)

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

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float32]:
        """Return class probabilities of shape (q, c), rows summing to 1; how scores become them is the method's."""
        return np.asarray(self._probabilities(self._score_tensor(X)[None])[0].numpy(), dtype=np.float32)

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
        c = int(labels.max()) + 1 if n_classes is None else n_classes
        with torch.inference_mode():
            if not prepared:
                support, query = self.prepare(support), self.prepare(query)
            return self._scores(self._learn(_harmless(support, labels), Membership(labels, c)), query)

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


def _harmless(support: Tensor, labels: Tensor) -> Tensor:
    """Replace padding by its episode's first example, so that none shifts a mean or spreads NaN."""
    padded = labels < 0
    if not bool(padded.any()):
        return support
    first = (~padded).to(torch.uint8).argmax(dim=1)
    stand_in = support[torch.arange(len(support), device=support.device), first].unsqueeze(1)
    return torch.where(padded.unsqueeze(-1), stand_in, support)


def _tensor(array: NDArray[np.float32]) -> Tensor:
    return torch.from_numpy(array if array.flags.writeable else array.copy())
