"""Unknown scores beside a registry's classes: beside few of them exactly, beside thousands with a sample's centre."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from fewshot.registry.described_scorer import DescribedScorer
from fewshot.registry.snapshot import Snapshot, mixed

if TYPE_CHECKING:
    from fewshot.openset import Background, Center, KnownClasses, LeaveOneOutScores, ManyClasses, PendingScores

# Classes whose prototypes are made at once.
_CLASSES_AT_ONCE = 2**11


class UnknownScorer(Protocol):
    """Scores queries as to whether they are of none of a snapshot's classes."""

    def scores(self, query: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the default unknown score of vectors (q, d) of any length: (q,)."""

    def pending(self, query: NDArray[np.float32]) -> PendingScores | None:
        """Return them as made of products that others compute with their own; None beside few classes."""

    def largest_cosine(self, query: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the cosine of vectors (q, d) to the closest prototype, a mean of unit vectors: (q,)."""

    def leave_one_out_scores(self) -> LeaveOneOutScores:
        """Score examples whose answer is known, to estimate thresholds from."""

    def negative_scores(self, negatives: NDArray[np.float32]) -> LeaveOneOutScores | None:
        """Do so of negatives (n, d); None beside so many classes that these bound false accepts at less."""


def scorer_of(
    snapshot: Snapshot,
    texts: NDArray[np.float32] | None,
    background: Background | None,
    center: Center | None,
    before: UnknownScorer | None,
) -> UnknownScorer:
    """Return the scorer of a snapshot; what has not changed since the one ``before`` is taken over from it.

    ``texts`` (c + z, d) of its classes and of z others count beside few classes only.
    """
    from fewshot.openset import SAMPLE_CLASSES

    if texts is not None and len(texts) <= SAMPLE_CLASSES:
        return DescribedScorer.of(snapshot, texts, background, center)
    if len(snapshot.labels) <= SAMPLE_CLASSES:
        return ExactScorer.of(snapshot, background, center)
    return SampledScorer.of(snapshot, background, center, before if isinstance(before, SampledScorer) else None)


def nearer_negatives(
    scorer: UnknownScorer, negatives: NDArray[np.float32], query: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return how much closer vectors (q, d) are to the closest negative (n, d) than to the closest class: (q,)."""
    import torch

    from fewshot.openset import nearer_negative
    from fewshot.vectors import closeness

    to_negatives = closeness(torch.from_numpy(query), torch.from_numpy(negatives), "cosine")
    to_classes = torch.from_numpy(scorer.largest_cosine(query))
    return np.asarray(nearer_negative(to_negatives, to_classes.unsqueeze(-1)).numpy())


@dataclass(frozen=True)
class ExactScorer:
    """Scores by all that is known, as ``fewshot.openset`` defines it."""

    snapshot: Snapshot
    known: KnownClasses
    background: Background | None

    @classmethod
    def of(cls, snapshot: Snapshot, background: Background | None, center: Center | None) -> ExactScorer:
        """Make it from the snapshot's examples."""
        import torch

        from fewshot.classifiers import Membership
        from fewshot.openset import KnownClasses

        membership = Membership(torch.from_numpy(snapshot.codes)[None], len(snapshot.labels))
        known = KnownClasses.of(torch.from_numpy(snapshot.vectors)[None], membership, background, center)
        return cls(snapshot, replace(known, support=known.prototypes), background)  # it does not ask for each example

    def pending(self, query: NDArray[np.float32]) -> None:
        """See ``UnknownScorer``."""

    def scores(self, query: NDArray[np.float32]) -> NDArray[np.float32]:
        """See ``UnknownScorer``."""
        import torch

        from fewshot.openset import DEFAULT, SCORES

        return np.asarray(SCORES[DEFAULT](self.known, torch.from_numpy(query)[None])[0].numpy())

    def largest_cosine(self, query: NDArray[np.float32]) -> NDArray[np.float32]:
        """See ``UnknownScorer``."""
        import torch

        return np.asarray(self.known.cosines(torch.from_numpy(query)[None])[0].amax(dim=-1).numpy())

    def leave_one_out_scores(self) -> LeaveOneOutScores:
        """See ``UnknownScorer``."""
        return self._left_out(None)

    def negative_scores(self, negatives: NDArray[np.float32]) -> LeaveOneOutScores:
        """See ``UnknownScorer``."""
        return self._left_out(negatives)

    def _left_out(self, negatives: NDArray[np.float32] | None) -> LeaveOneOutScores:
        from fewshot.openset import leave_one_out_scores

        vectors, codes = self.snapshot.vectors, self.snapshot.codes
        return leave_one_out_scores(
            vectors, codes, background=self.background, center=self.known.center, negatives=negatives
        )


@dataclass(frozen=True)
class SampledScorer:
    """Scores around a centre and with a whitening that a sample of the classes gives, or a background.

    The sample are the classes whose ids have the smallest hashes, so that few others change it.
    """

    snapshot: Snapshot
    many: ManyClasses
    background: Background | None
    sample: NDArray[np.int64]  # ids of classes, rising
    sample_keys: NDArray[np.uint64]
    whitened: NDArray[np.int64]  # ids of those classes of the sample whose examples are whitened by
    largest: np.uint64  # of the sample's hashes
    lengths: NDArray[np.float32]  # (c,)

    @classmethod
    def of(
        cls, snapshot: Snapshot, background: Background | None, center: Center | None, before: SampledScorer | None
    ) -> SampledScorer:
        """Make it from the snapshot; lengths of classes that have not changed are those of ``before``."""
        from fewshot.openset import SAMPLE_CLASSES, WHITENED_CLASSES, ManyClasses

        c = len(snapshot.labels)
        lengths = np.empty(c, np.float32)
        if (
            before is not None
            and before.background is background
            and (background is not None or before._holds(snapshot))
        ):
            found = replace(before, snapshot=snapshot, lengths=lengths)
        else:
            before = None
            hashes = mixed(snapshot.class_ids.astype(np.uint64))
            sample = np.argpartition(hashes, SAMPLE_CLASSES)[:SAMPLE_CLASSES]
            whitened = np.sort(sample[np.argsort(hashes[sample])[:WHITENED_CLASSES]])
            sample.sort()
            if background is not None:
                many = ManyClasses.around(background)
            else:
                firsts = snapshot.first_examples(whitened)
                many = ManyClasses.of(snapshot.prototypes(sample), snapshot.vectors[firsts], center)
            ids, keys, largest = snapshot.class_ids, snapshot.class_keys[sample], hashes[sample].max()
            found = cls(snapshot, many, background, ids[sample], keys, ids[whitened], largest, lengths)
        found._measure(before)
        return found

    def _holds(self, snapshot: Snapshot) -> bool:
        """Whether the sample of a snapshot, which is a later one, is the same."""
        ids, c = snapshot.class_ids, len(snapshot.labels)
        at = np.searchsorted(ids, self.sample).clip(max=c - 1)
        same = (ids[at] == self.sample) & (snapshot.class_keys[at] == self.sample_keys)
        new = ids[np.searchsorted(ids, self.snapshot.class_ids[-1], side="right") :]
        return bool(same.all()) and not (mixed(new.astype(np.uint64)) < self.largest).any()

    def _measure(self, before: SampledScorer | None) -> None:
        missing = np.ones(len(self.lengths), bool)
        if before is not None:
            at = self.snapshot.classes_in(before.snapshot)
            missing = at < 0
            self.lengths[~missing] = before.lengths[at[~missing]]
        changed = np.flatnonzero(missing)
        for at_once in range(0, len(changed), _CLASSES_AT_ONCE):
            some = changed[at_once : at_once + _CLASSES_AT_ONCE]
            self.lengths[some] = self.many.lengths(self.snapshot.prototypes(some))

    def pending(self, query: NDArray[np.float32]) -> PendingScores:
        """See ``UnknownScorer``."""
        from fewshot.openset import PendingScores

        return PendingScores(self.many, query, self.lengths)

    def scores(self, query: NDArray[np.float32]) -> NDArray[np.float32]:
        """See ``UnknownScorer``."""
        return self.pending(query).scores(self.snapshot.class_products)

    def largest_cosine(self, query: NDArray[np.float32]) -> NDArray[np.float32]:
        """See ``UnknownScorer``."""
        return self.snapshot.largest_cosine(query)

    def leave_one_out_scores(self) -> LeaveOneOutScores:
        """See ``UnknownScorer``."""
        from fewshot.openset import LabelledExamples, sampled_leave_one_out_scores

        whitened = np.flatnonzero(np.isin(self.snapshot.class_ids, self.whitened if self.background is None else []))
        return sampled_leave_one_out_scores(
            self.many,
            self.lengths,
            self.snapshot.class_products,
            LabelledExamples(self.snapshot.vectors, self.snapshot.codes, whitened),
            background=self.background,
            prototypes=self._prototypes(),
        )

    def negative_scores(self, negatives: NDArray[np.float32]) -> None:
        """See ``UnknownScorer``."""

    def _prototypes(self) -> Iterator[NDArray[np.float32]]:
        for start in range(0, len(self.lengths), _CLASSES_AT_ONCE):
            yield self.snapshot.prototypes(np.arange(start, min(start + _CLASSES_AT_ONCE, len(self.lengths))))
