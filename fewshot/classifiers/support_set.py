"""The labelled vectors that a classifier was fitted to; appended parts are joined when needed."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewshot.validation import label_array, sorted_labels


class SupportSet:
    """Vectors (s, d) and their labels.

    Parameters
    ----------
    vectors : ndarray of shape (s, d), float32
        Kept, not copied.
    labels : ndarray of shape (s,)

    Attributes
    ----------
    classes : ndarray of shape (c,)
        The distinct labels: sorted, then those that were appended in the order they came, sorted within one call.
    parts : list of ndarray of shape (n, d)
        The vectors as they came; views of one matrix that follow one another are one part.
    """

    def __init__(self, vectors: NDArray[np.float32], labels: NDArray[Any]) -> None:
        if labels.dtype.kind == "O":
            self.classes = label_array(sorted_labels(labels.tolist()))
            self._positions = {label: position for position, label in enumerate(self.classes.tolist())}
            codes = self._encoded(labels)
        else:
            self.classes, codes = np.unique(labels, return_inverse=True)
            self._positions = {label: position for position, label in enumerate(self.classes.tolist())}
        self.parts, self._starts = [vectors], [0]
        self._codes = [codes.reshape(-1).astype(np.int64, copy=False)]

    def __contains__(self, label: Hashable) -> bool:
        return label in self._positions

    @property
    def n_examples(self) -> int:
        """How many there are."""
        return sum(map(len, self.parts))

    @property
    def vectors(self) -> NDArray[np.float32]:
        """All vectors (s, d)."""
        if len(self.parts) > 1:
            self.parts, self._starts = [np.concatenate(self.parts)], [0]
        return self.parts[0]

    @property
    def codes(self) -> NDArray[np.int64]:
        """The position in ``classes`` of each vector's label: (s,)."""
        if len(self._codes) > 1:
            self._codes = [np.concatenate(self._codes)]
        return self._codes[0]

    def append(self, vectors: NDArray[np.float32], labels: NDArray[Any]) -> NDArray[np.int64]:
        """Add vectors (n, d), without copying those that are there; returns the codes (n,) of their labels."""
        new = label_array(sorted_labels(label for label in labels.tolist() if label not in self._positions))
        if len(new):
            self._positions.update((label, len(self.classes) + n) for n, label in enumerate(new.tolist()))
            if self.classes.dtype.kind == new.dtype.kind != "O":
                self.classes = np.concatenate([self.classes, new])
            else:
                self.classes = label_array([*self.classes.tolist(), *new.tolist()])
        codes = self._encoded(labels)
        self._codes.append(codes)
        joined = _adjacent(self.parts[-1], vectors)
        if joined is not None:
            self.parts[-1] = joined
        else:
            self._starts.append(self._starts[-1] + len(self.parts[-1]))
            self.parts.append(vectors)
        return codes

    def without(self, label: Hashable) -> SupportSet:
        """Return the support set of the other classes, in their order."""
        gone = self._positions[label]
        kept = self.codes != gone
        other = SupportSet(self.vectors[kept], np.empty(0, np.int64))
        other.classes = np.delete(self.classes, gone)
        other._positions = {known: position for position, known in enumerate(other.classes.tolist())}
        codes = self.codes[kept]
        other._codes = [codes - (codes > gone)]
        return other

    def take(self, positions: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the vectors (n, d) at these positions."""
        part_of = np.searchsorted(self._starts, positions, side="right") - 1
        found = np.empty((len(positions), self.parts[0].shape[1]), np.float32)
        for part in np.unique(part_of).tolist():
            mine = part_of == part
            found[mine] = self.parts[part][positions[mine] - self._starts[part]]
        return found

    def _encoded(self, labels: NDArray[Any]) -> NDArray[np.int64]:
        return np.fromiter((self._positions[label] for label in labels.tolist()), np.int64, len(labels))


def _adjacent(rows: NDArray[np.float32], more: NDArray[np.float32]) -> NDArray[np.float32] | None:
    """Return both as one, where they are views of one matrix and the second begins where the first ends."""
    base: Any = rows.base
    if not isinstance(base, np.ndarray) or base is not more.base or base.ndim != 2 or not base.flags.c_contiguous:
        return None
    whole = rows.shape[1] == more.shape[1] == base.shape[1] and rows.flags.c_contiguous and more.flags.c_contiguous
    start = (rows.ctypes.data - base.ctypes.data) // base.strides[0]
    if not whole or more.ctypes.data != rows.ctypes.data + rows.nbytes or rows.dtype != base.dtype:
        return None
    both: NDArray[np.float32] = base[start : start + len(rows) + len(more)]
    return both
