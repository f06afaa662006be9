"""Candidates for the closest of very many classes, and a sample of the others."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from fewshot.vectors import CompressedVectors

# Candidates of each direction that is asked for, and classes that stand for all others.
_CANDIDATES, _SAMPLE = 256, 8_192
MOST_RANKED = 100
"""So many classes are ranked by an index; more need all scores."""


@dataclass(frozen=True)
class SomeClasses:
    """Classes of which each query's scores are computed: candidates, then the sample.

    Attributes
    ----------
    candidates : Tensor of shape (q, r), int64
    sample : Tensor of shape (s,), int64
    weights : Tensor of shape (q, r + s), float32
        How many classes each stands for, c in all: 1 for a candidate, more for one of the sample; 0 for what is there
        twice.
    """

    candidates: Tensor
    sample: Tensor
    weights: Tensor

    def of_each(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the values (q, r + s) of these classes, given those of all (c,)."""
        sampled = np.broadcast_to(values[self.sample.numpy()], (len(self.candidates), len(self.sample)))
        return np.concatenate([values[self.candidates.numpy()], sampled], axis=1)


class ClassIndex:
    """Finds classes by directions x in a space where the closest is that of the largest (x - m)'A A'(p - m).

    Classes are added, moved and removed in place, once all are in it and it is in use. The sample are those whose
    numbers have the smallest hashes, so that few changes change it.

    Parameters
    ----------
    root : Tensor of shape (d, d)
        A, invertible.
    center : Tensor of shape (1, d)
        m.

    Attributes
    ----------
    in_use : bool
    n_classes : int
    """

    def __init__(self, root: Tensor, center: Tensor) -> None:
        self._root, self._center = root, center
        self._codes = CompressedVectors(len(root))
        self._position = np.empty(0, np.int64)  # of the class that each code is of; -1 once it is none
        self._share = 1.0
        self.in_use, self.n_classes = False, 0

    def append(self, prototypes: NDArray[np.float32]) -> None:
        """Put prototypes (n, d), means of unit vectors, of the next classes into it; the first should be thousands."""
        placed = (torch.from_numpy(prototypes) - self._center) @ self._root
        self._codes.add(normalize(placed, dim=-1).numpy())
        self._position = np.concatenate([self._position, self.n_classes + np.arange(len(prototypes))])
        self.n_classes += len(prototypes)
        self._share = self._share if self.in_use else _SAMPLE / self.n_classes
        self.__dict__.pop("sample", None)

    def set(self, positions: NDArray[np.int64], prototypes: NDArray[np.float32]) -> None:
        """Put prototypes (n, d), of new or known classes, at these positions."""
        known = positions[positions < self.n_classes]
        if len(known):
            self._position[np.isin(self._position, known)] = -1
        n, c = len(self._position), max(self.n_classes, int(positions.max(initial=-1)) + 1)
        self.append(prototypes)
        self._position[n:], self.n_classes = positions, c

    def move(self, before: NDArray[np.int64]) -> None:
        """Be in use, of classes that were at these positions (c,); -1 for one that is ``set`` next."""
        after = np.full(self.n_classes + 1, -1)  # the last is where -1 points to
        kept = np.flatnonzero(before >= 0)
        after[before[kept]] = kept
        self._position = after[self._position]
        self.n_classes, self.in_use = len(before), True
        self.__dict__.pop("sample", None)

    @cached_property
    def sample(self) -> Tensor:
        """Positions of some classes, rising: (s,)."""
        hashes = np.random.default_rng(0).random(len(self._position))
        drawn = self._position[hashes < self._share]
        return torch.from_numpy(np.sort(drawn[drawn >= 0]))

    def some_classes(self, query: Tensor, other: Tensor | None = None) -> SomeClasses:
        """Return candidates for the classes closest to queries (q, d), and of the largest x'p for others x (q, d)."""
        directions = [normalize((query - self._center) @ self._root, dim=-1)]
        if other is not None:
            directions.append(normalize(torch.linalg.solve_triangular(self._root, other.mT, upper=False).mT, dim=-1))
        found = self._closest(torch.cat(directions).numpy())
        candidates = torch.from_numpy(np.concatenate(np.split(found, len(directions)), axis=1)).sort(dim=1).values
        first = candidates >= 0
        first[:, 1:] &= candidates[:, 1:] != candidates[:, :-1]
        sample = self.sample
        at = torch.searchsorted(candidates, sample.expand(len(query), -1).contiguous()).clamp_max_(
            candidates.shape[1] - 1
        )
        others = candidates.gather(1, at) != sample
        share = (self.n_classes - first.sum(1, keepdim=True)) / others.sum(1, keepdim=True).clamp_min(1)
        return SomeClasses(candidates.clamp_min(0), sample, torch.cat([first.float(), others * share], dim=1))

    def _closest(self, directions: NDArray[np.float32]) -> NDArray[np.int64]:
        """Positions (n, r) of the classes closest to directions (n, d); -1 last, where fewer were found."""
        k = _CANDIDATES
        found = self._position[self._codes.search(directions, k)]
        # Many of them may be of no class, where one class has changed many times: more are asked for then.
        while 4 * int((found >= 0).sum(1).min()) < 3 * _CANDIDATES and k < len(self._codes):
            k *= 4
            found = self._position[self._codes.search(directions, k)]
        places = np.argsort(found < 0, axis=1, kind="stable")[:, :_CANDIDATES]
        return np.take_along_axis(found, places, axis=1)
