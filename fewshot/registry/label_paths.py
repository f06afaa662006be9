"""Labels as paths, as drink/canned/coke: the levels above classes, and the deepest one that is sure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SEPARATOR = "/"
# Sums of rounded probabilities fall short of 1 by as much.
_ROUNDING = 1e-6


def levels_of(label: str) -> list[str]:
    """Return a label's levels, the whole label last: "a", "a/b" and "a/b/c" of "a/b/c".

    What is empty is no level: "/a" has the one, and "a//b" two.
    """
    ends = [n for n, letter in enumerate(label) if letter == SEPARATOR]
    above = [label[:end] for end in ends if label[:end].strip(f"{SEPARATOR} ") and label[end - 1] != SEPARATOR]
    return [*(one for one in above if one != label), label]


def check_roll_up(share: float | None) -> None:
    """Raise ValueError for a probability that more than one of several levels could reach at once."""
    if share is not None and not 0.5 <= share <= 1.0:
        raise ValueError(f"roll_up is a probability in [0.5, 1], not {share!r}")


@dataclass(frozen=True)
class _Level:
    """The nodes of one level: their names, the classes below them one node after the other, and where each begins."""

    names: list[str]
    classes: NDArray[np.int64]
    starts: NDArray[np.int64]


class LabelTree:
    """The levels of c labels.

    Parameters
    ----------
    labels : sequence of c str
        A class whose label is also a level of others, as "drink" beside "drink/tea", is one of those below it.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        import numpy as np  # not where only a label's levels are asked for

        paths = [levels_of(label) for label in labels]
        self._levels: list[_Level] = []
        for level in range(max(map(len, paths))):
            below: dict[str, list[int]] = {}
            for code, path in enumerate(paths):
                if len(path) > level:
                    below.setdefault(path[level], []).append(code)
            sizes = [len(codes) for codes in below.values()]
            classes = np.array([code for codes in below.values() for code in codes], np.int64)
            self._levels.append(_Level(list(below), classes, np.cumsum([0, *sizes[:-1]])))

    def roll_up(self, probabilities: NDArray[np.float32], share: float) -> list[tuple[str, float] | None]:
        """Return the deepest level whose classes have at least this share together, and what they have.

        Parameters
        ----------
        probabilities : ndarray of shape (q, c)
        share : float
            In [0.5, 1], so that no two levels beside each other have it.

        Returns
        -------
        list of q (label, probability), or None where not even a first level has it
        """
        import numpy as np

        found: list[tuple[str, float] | None] = [None] * len(probabilities)
        for level in self._levels:  # deeper ones overwrite
            sums = np.add.reduceat(probabilities[:, level.classes].astype(np.float64), level.starts, axis=1)
            best = sums.argmax(axis=1)
            for q in np.flatnonzero(sums.max(axis=1) >= share - _ROUNDING).tolist():
                found[q] = level.names[best[q]], min(1.0, float(sums[q, best[q]]))
        return found
