"""A registry's examples in memory, in one state of its file: one copy, which everything that answers shares."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from fewshot.registry.group_evidence import class_scatter
from fewshot.registry.label_paths import LabelTree
from fewshot.validation import Metric

if TYPE_CHECKING:
    import torch

# Examples compared at once: so many fit a processor's cache.
_ROWS_AT_ONCE = 2**13
# Numbers that an answer may hold at once, beside the examples.
_MOST_AT_ONCE = 2**24


@dataclass(frozen=True)
class Snapshot:
    """The examples of a registry; nobody changes its arrays.

    Attributes
    ----------
    settings : mapping
        What the registry is made of: metric, encoder and its fingerprint, dim, limits.
    ids : ndarray of shape (n,), int64
        Rising.
    vectors : ndarray of shape (n, d), float32
    lengths : ndarray of shape (n,), float32
        Euclidean, of the vectors; at least 1e-12.
    checksums : ndarray of shape (n,), int64
    codes : ndarray of shape (n,), int64
        The position in ``labels`` of each example's class.
    labels : sequence of c str
        In the order in which the classes came.
    class_ids : ndarray of shape (c,), int64
        Rising.
    """

    settings: Mapping[str, Any]
    ids: NDArray[np.int64]
    vectors: NDArray[np.float32]
    lengths: NDArray[np.float32]
    checksums: NDArray[np.int64]
    codes: NDArray[np.int64]
    labels: Sequence[str]
    class_ids: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def state(self) -> tuple[int, int]:
        """(revision, rewrites)."""
        return int(self.settings["revision"]), int(self.settings["rewrites"])

    @property
    def erased(self) -> int:
        """A number drawn anew by each erasure, after which nothing that was computed before may stay."""
        return int(self.settings.get("erased", 0))

    @property
    def metric(self) -> Metric:
        """The registry's."""
        return cast(Metric, self.settings["metric"])

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """How many examples each class has: (c,)."""
        return np.bincount(self.codes, minlength=len(self.labels))

    @cached_property
    def one_each(self) -> bool:
        """Whether each class has one example, in the order of the classes."""
        return len(self) == len(self.labels) and np.array_equal(self.codes, np.arange(len(self)))

    def same_examples(self, other: Snapshot) -> bool:
        """Whether it holds the same examples of the same classes as another, as after a rename."""
        return self is other or (
            len(self.labels) == len(other.labels)
            and np.array_equal(self.ids, other.ids)
            and np.array_equal(self.checksums, other.checksums)
            and np.array_equal(self.codes, other.codes)
        )

    def continues(self, other: Snapshot) -> bool:
        """Whether it holds the same examples, in the same memory, and more that were appended."""
        appended = self.vectors.base is other.vectors.base and self.state[1] == other.state[1]
        return appended and len(self) > len(other)

    @cached_property
    def class_keys(self) -> NDArray[np.uint64]:
        """A number for each class (c,) that is another, but for chance, once its examples are."""
        keys = np.zeros(len(self.labels), np.uint64)
        np.add.at(keys, self.codes, _row_keys(self.ids, self.checksums))
        return keys

    def classes_in(self, other: Snapshot) -> NDArray[np.int64]:
        """Return the position in another snapshot of each class (c,), -1 where its examples are not the same."""
        at = np.arange(len(self.class_ids)).clip(max=len(other.class_ids) - 1)
        if not np.array_equal(other.class_ids, self.class_ids[: len(other.class_ids)]):
            at = np.searchsorted(other.class_ids, self.class_ids).clip(max=len(other.class_ids) - 1)
        same = (other.class_ids[at] == self.class_ids) & (other.class_keys[at] == self.class_keys)
        return np.where(same, at, -1)

    def appended_to(self, other: Snapshot) -> None:
        """Take over what another has computed of itself, which this one ``continues``."""
        n, c = len(other), len(other.labels)
        made = other.__dict__
        if "class_keys" in made:
            keys = np.concatenate([other.class_keys, np.zeros(len(self.labels) - c, np.uint64)])
            np.add.at(keys, self.codes[n:], _row_keys(self.ids[n:], self.checksums[n:]))
            self.__dict__["class_keys"] = keys
        if "counts" in made:
            counts = np.concatenate([other.counts, np.zeros(len(self.labels) - c, np.int64)])
            np.add.at(counts, self.codes[n:], 1)
            self.__dict__["counts"] = counts

    @cached_property
    def class_scatter(self) -> float:
        """The mean squared distance of two unit vectors of one class; see ``group_evidence.class_scatter``."""
        return class_scatter(self)

    @cached_property
    def label_tree(self) -> LabelTree:
        """The levels of the labels, as paths."""
        return LabelTree(self.labels)

    def label_of(self, position: int) -> str:
        """Return the label of the example at this position."""
        return self.labels[int(self.codes[position])]

    def class_products(self, query: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the inner products of vectors (q, d) with each class's mean of unit vectors: (q, c)."""
        import torch

        asked = _tensor(query)
        found = torch.zeros(len(query), len(self.labels))
        for rows, some in self._blocks():
            products = (asked @ some.mT).div_(_tensor(self.lengths[rows]))
            if self.one_each:
                found[:, rows] = products
            else:
                found.index_add_(1, torch.from_numpy(self.codes[rows]), products)
        return np.asarray((found if self.one_each else found.div_(torch.from_numpy(self.counts))).numpy())

    def prototypes(self, classes: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the means of the unit vectors of some classes, given by rising positions: (k, d)."""
        if self.one_each:
            units = self.vectors[classes]  # a copy
            units /= self.lengths[classes, None]
            return units
        import torch

        rows, counts = self.examples_of(classes), self.counts[classes]
        units = self.vectors[rows]
        units /= self.lengths[rows, None]
        own = torch.from_numpy(np.repeat(np.arange(len(classes)), counts))
        sums = torch.zeros(len(classes), units.shape[1]).index_add_(
            0, own, _tensor(units)
        )  # reduceat takes ten times it
        return np.asarray(sums.div_(torch.from_numpy(counts).unsqueeze(1)).numpy())

    @cached_property
    def prototype_lengths(self) -> NDArray[np.float32]:
        """The lengths of ``prototypes``, of all classes: (c,)."""
        if self.one_each:
            return np.ones(len(self.labels), np.float32)
        parts = [
            np.arange(at, min(at + _ROWS_AT_ONCE, len(self.labels))) for at in range(0, len(self.labels), _ROWS_AT_ONCE)
        ]
        return np.concatenate([np.linalg.norm(self.prototypes(part), axis=1) for part in parts])

    def largest_cosine(self, query: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the cosine of vectors (q, d) of any length to the closest of ``prototypes``: (q,)."""
        size = max(1, _MOST_AT_ONCE // len(self.labels))
        units = query / np.linalg.norm(query, axis=1, keepdims=True).clip(1e-12)
        parts = [units[at : at + size] for at in range(0, len(query), size)]
        lengths = self.prototype_lengths.clip(1e-12)
        return np.concatenate([(self.class_products(part) / lengths).max(axis=1).clip(-1.0, 1.0) for part in parts])

    def first_examples(self, classes: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the position of the first example of each of some classes, given by positions: (k,)."""
        order, starts = self._by_class
        return order[starts[classes]]

    def examples_of(self, classes: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the positions of the examples of some classes, given by rising positions: class by class."""
        order, starts = self._by_class
        counts = self.counts[classes]
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return np.asarray(order[np.repeat(starts[classes], counts) + within])

    @cached_property
    def _by_class(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The positions of the examples, class by class, and where each class begins among them."""
        return np.argsort(self.codes, kind="stable"), np.concatenate([[0], np.cumsum(self.counts)])

    def _blocks(self) -> Iterator[tuple[slice, torch.Tensor]]:
        for start in range(0, len(self), _ROWS_AT_ONCE):
            rows = slice(start, min(start + _ROWS_AT_ONCE, len(self)))
            yield rows, _tensor(self.vectors[rows])


def _row_keys(ids: NDArray[np.int64], checksums: NDArray[np.int64]) -> NDArray[np.uint64]:
    """A number for each example (n,), made of its id and checksum."""
    return mixed(ids.astype(np.uint64) ^ mixed(checksums.astype(np.uint64)))


def mixed(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return a pseudo-random number for each, always the same.

    References
    ----------
    Steele, Lea & Flood 2014, doi:10.1145/2660193.2660195, figure 16 (SplitMix64's finaliser).
    """
    x = numbers + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(x ^ (x >> np.uint64(31)), np.uint64)


def _tensor(array: NDArray[np.float32]) -> torch.Tensor:
    import torch

    return torch.from_numpy(array)
