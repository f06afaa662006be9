"""Learning more examples, forgetting classes, and exchanging some for others, on top of what was learned."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from fewshot.classifiers.class_index import ClassIndex
from fewshot.classifiers.membership import Membership
from fewshot.classifiers.support_set import SupportSet
from fewshot.validation import check_labels, check_range

if TYPE_CHECKING:
    from typing_extensions import Self


class IncrementalLearning:
    """The part of ``FewShotClassifier`` that changes the support set of a fitted one."""

    _support: SupportSet
    _learned: Any
    classes_: NDArray[Any]

    defer_renewal = False
    """Whether ``partial_fit`` and ``exchange`` may leave what takes long for a later ``fit``: see ``renewal_due``."""

    def _extend(self, learned: Any, support: Tensor, membership: Membership) -> Any | None:
        """What it remembers after more prepared support (1, s, d); None (the default) to learn again from all."""
        return None

    def _exchange(self, learned: Any, support: Tensor, membership: Membership, before: Tensor) -> Any | None:
        """What it remembers once the classes are others; None (the default) to learn again from all.

        ``before`` (c,) is the position of each class among the present ones, -1 where it is one of the ``membership``
        of prepared support (1, s, d).
        """
        return None

    @property
    def renewal_due(self) -> bool:
        """Whether ``fit`` would learn anew what changes have left as it was."""
        return False

    def fit(self, X: ArrayLike, y: Any, *, copy: bool = True) -> Self:
        """See ``FewShotClassifier``."""
        raise NotImplementedError

    class_index: ClassIndex | None

    def unit_means(self) -> NDArray[np.float32] | None:
        """See ``FewShotClassifier``."""
        raise NotImplementedError

    def prepare(self, vectors: Tensor) -> Tensor:
        """See ``FewShotClassifier``."""
        raise NotImplementedError

    def _checked(self, X: ArrayLike, *, reset: bool) -> NDArray[np.float32]:
        raise NotImplementedError

    def _relearn(self) -> None:
        raise NotImplementedError

    def _take_over(self, learned: Any) -> None:
        """Remember what was learned of the support set."""
        raise NotImplementedError

    def partial_fit(self, X: ArrayLike, y: Any, classes: Any = None, *, copy: bool = True) -> Self:
        """Learn more examples, of known or new classes, keeping what was learned.

        Parameters
        ----------
        X : array-like of shape (s, d)
        y : sequence of s labels
        classes : ignored
            Accepted because scikit-learn passes it; a class is known from its first example on.
        copy : bool, default True
            As in ``fit``.
        """
        if not hasattr(self, "classes_"):
            return self.fit(X, y, copy=copy)
        support = self._checked(X, reset=False)
        labels = check_labels(y, len(support))
        codes = self._support.append(support.copy() if copy else support, labels)
        self.classes_ = self._support.classes
        more = Membership(torch.from_numpy(codes)[None], len(self.classes_))
        with torch.inference_mode():
            self._remember(self._extend(self._learned, self.prepare(torch.from_numpy(support.copy()))[None], more))
        self._index(np.unique(codes))
        return self

    def exchange(self, X: ArrayLike, y: NDArray[np.int64], before: NDArray[np.int64], *, copy: bool = True) -> Self:
        """Learn another support set, most of whose classes are classes of the present one with the same examples.

        Parameters
        ----------
        X : array-like of shape (s, d)
        y : ndarray of shape (s,), int64
            0 to c - 1.
        before : ndarray of shape (c,), int64
            The position in the present ``classes_`` of each class that has the same examples as there; else -1.
        copy : bool, default True
            As in ``fit``.
        """
        support = self._checked(X, reset=True)
        self._support = SupportSet(support.copy() if copy else support, y)
        self.classes_ = self._support.classes
        rows = np.flatnonzero((before < 0)[y])
        check_range(support[rows])
        others = Membership(torch.from_numpy(y[rows])[None], len(self.classes_))
        with torch.inference_mode():
            fresh = self.prepare(torch.from_numpy(support[rows]))[None]
            self._remember(self._exchange(self._learned, fresh, others, torch.from_numpy(before)))
        if self.class_index is not None and self.class_index.in_use:
            self.use_class_index(before)
        return self

    def use_class_index(self, before: NDArray[np.int64]) -> None:
        """Use the index, whose classes were at ``before`` (c,) when it was made or last used; -1 for others."""
        if self.class_index is not None:
            self.class_index.move(before)
            self._index(np.flatnonzero(before < 0))

    def _index(self, changed: NDArray[np.int64]) -> None:
        """Put new or changed classes, given by positions, into the index."""
        means = self.unit_means()
        if self.class_index is not None and self.class_index.in_use and means is not None and len(changed):
            self.class_index.set(changed, means[changed])

    def _remember(self, learned: Any | None) -> None:
        if learned is None:
            self._relearn()
        else:
            self._take_over(learned)

    def forget(self, label: Hashable) -> Self:
        """Forget one class; the others stay as they are.

        Raises
        ------
        KeyError : if there is no such class.
        ValueError : if it is the last one.
        """
        check_is_fitted(self, "classes_")
        if label not in self._support:
            raise KeyError(f"no class {label!r} to forget; the {len(self.classes_)} known ones are in classes_")
        if len(self.classes_) == 1:
            raise ValueError(f"{label!r} is the only class left; fit new ones instead of forgetting it")
        self._support = self._support.without(label)
        self.classes_ = self._support.classes
        self._relearn()
        return self
