"""Examples that hurt: how many others would be recognised without each, and how many no longer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fewshot.diagnosis.left_out_examples import LeftOut

if TYPE_CHECKING:
    from fewshot.classifiers import ExportedHead, WhitenedPrototypeClassifier

_ROWS_AT_ONCE = 2**13
_MOST_AT_ONCE = 2**22
_TINY = 1e-12


@dataclass(frozen=True)
class Influence:
    """What the removal of each example would do to the others, each of which is recognised without itself.

    Attributes
    ----------
    mended, broken : ndarray of shape (n,), int64
        How many others would then be recognised that are not, and the reverse.
    change : ndarray of shape (n,), float64
        The sum of the changes of the others' margins, in cosines.

    References
    ----------
    Cook 1977, Technometrics 19(1), 15-18 (influence by leaving one out). Jia et al. 2019, arXiv:1908.08619, value
    examples by their Shapley value for nearest neighbours instead, over all subsets; here it is what happens next.
    """

    mended: NDArray[np.int64]
    broken: NDArray[np.int64]
    change: NDArray[np.float64]

    @property
    def gain(self) -> NDArray[np.int64]:
        """How many more of the others would be recognised: (n,)."""
        return self.mended - self.broken


def influence(
    classifier: WhitenedPrototypeClassifier, vectors: NDArray[np.float32], codes: NDArray[np.int64], found: LeftOut
) -> Influence:
    """Compute it for class means in a whitened space, by closed formulas: nothing is learned again.

    What is removed moves the mean of its class; a query is compared with its own class and the three closest others
    that ``found`` has for it. The whitening stays that of all examples.

    Parameters
    ----------
    classifier : WhitenedPrototypeClassifier
        Is fitted.
    vectors : ndarray of shape (n, d), float32
    codes : ndarray of shape (n,), int64
    found : LeftOut
        Of these, by the classifier that answers.
    """
    from fewshot.classifiers import export_head

    head = export_head(classifier.fit(vectors, codes))
    blocks = range(0, len(vectors), _ROWS_AT_ONCE)
    space = np.concatenate([_mapped(head, vectors[at : at + _ROWS_AT_ONCE]) for at in blocks])
    own = np.zeros(len(found.positions))
    rivals = np.full(found.rivals.shape, -np.inf)
    for part in _comparisons(space, codes, found):
        scores = part.cosines(removed=False)[:, 0]
        if part.slot is None:
            own[part.asked] = scores
        else:
            rivals[part.asked, part.slot] = scores
    return _summed(space, codes, found, own, rivals)


def _summed(
    space: NDArray[np.float32],
    codes: NDArray[np.int64],
    found: LeftOut,
    own: NDArray[np.float64],
    rivals: NDArray[np.float64],
) -> Influence:
    mended, broken, change = np.zeros(len(codes), np.int64), np.zeros(len(codes), np.int64), np.zeros(len(codes))
    before = own - rivals.max(axis=1)
    for part in _comparisons(space, codes, found):
        scores, asked = part.cosines(removed=True), part.asked
        if part.slot is None:
            after = scores - rivals[asked].max(axis=1, keepdims=True)
        else:
            others = np.delete(rivals[asked], part.slot, axis=1).max(axis=1, keepdims=True, initial=-np.inf)
            after = own[asked, None] - np.maximum(others, scores)
        now = before[asked, None]
        after = np.where(np.isnan(after), now, after)  # where nothing would be left to compare with
        mended[part.members] += ((now < 0) & (after > 0)).sum(axis=0)
        broken[part.members] += ((now > 0) & (after < 0)).sum(axis=0)
        change[part.members] += np.where(np.isfinite(after), after - now, 0.0).sum(axis=0)
    return Influence(mended, broken, change)


@dataclass(frozen=True)
class _Comparison:
    """Some of the examples that were left out, beside the members of one class: their own, or a rival of theirs."""

    asked: NDArray[np.int64]  # (q,), places in what was left out
    slot: int | None  # among their rivals; None: their own class
    members: NDArray[np.int64]  # (k,), positions
    at: NDArray[np.int64] | None  # (q,), which of the members each is itself, if it is their own class
    products: NDArray[np.float64]  # (q, k)
    squares: NDArray[np.float64]  # (q,)
    sums: NDArray[np.float64]  # (k,), of the products of a member with all
    lengths: NDArray[np.float64]  # (k,), squared

    def cosines(self, *, removed: bool) -> NDArray[np.float64]:
        """Cosines to the class mean without themselves: (q, 1), or ``removed`` (q, k) without each member, too.

        NaN where a member is itself, or no member would be left of the own class; -infinity where none is of another.
        """
        along, square = self.products.sum(axis=1, keepdims=True), np.full((1, 1), self.sums.sum())
        rows, left = np.arange(len(self.products)), len(self.members)
        if self.at is not None:
            along = along - self.products[rows, self.at][:, None]
            square = square - 2.0 * self.sums[self.at][:, None] + self.lengths[self.at][:, None]
            left -= 1
        if removed:
            along = along - self.products
            square = square - 2.0 * self.sums + self.lengths
            left -= 1
            if self.at is not None:
                square = square + 2.0 * self.products
        if left == 0:
            return np.full(along.shape, np.nan if self.at is not None else -np.inf)
        cosines = along / np.sqrt((square * self.squares[:, None]).clip(_TINY))
        if removed and self.at is not None:
            cosines[rows, self.at] = np.nan
        return np.asarray(cosines)


def _comparisons(space: NDArray[np.float32], codes: NDArray[np.int64], found: LeftOut) -> Iterator[_Comparison]:
    """Yield all of them, class by class, in bounded memory."""
    order = np.argsort(codes, kind="stable")
    ends = np.cumsum(np.bincount(codes))
    columns = np.concatenate([codes[found.positions][:, None], found.rivals], axis=1)
    places = np.argsort(columns, axis=None, kind="stable")
    starts = np.searchsorted(columns.ravel()[places], np.arange(len(ends) + 1))
    for code, end in enumerate(ends.tolist()):
        members = order[ends[code - 1] if code else 0 : end]
        keys = space[members].astype(np.float64)
        sums, lengths = keys @ keys.sum(axis=0), (keys * keys).sum(axis=1)
        rows, slots = np.divmod(places[starts[code] : starts[code + 1]], columns.shape[1])
        for slot in np.unique(slots).tolist():
            chosen = rows[slots == slot]
            for asked in np.array_split(chosen, -(-len(chosen) * len(members) // _MOST_AT_ONCE)):
                positions = found.positions[asked]
                query = space[positions].astype(np.float64)
                at = np.searchsorted(members, positions) if slot == 0 else None
                squares = (query * query).sum(axis=1)
                products = query @ keys.T
                yield _Comparison(asked, slot - 1 if slot else None, members, at, products, squares, sums, lengths)


def _mapped(head: ExportedHead, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Vectors (n, d) where class means are compared by the cosine; see ``ExportedHead``."""
    parts = np.split(vectors, np.cumsum(head.parts)[:-1], axis=1)
    x = np.concatenate([part / np.linalg.norm(part, axis=1, keepdims=True).clip(_TINY) for part in parts], axis=1)
    arrays = head.arrays
    x = x * arrays.get("scale", np.float32(1.0)) - arrays["center"]
    if "factors" not in arrays:
        return np.asarray(x @ arrays["axes"])
    return np.asarray(x + (x @ arrays["axes"] * arrays["factors"]) @ arrays["axes"].T)
