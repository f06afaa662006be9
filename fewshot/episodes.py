"""Episodes: index arrays drawn from a seed. numpy only, so that a benchmark can be reproduced anywhere."""

from __future__ import annotations

import copy
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fewshot.validation import check_count, check_labels, sorted_labels

_CHUNK = 256  # episodes drawn from one seed sequence: another number would draw other episodes from the same seed


@dataclass(frozen=True, repr=False)
class Episodes:
    """Episodes as positions in the data, padded to one shape.

    Attributes
    ----------
    classes : ndarray of shape (e, c)
        Positions in ``EpisodeSampler.classes_``; -1 where an episode has fewer classes.
    support, query : ndarray of shape (e, s) and (e, q)
        Positions of the examples; 0 where padded.
    support_labels, query_labels : ndarray of shape (e, s) and (e, q)
        The class within the episode, 0 to c - 1; -1 where padded.
    """

    classes: NDArray[np.int64]
    support: NDArray[np.int64]
    support_labels: NDArray[np.int64]
    query: NDArray[np.int64]
    query_labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.classes)

    def __repr__(self) -> str:
        e, c = self.classes.shape
        return f"Episodes(e={e}, c={c}, s={self.support.shape[1]}, q={self.query.shape[1]})"

    @staticmethod
    def padding() -> dict[str, int]:
        """Return what each array is padded with."""
        return {"classes": -1, "support": 0, "support_labels": -1, "query": 0, "query_labels": -1}

    def equals(self, other: Episodes) -> bool:
        """Whether all arrays are the same."""
        return all(np.array_equal(mine, theirs) for mine, theirs in zip(_arrays(self), _arrays(other), strict=True))

    def __getitem__(self, some: slice) -> Episodes:
        return Episodes(*(array[some] for array in _arrays(self)))


