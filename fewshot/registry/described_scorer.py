"""Unknown scores beside classes that are described in words: their examples are moved towards the texts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fewshot.registry.snapshot import Snapshot

if TYPE_CHECKING:
    from fewshot.openset import Background, Center, KnownClasses, LeaveOneOutScores

# Classes that are left out in turn, of more a sample; and examples of a class.
_MOST_CLASSES, _MOST_EXAMPLES = 200, 5


@dataclass(frozen=True)
class DescribedScorer:
    """Scores by the classes as texts move them, and by those that have a text alone; see ``UnknownScorer``.

    What is left out to estimate thresholds is itself not moved, as a query is not: the texts are fitted anew without
    it, and a class that is left out takes its text along.
    """

    snapshot: Snapshot
    texts: NDArray[np.float32]  # (c + z, d)
    known: KnownClasses
    background: Background | None
    moved: tuple[NDArray[np.float32], NDArray[np.int64]]

    @classmethod
    def of(
        cls,
        snapshot: Snapshot,
        texts: NDArray[np.float32],
        background: Background | None,
        center: Center | None,
    ) -> DescribedScorer:
        """Make it from a snapshot's examples and the texts of its classes and of z others that have no example."""
        from fewshot.classifiers import towards_texts

        moved = towards_texts(snapshot.vectors, snapshot.codes, texts)
        known = _known(*moved, background, center)
        return cls(snapshot, texts, replace(known, support=known.prototypes), background, moved)

    def pending(self, query: NDArray[np.float32]) -> None:
        """See ``UnknownScorer``."""

    def scores(self, query: NDArray[np.float32]) -> NDArray[np.float32]:
        """See ``UnknownScorer``."""
        return _scores(self.known, query)

    def largest_cosine(self, query: NDArray[np.float32]) -> NDArray[np.float32]:
        """See ``UnknownScorer``."""
        import torch

        return np.asarray(self.known.cosines(torch.from_numpy(query)[None])[0].amax(dim=-1).numpy())

    def leave_one_out_scores(self) -> LeaveOneOutScores:
        """See ``UnknownScorer``."""
        from fewshot.openset import LeaveOneOutScores, leave_one_out_scores

        if self.background is not None:  # which the texts do not move
            return leave_one_out_scores(*self.moved, background=self.background)
        if len(self.texts) == 1:
            return leave_one_out_scores(self.snapshot.vectors, self.snapshot.codes, center=self.known.center)  # raises
        unknown = list(self._without_classes())
        center = self.known.center
        return LeaveOneOutScores(
            np.concatenate([scores for _, scores in unknown]).astype(np.float64),
            np.concatenate([np.full(len(scores), code) for code, scores in unknown]),
            np.concatenate([np.empty(0), *self._without_examples()]),
            "classes",
            None if center is None else center.n_classes,
        )

    def negative_scores(self, negatives: NDArray[np.float32]) -> LeaveOneOutScores:
        """See ``UnknownScorer``."""
        from fewshot.openset import leave_one_out_scores

        return leave_one_out_scores(
            *self.moved, background=self.background, center=self.known.center, negatives=negatives
        )

    def _without_classes(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yield the scores of each class's examples as if it were not known."""
        from fewshot.classifiers import towards_texts

        vectors, codes = self.snapshot.vectors, self.snapshot.codes
        chosen = np.random.default_rng(0).permutation(len(self.snapshot.labels))[:_MOST_CLASSES]
        for code in np.sort(chosen).tolist():
            others = codes != code
            fewer = codes[others] - (codes[others] > code)
            moved = towards_texts(vectors[others], fewer, np.delete(self.texts, code, axis=0))
            yield code, _scores(_known(*moved, None, self.known.center), vectors[~others])

    def _without_examples(self) -> Iterator[NDArray[np.float32]]:
        """Yield the scores of one example of each class that has others, as if it were not known."""
        from fewshot.classifiers import towards_texts

        vectors, codes = self.snapshot.vectors, self.snapshot.codes
        order = np.argsort(codes, kind="stable")
        counts = np.bincount(codes)
        number = np.empty_like(codes)
        number[order] = np.arange(len(codes)) - np.repeat(np.cumsum(counts) - counts, counts)
        for at in range(min(_MOST_EXAMPLES, int(counts.max()))):
            out = (number == at) & (counts[codes] > 1)
            if out.any():
                moved = towards_texts(vectors[~out], codes[~out], self.texts)
                yield _scores(_known(*moved, None, self.known.center), vectors[out])


def _known(
    vectors: NDArray[np.float32], codes: NDArray[np.int64], background: Background | None, center: Center | None
) -> KnownClasses:
    import torch

    from fewshot.classifiers import Membership
    from fewshot.openset import KnownClasses

    membership = Membership(torch.from_numpy(codes)[None], int(codes.max()) + 1)
    return KnownClasses.of(torch.from_numpy(vectors)[None], membership, background, center)


def _scores(known: KnownClasses, query: NDArray[np.float32]) -> NDArray[np.float32]:
    import torch

    from fewshot.openset import DEFAULT, SCORES

    return np.asarray(SCORES[DEFAULT](known, torch.from_numpy(query)[None])[0].numpy())
