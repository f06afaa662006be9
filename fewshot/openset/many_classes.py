"""The default unknown score beside thousands of classes: a sample of them gives centre and whitening."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from fewshot.classifiers import SomeClasses
from fewshot.openset.background import MAX_EXAMPLES, Background, stratified_sample
from fewshot.openset.center import Center
from fewshot.openset.leave_one_out import without_group
from fewshot.openset.threshold import MAX_KNOWN_EXAMPLES, LeaveOneOutScores
from fewshot.openset.unknown_scores import KnownClasses, energy_of
from fewshot.openset.whitening import STRENGTH, Whitening

SAMPLE_CLASSES = 2_000
"""So many classes give centre and whitening; up to so many, all do (``KnownClasses``)."""
WHITENED_CLASSES = 256
"""Of so many of them one example each is whitened by."""
# Half of these examples' directions, in which nearly all of them differ, take half of the time.
_DIRECTIONS = 128
# Cosines that a threshold is estimated from, at most, and examples that are scored at least.
_MOST_COSINES, _LEAST = 2e8, 400
_AT_ONCE = 2**24
_TINY = 1e-12

Products = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""From vectors (q, d) to their inner products with all prototypes, means of unit vectors: (q, c)."""


@dataclass(frozen=True)
class ManyClasses:
    """What ``centered`` compares queries with where classes are very many, but for the prototypes themselves.

    The score is -(1/40) log sum_k exp(40 cos(W'(q - m), W'(p_k - m))), with one centre m for all classes. Of a
    background m is the mean and W the whitening. Without, both are those of a sample of the classes, beside which the
    encoder's ``Center`` counts as in ``KnownClasses``; a class's own part in them, one in 2,000, is not taken out.

    Attributes
    ----------
    center : Tensor of shape (1, d)
        m.
    whitening : Whitening
        Gives W; its own centre is not used.
    source : Center or None
        The encoder's, where it counts.
    """

    center: Tensor
    whitening: Whitening
    source: Center | None

    @classmethod
    def of(cls, prototypes: NDArray[np.float32], examples: NDArray[np.float32], center: Center | None) -> ManyClasses:
        """Make it from the prototypes (k, d) of a sample, means of unit vectors, and some of its examples (n, d)."""
        some = torch.from_numpy(prototypes)
        total, number = some.sum(dim=0, keepdim=True), torch.tensor(float(len(some)))
        if center is not None:
            weight = center.weight(some[None]).reshape(())
            total, number = total + weight * center.vector, number + weight
        units = normalize(torch.from_numpy(examples), dim=-1)
        return cls(total / number, Whitening.of(units, STRENGTH, directions=_DIRECTIONS), center)

    @classmethod
    def around(cls, background: Background) -> ManyClasses:
        """Make it from a background."""
        return cls(background.center[None], background.whitening, None)

    def lengths(self, prototypes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return |W'(p - m)| of prototypes (k, d): (k,)."""
        squares = self.whitening.squares(torch.from_numpy(prototypes) - self.center)
        return np.asarray(squares.clamp_min(_TINY).sqrt().numpy())

    def map(self, query: NDArray[np.float32]) -> tuple[NDArray[np.float32], Tensor, Tensor]:
        """Return a (q, d), b and l (q, 1) of queries (q, d): the cosine to p_k is (a p_k - b) / (l |W'(p_k - m)|)."""
        moved = self.whitening.turned(normalize(torch.from_numpy(query), dim=-1) - self.center)
        asked = self.whitening.turned_back(moved)
        return np.asarray(asked.numpy()), asked @ self.center.mT, moved.norm(dim=-1, keepdim=True).clamp_min(_TINY)

    def cosines(self, query: NDArray[np.float32], lengths: NDArray[np.float32], products: Products) -> Tensor:
        """Return the cosine of queries (q, d) to each of c classes of these ``lengths``: (q, c)."""
        asked, offset, own = self.map(query)
        return _cosines(torch.from_numpy(products(asked)), offset, own, lengths)

    def scores(self, query: NDArray[np.float32], lengths: NDArray[np.float32], products: Products) -> Tensor:
        """Return the unknown score of queries (q, d): (q,)."""
        size = max(1, _AT_ONCE // len(lengths))
        parts = [query[at : at + size] for at in range(0, len(query), size)]
        return torch.cat([torch.empty(0), *(energy_of(self.cosines(part, lengths, products)) for part in parts)])


class PendingScores:
    """Unknown scores of queries (q, d), to be made of the inner products of ``vectors`` with all prototypes.

    Attributes
    ----------
    vectors : ndarray of shape (q, d)
    """

    def __init__(self, known: ManyClasses, query: NDArray[np.float32], lengths: NDArray[np.float32]) -> None:
        self.vectors, self._offset, self._own = known.map(query)
        self._lengths = lengths
        self._found = np.full(len(query), np.nan, np.float32)

    def take(self, rows: slice, products: Tensor, some: SomeClasses | None = None) -> None:
        """Make some of the scores of the products with all classes (n, c), or some (n, r + s); these are overwritten.

        Of some classes, the score of 99 in 100 is within 0.01 of that of all.
        """
        lengths = self._lengths if some is None else some.of_each(self._lengths)
        cosines = _cosines(products, self._offset[rows], self._own[rows], lengths)
        self._found[rows] = energy_of(cosines, None if some is None else some.weights).numpy()

    def scores(self, products: Products) -> NDArray[np.float32]:
        """Return the scores (q,); those that are missing are made now."""
        missing = np.flatnonzero(np.isnan(self._found))
        size = max(1, _AT_ONCE // len(self._lengths))
        for at in range(int(missing[0]), len(self._found), size) if len(missing) else ():
            self.take(slice(at, at + size), torch.from_numpy(products(self.vectors[at : at + size])))
        return self._found


def _cosines(products: Tensor, offset: Tensor, own: Tensor, lengths: NDArray[np.float32]) -> Tensor:
    return products.sub_(offset).div_(own).div_(torch.from_numpy(lengths)).clamp_(-1.0, 1.0)


@dataclass(frozen=True)
class LabelledExamples:
    """Vectors (s, d) of any length, the class of each, and the classes that the sample's whitening saw."""

    vectors: NDArray[np.float32]
    codes: NDArray[np.int64]
    whitened: NDArray[np.int64]


def sampled_leave_one_out_scores(
    known: ManyClasses,
    lengths: NDArray[np.float32],
    products: Products,
    examples: LabelledExamples,
    *,
    background: Background | None = None,
    prototypes: Iterable[NDArray[np.float32]] = (),
    random_state: int = 0,
) -> LeaveOneOutScores:
    """Return ``leave_one_out_scores`` of a sample of the examples.

    2,000 serve as unknown ones beside up to 100,000 classes, and fewer beside more, down to 400; 500 as known ones.

    Parameters
    ----------
    known, lengths, products
        As ``ManyClasses.scores`` has them.
    examples : LabelledExamples
    background : Background, optional
        Serves as the unknown classes.
    prototypes : iterable of ndarray of shape (k, d)
        The classes' means of unit vectors, some at a time; read where there is a background.
    """
    rng = np.random.default_rng(random_state)
    most = int(min(MAX_EXAMPLES, max(_LEAST, _MOST_COSINES // len(lengths))))
    counts = np.bincount(examples.codes, minlength=len(lengths))
    held = np.sort(rng.permutation(np.flatnonzero(counts[examples.codes] > 1))[:MAX_KNOWN_EXAMPLES])
    with torch.inference_mode():
        if background is None:
            able = np.flatnonzero(np.isin(examples.codes, examples.whitened, invert=True))
            asked = able[stratified_sample(examples.codes[able], rng, most)]
            groups = examples.codes[asked]
            vectors = examples.vectors[asked]
            unknown = _beside_others(known, lengths, products, vectors, groups, np.full_like(vectors, np.nan))
        else:
            asked = stratified_sample(background.groups, rng, most)
            groups = background.groups[asked]
            unknown = _background_beside(background, asked, prototypes)
        inliers = _beside_others(
            known, lengths, products, examples.vectors[held], examples.codes[held], _own(examples, held)
        )
    return LeaveOneOutScores(
        np.asarray(unknown.numpy(), np.float64),
        groups,
        np.asarray(inliers.numpy(), np.float64),
        "classes" if background is None else "background",
        known.source.n_classes if known.source is not None else None,
    )


def _beside_others(
    known: ManyClasses,
    lengths: NDArray[np.float32],
    products: Products,
    vectors: NDArray[np.float32],
    codes: NDArray[np.int64],
    own: NDArray[np.float32],
) -> Tensor:
    """Score vectors (n, d) with other prototypes (n, d) of their own classes; with NaN their classes are not known."""
    scores = [torch.empty(0)]
    size = max(1, _AT_ONCE // len(lengths))
    for at in range(0, len(vectors), size):
        part = slice(at, at + size)
        cosines = known.cosines(vectors[part], lengths, products)
        asked, offset, length = known.map(vectors[part])
        across = (torch.from_numpy(asked) * torch.from_numpy(own[part])).sum(dim=1) - offset[:, 0]
        instead = across / (length[:, 0] * torch.from_numpy(known.lengths(own[part])))
        cosines[torch.arange(len(cosines)), torch.from_numpy(codes[part])] = instead.nan_to_num(-torch.inf)
        scores.append(energy_of(cosines))
    return torch.cat(scores)


def _own(examples: LabelledExamples, held: NDArray[np.int64]) -> NDArray[np.float32]:
    """The prototypes (h, d) of the classes of some examples without these."""
    found = np.empty((len(held), examples.vectors.shape[1]), np.float32)
    for row, position in enumerate(held.tolist()):
        others = examples.vectors[np.flatnonzero(examples.codes == examples.codes[position])]
        units = others / np.linalg.norm(others, axis=1, keepdims=True).clip(_TINY)
        mine = examples.vectors[position] / max(float(np.linalg.norm(examples.vectors[position])), _TINY)
        found[row] = (units.sum(axis=0) - mine) / (len(others) - 1)
    return found


def _background_beside(
    background: Background, asked: NDArray[np.int64], prototypes: Iterable[NDArray[np.float32]]
) -> Tensor:
    """``without_group``, with the classes some at a time."""
    total = torch.full((len(asked),), torch.inf)
    for some in prototypes:
        block = torch.from_numpy(some)[None]
        total = both(
            total, without_group(KnownClasses(block, block, background, background.whitening), background, asked)
        )
    return total


def both(scores: Tensor, others: Tensor) -> Tensor:
    """Return the default unknown score beside two sets of classes, from the scores beside each."""
    return energy_of(torch.stack([-scores, -others], dim=-1))