class EpisodeSampler:
    """Draw episodes: classes, then support and query examples of each, none twice in an episode.

    Parameters
    ----------
    y : sequence of labels, one for each example
    n_way : int or "various"
        Classes of an episode. "various": Meta-Dataset's rule, 5 to 50 of them.
    n_shot : int or "various"
        Support examples of each class. "various": Meta-Dataset's rule, at most 100 of a class and 500 in all.
        Ways may be "various" and shots a number, and the reverse.
    n_query : int
        Query examples of each class; with "various" shots at most this and half the smallest class.
    n_episodes : int
    groups : sequence of group names, one for each example, optional
        The classes of an episode come from one group, drawn uniformly among those with enough classes, as in
        Omniglot's within-alphabet tasks. A class lies in one group.
    query_imbalance : float, optional
        The class proportions of an episode's n_way * n_query queries are drawn from a symmetric Dirichlet
        distribution of this concentration; by default they are equal.
    replacement : bool, default True
        False: no example is in two episodes.
    random_state : int, default 0
        Decides everything: episode i is the same however many are drawn.

    Attributes
    ----------
    classes_ : list of labels
    n_examples : int

    Raises
    ------
    ValueError : if such episodes cannot be drawn, naming the class and its number of examples.

    References
    ----------
    Vinyals et al. 2016, arXiv:1606.04080, section 4 (n-way k-shot). Triantafillou et al. 2020, arXiv:1903.03096,
    appendix A.2 (various). Veilleux et al. 2021, arXiv:2204.11181, section 3 (imbalanced queries, with 2).
    Lafargue et al. 2024, arXiv:2409.02850, section 3 (without replacement).
    """

    def __init__(
        self,
        y: Sequence[Hashable] | ArrayLike,
        *,
        n_way: int | Literal["various"],
        n_shot: int | Literal["various"],
        n_query: int,
        n_episodes: int,
        groups: Sequence[Hashable] | None = None,
        query_imbalance: float | None = None,
        replacement: bool = True,
        random_state: int = 0,
    ) -> None:
        self.n_way = n_way if n_way == "various" else check_count("n_way", n_way, minimum=2)
        self.n_shot = n_shot if n_shot == "various" else check_count("n_shot", n_shot)
        self.n_query = check_count("n_query", n_query)
        self.n_episodes = check_count("n_episodes", n_episodes)
        self.query_imbalance = query_imbalance
        self.replacement = replacement
        self.random_state = check_count("random_state", random_state, minimum=0)
        self._check_combination()
        self.classes_, self._members = _members(y)
        self.n_examples = sum(map(len, self._members))
        self._groups = self._grouped(groups)
        self._check_feasible()

    @property
    def fixed(self) -> bool:
        """Whether all episodes have one way and shot."""
        return self.n_way != "various" and self.n_shot != "various"

    def __len__(self) -> int:
        return self.n_episodes

    def __iter__(self) -> Iterator[Episodes]:
        """Yield the episodes in chunks, in order."""
        if not self.replacement:
            episodes = self._disjoint()
            while some := list(islice(episodes, _CHUNK)):
                yield Episodes(*(np.concatenate(rows) for rows in zip(*map(_arrays, some), strict=True)))
            return
        for chunk in range(-(-self.n_episodes // _CHUNK)):
            rng = np.random.default_rng(np.random.SeedSequence(self.random_state, spawn_key=(chunk,)))
            drawn = self._fixed(rng, _CHUNK) if self.fixed else self._various(rng, _CHUNK)
            yield drawn[: self.n_episodes - chunk * _CHUNK]

    def disjoint(self) -> EpisodeSampler | None:
        """Return a sampler of as many episodes without a common example as the data allow, at most ``n_episodes``.

        Ways, shots, queries, groups and random state are this one's, yet the episodes are drawn independently of its
        own. The sampler itself if it is without replacement; None where not even two such episodes can be drawn, and
        for "various" episodes, which would shrink as the examples are used up.
        """
        if not self.replacement:
            return self
        if not self.fixed:
            return None
        apart = copy.copy(self)
        apart.replacement = False
        apart.n_episodes = sum(1 for _ in apart._disjoint())
        return apart if apart.n_episodes > 1 else None

    def _check_combination(self) -> None:
        if self.query_imbalance is not None and not 0 < self.query_imbalance < np.inf:
            raise ValueError(f"query_imbalance is a finite concentration above 0, not {self.query_imbalance!r}")
        if not self.fixed and (self.query_imbalance is not None or not self.replacement):
            raise ValueError("'various' episodes have neither query_imbalance nor replacement=False")

    def _grouped(self, groups: Sequence[Hashable] | None) -> list[NDArray[np.int64]]:
        """The class numbers of each group; one group of all without groups."""
        if groups is None:
            return [np.arange(len(self._members))]
        names = check_labels(groups, sum(map(len, self._members)))
        of_class: dict[Hashable, list[int]] = {}
        for number, members in enumerate(self._members):
            found = set(names[members].tolist())
            if len(found) > 1:
                raise ValueError(f"class {self.classes_[number]!r} lies in {len(found)} groups; it must lie in one")
            of_class.setdefault(found.pop(), []).append(number)
        return [np.array(of_class[name]) for name in sorted_labels(of_class)]

    def _check_feasible(self) -> None:
        need = self._most()
        for label, members in zip(self.classes_, self._members, strict=True):
            if len(members) < need:
                various = self.n_shot == "various"
                wanted = "2 (one support, one query)" if various else f"n_shot + n_query = {need}"
                if self.query_imbalance is not None:
                    wanted = f"n_shot + n_way * n_query = {need} (all queries may be of one class)"
                raise ValueError(f"class {label!r} has {len(members)} examples, but an episode may need {wanted}")
        ways = 5 if self.n_way == "various" else int(self.n_way)
        self._groups = [group for group in self._groups if len(group) >= ways]
        if not self._groups:
            n = len(self._members)
            where = "" if n == 0 else "; there is 1 class" if n == 1 else f"; there are {n} classes"
            raise ValueError(f"no group has the {ways} classes that an episode needs{where}")
        if not self.replacement:
            self._check_disjoint()

    def _most(self) -> int:
        """The most examples of a class that an episode may need."""
        if self.n_shot == "various":
            return 2
        return int(self.n_shot) + self.n_query * (1 if self.query_imbalance is None else int(self.n_way))

    def _check_disjoint(self) -> None:
        possible = sum(1 for _ in self._disjoint())
        if possible < self.n_episodes:
            raise ValueError(
                f"only {possible} episodes without a common example could be drawn, not {self.n_episodes}; ask for "
                "fewer, or let examples repeat"
            )

    def _fixed(self, rng: np.random.Generator, e: int) -> Episodes:
        ways, shots = int(self.n_way), int(self.n_shot)
        group = rng.integers(len(self._groups), size=e)
        classes = np.empty((e, ways), np.int64)
        for number, members in enumerate(self._groups):
            mine = np.flatnonzero(group == number)
            classes[mine] = members[_distinct(rng, np.full(len(mine), len(members)), ways)]
        counts = self._query_counts(rng, e)
        examples = self._examples(rng, classes, shots + int(counts.max()))
        support = examples[:, :, :shots].reshape(e, -1)
        support_labels = np.broadcast_to(np.repeat(np.arange(ways), shots), support.shape).copy()
        drawn = np.arange(counts.max()) < counts[:, :, None]  # (e, c, most)
        labels = np.broadcast_to(np.arange(ways)[:, None], drawn.shape)
        query = examples[:, :, shots:][drawn].reshape(e, -1)
        return Episodes(classes, support, support_labels, query, labels[drawn].reshape(e, -1))

    def _query_counts(self, rng: np.random.Generator, e: int) -> NDArray[np.int64]:
        """How many queries each class of each episode has: (e, c), rows summing to n_way * n_query."""
        ways = int(self.n_way)
        if self.query_imbalance is None:
            return np.full((e, ways), self.n_query)
        total = ways * self.n_query
        exact = rng.dirichlet(np.full(ways, self.query_imbalance), size=e) * total
        counts = np.floor(exact).astype(np.int64)
        # By largest remainder.
        rank = np.argsort(np.argsort(counts - exact, axis=1), axis=1)
        counts += rank < (total - counts.sum(1))[:, None]
        return counts

    def _examples(self, rng: np.random.Generator, classes: NDArray[np.int64], n: int) -> NDArray[np.int64]:
        """Draw n distinct examples of each class (e, c): positions (e, c, n)."""
        sizes = np.array([len(members) for members in self._members])
        starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        order = np.concatenate(self._members)
        flat = classes.ravel()
        inside = _distinct(rng, sizes[flat], n)
        return order[starts[flat][:, None] + inside].reshape(*classes.shape, n)

    def _various(self, rng: np.random.Generator, e: int) -> Episodes:
        drawn = [self._one_various(rng) for _ in range(e)]
        columns = zip(*drawn, strict=True)
        padded = zip(columns, Episodes.padding().values(), strict=True)
        return Episodes(*(_padded(column, fill) for column, fill in padded))

    def _one_various(self, rng: np.random.Generator) -> tuple[NDArray[np.int64], ...]:
        group = self._groups[rng.integers(len(self._groups))]
        ways = int(rng.integers(5, min(50, len(group)) + 1)) if self.n_way == "various" else int(self.n_way)
        classes = rng.permutation(group)[:ways]
        sizes = np.array([len(self._members[c]) for c in classes])
        if self.n_shot == "various":
            n_query = min(self.n_query, int(sizes.min()) // 2)
            shots = _various_shots(rng, sizes, sizes - n_query)
        else:
            n_query, shots = self.n_query, np.full(ways, self.n_shot)
        drawn = [rng.permutation(self._members[c])[: k + n_query] for c, k in zip(classes, shots, strict=True)]
        support = np.concatenate([some[n_query:] for some in drawn])
        query = np.concatenate([some[:n_query] for some in drawn])
        return classes, support, np.repeat(np.arange(ways), shots), query, np.repeat(np.arange(ways), n_query)

    def _disjoint(self) -> Iterator[Episodes]:
        """Yield episodes until no group has enough classes left with enough examples.

        A class takes part only while it has the most examples that an episode may need, so that the number of episodes
        does not depend on how their queries are spread.
        """
        rng = np.random.default_rng(np.random.SeedSequence(self.random_state))
        ways, shots, most = int(self.n_way), int(self.n_shot), self._most()
        shuffled = [rng.permutation(members) for members in self._members]
        left = np.array([len(members) for members in shuffled])
        groups = list(self._groups)
        for _ in range(self.n_episodes):
            if not groups:
                return
            picked = int(rng.integers(len(groups)))
            group = groups[picked]
            # The classes with most examples left first, those with equally many at random.
            keys = rng.random(len(group)) - left[group] // most
            first = np.argpartition(keys, ways - 1)[:ways]
            classes = group[first[np.argsort(keys[first])]]
            counts = self._query_counts(rng, 1)[0]
            drawn = [shuffled[c][-left[c] :][: shots + n] for c, n in zip(classes, counts, strict=True)]
            left[classes] -= shots + counts
            groups[picked] = group[left[group] >= most]
            if len(groups[picked]) < ways:
                del groups[picked]
            labels = np.arange(ways)
            yield Episodes(
                classes[None],
                np.concatenate([some[:shots] for some in drawn])[None],
                np.repeat(labels, shots)[None],
                np.concatenate([some[shots:] for some in drawn])[None],
                np.repeat(labels, counts)[None],
            )


def _arrays(episodes: Episodes) -> tuple[NDArray[np.int64], ...]:
    return (
        episodes.classes,
        episodes.support,
        episodes.support_labels,
        episodes.query,
        episodes.query_labels,
    )


def _members(y: Any) -> tuple[list[Hashable], list[NDArray[np.int64]]]:
    labels = check_labels(y, len(y)).tolist()
    found: dict[Hashable, list[int]] = {}
    for position, label in enumerate(labels):
        found.setdefault(label, []).append(position)
    names = sorted_labels(found)
    return names, [np.array(found[name]) for name in names]


def _various_shots(rng: np.random.Generator, sizes: NDArray[np.int64], left: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many support examples each class (c,) of so many has, where so many are left: Meta-Dataset's rule."""
    share = 1.0 - rng.random()  # uniform in (0, 1]
    total = min(500, int(np.ceil(share * np.minimum(100, left)).sum()))
    weight = np.exp(rng.uniform(np.log(0.5), np.log(2.0), len(sizes))) * sizes
    more = np.floor(weight / weight.sum() * max(0, total - len(sizes))).astype(np.int64)
    return np.asarray(np.minimum(more + 1, left))


def _distinct(rng: np.random.Generator, sizes: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """For each row, n distinct numbers below its size, in random order, all such orders equally likely: (rows, n)."""
    found = np.empty((len(sizes), n), np.int64)
    sparse = n * n <= 2 * sizes  # then a draw has no repeat with a chance of at least exp(-1)
    rows = np.flatnonzero(sparse)
    while len(rows):
        drawn = rng.integers(sizes[rows, None], size=(len(rows), n))
        ordered = np.sort(drawn, axis=1)
        good = (ordered[:, 1:] != ordered[:, :-1]).all(axis=1)
        found[rows[good]] = drawn[good]
        rows = rows[~good]
    rows = np.flatnonzero(~sparse)
    if len(rows):
        keys = rng.random((len(rows), int(sizes[rows].max())))
        keys[np.arange(keys.shape[1]) >= sizes[rows, None]] = 2.0
        found[rows] = np.argsort(keys, axis=1)[:, :n]
    return found


def _padded(arrays: Sequence[NDArray[np.int64]], fill: int) -> NDArray[np.int64]:
    out = np.full((len(arrays), max(map(len, arrays))), fill, np.int64)
    for row, array in zip(out, arrays, strict=True):
        row[: len(array)] = array
    return out
