"""A registry's diagnosis, from the vectors in its file."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fewshot.errors import NoClasses
from fewshot.media import medium_of
from fewshot.registry.classifier_choice import ClassifierChoice, classifier_name, take_parts
from fewshot.registry.diagnosis_results import (
    AdditionPlan,
    ClassDiagnosis,
    ConfusedClasses,
    DiagnosedExample,
    Diagnosis,
    HarmfulExample,
    NearDuplicate,
    Suspect,
)
from fewshot.registry.encoder_identity import check_settings
from fewshot.registry.multi_label import require_single_label
from fewshot.registry.snapshot import Snapshot

if TYPE_CHECKING:
    from fewshot.classifiers import FewShotClassifier, WhitenedPrototypeClassifier
    from fewshot.diagnosis import ClassNeeds, Influence, LearningCurve, LeftOut, NearPairs, Share

# Classes, of classifiers whose fit is iterative or unknown; examples, of the others.
_MOST_CLASSES, _MOST_EXAMPLES = 500, 60_000
_CLOSED_FORM = ("WhitenedPrototypeClassifier", "PrototypeClassifier", "NearestNeighborClassifier")
_LEAST_SUSPECTS, _SUSPECT_SHARE = 10, 0.1
_LEAST_MENDED = 2
_LEAST_RATE = 0.1  # of queries of two classes that are taken for each other


class RegistryDiagnosis(ClassifierChoice):
    """The part of a registry that says what its own examples tell about it."""

    def diagnose(self) -> Diagnosis:
        """Say how well the registry recognises, which examples hurt, and what to add next; nothing is embedded.

        Each example is recognised by the registry's classifier, fitted to the others: in ten rounds or fewer, in each
        of which one example of every class is left out (a tenth of a larger class), near-duplicates together. The
        accuracy so measured is with fewer examples than there are; ``Diagnosis.accuracy`` is corrected by the learning
        curve. Descriptions of classes and the limit on false accepts play no part.

        Of more than 60,000 examples every n-th class is looked at, and with a classifier other than whitened, prototype
        and nearest every n-th of more than 500 classes: ``Diagnosis.diagnosed``.

        Raises
        ------
        NoClasses : if no example is registered.

        References
        ----------
        Northcutt, Jiang & Chuang 2021, arXiv:1911.00068 (wrong labels). Hestness et al. 2017, arXiv:1712.00409 (the
        learning curve).
        """
        from fewshot.classifiers import WhitenedPrototypeClassifier

        require_single_label(self._store, "diagnosis")
        snapshot, path = self._snapshots.current(), self._store.path
        if not len(snapshot):
            raise NoClasses(f"{path} holds no examples; add some with: fewshot add {shlex.quote(path)} LABEL FILE...")
        check_settings(self._store, snapshot.settings)
        own = self.classifier
        whitened = own if isinstance(own, WhitenedPrototypeClassifier) else WhitenedPrototypeClassifier()
        reader = self.encoder if "layers" in json.loads(snapshot.settings.get("encoder", "{}")) else None
        for one in (own, whitened):
            take_parts(one, reader)
        looked = _Examples.of(snapshot, type(own).__name__)
        name = classifier_name(snapshot.settings, len(snapshot)) if self._own_classifier is None else repr(own)
        findings = _Findings.of(looked, own, whitened)
        sources = self._store.sources(looked.ids(findings.listed))
        return findings.named(sources, name)


@dataclass(frozen=True)
class _Examples:
    """The examples that are looked at, and their classes, numbered among those that are.

    ``classes`` (c,) are positions of the snapshot's labels; ``rows``, ``vectors`` and ``codes`` are of n examples.
    """

    snapshot: Snapshot
    classes: NDArray[np.int64]
    rows: NDArray[np.int64]
    vectors: NDArray[np.float32]
    codes: NDArray[np.int64]

    @classmethod
    def of(cls, snapshot: Snapshot, classifier: str) -> _Examples:
        """Look at all, or at every n-th class of too many for a classifier of this type."""
        n, c = len(snapshot), len(snapshot.labels)
        many = n / _MOST_EXAMPLES if classifier in _CLOSED_FORM else c / _MOST_CLASSES
        classes = np.arange(c)[:: max(1, int(np.ceil(many)))]
        if len(classes) == c:
            return cls(snapshot, classes, np.arange(n), snapshot.vectors, snapshot.codes)
        rows = np.sort(snapshot.examples_of(classes))
        return cls(snapshot, classes, rows, snapshot.vectors[rows], np.searchsorted(classes, snapshot.codes[rows]))

    def label(self, code: int) -> str:
        """Return the label of a class."""
        return self.snapshot.labels[int(self.classes[code])]

    def ids(self, positions: NDArray[np.int64]) -> list[int]:
        """Return the ids of examples."""
        return [int(id_) for id_ in self.snapshot.ids[self.rows[positions]]]


@dataclass(frozen=True)
class _Measured:
    """What leave-one-out gives."""

    found: LeftOut
    curve: LearningCurve
    needs: ClassNeeds
    influence: Influence


@dataclass(frozen=True)
class _Findings:
    """All that is found, by positions of examples and numbers of classes; ``measured`` if one can be left out."""

    looked: _Examples
    pairs: NearPairs
    shots: NDArray[np.int64]
    one_sided: NDArray[np.bool_]
    measured: _Measured | None

    @classmethod
    def of(cls, looked: _Examples, classifier: FewShotClassifier, whitened: WhitenedPrototypeClassifier) -> _Findings:
        from fewshot.calibration import shipped_calibration
        from fewshot.diagnosis import (
            ClassNeeds,
            group_counts,
            influence,
            learning_curve,
            left_out,
            near_pairs,
            one_sided,
        )

        vectors, codes = looked.vectors, looked.codes
        pairs = near_pairs(vectors, codes)
        groups, shots = pairs.groups, group_counts(codes, pairs.groups, len(looked.classes))
        sided, measured = one_sided(vectors, codes, shots), None
        if len(shots) > 1 and shots.max() > 1:
            table = shipped_calibration(str(looked.snapshot.settings.get("fingerprint", "")))
            found = left_out(classifier, vectors, codes, groups=groups, calibration=table)
            curve = learning_curve(classifier, vectors, codes, found, groups=groups)
            needs = ClassNeeds.of(found, codes, shots, curve)
            measured = _Measured(found, curve, needs, influence(whitened, vectors, codes, found))
        return cls(looked, pairs, shots, sided, measured)

    @property
    def suspects(self) -> NDArray[np.int64]:
        """Places among those left out, likeliest mislabelled first."""
        if self.measured is None:
            return np.empty(0, np.int64)
        found = self.measured.found
        order = np.argsort(-found.suspicion, kind="stable")
        count = max(_LEAST_SUSPECTS, int(np.ceil(_SUSPECT_SHARE * len(order))))
        doubtful = found.own < found.rival_probabilities[:, 0]
        return order[doubtful[order]][:count]

    @property
    def harmful(self) -> NDArray[np.int64]:
        """Positions of those without which more others would be recognised, most first."""
        if self.measured is None:
            return np.empty(0, np.int64)
        effect = self.measured.influence
        order = np.lexsort((-effect.change, -effect.gain))
        return order[effect.gain[order] >= _LEAST_MENDED]

    @property
    def listed(self) -> NDArray[np.int64]:
        """Positions of all examples whose names are told."""
        parts = [self.pairs.pairs.ravel(), self.harmful]
        if self.measured is not None:
            parts.append(self.measured.found.positions[self.suspects])
        return np.unique(np.concatenate(parts))

    def named(self, sources: dict[int, str], classifier: str) -> Diagnosis:
        """Return it with labels, ids and the names of files (by id)."""
        looked, measured, snapshot = self.looked, self.measured, self.looked.snapshot
        examples = {
            position: DiagnosedExample(id_, looked.label(int(looked.codes[position])), sources.get(id_, ""))
            for position, id_ in zip(self.listed.tolist(), looked.ids(self.listed), strict=True)
        }
        duplicates = (
            NearDuplicate(examples[first], examples[second], float(cosine))
            for (first, second), cosine in zip(self.pairs.pairs.tolist(), self.pairs.cosines, strict=True)
        )
        accuracies = None if measured is None else self._accuracies(measured)
        return Diagnosis(
            classes=len(snapshot.labels),
            examples=len(snapshot),
            diagnosed=len(looked.classes),
            modality=snapshot.settings.get("modality", "image"),
            classifier=classifier,
            revision=snapshot.state[0],
            left_out=None if accuracies is None else accuracies[0],
            accuracy=None if accuracies is None else accuracies[1],
            curve=None if measured is None else measured.curve,
            suspects=() if measured is None else tuple(self._suspected(measured.found, examples)),
            harmful=() if measured is None else tuple(self._harming(measured.influence, examples)),
            duplicates=tuple(duplicates),
            duplicate_limit=self.pairs.limit,
            confused=() if measured is None else tuple(self._confused(measured.found)),
            per_class=tuple(self._per_class(measured)),
            plan=None if measured is None else self._plan(measured.needs),
            notes=tuple(self._notes()),
        )

    def _accuracies(self, measured: _Measured) -> tuple[Share, Share]:
        """The share of those left out that was recognised, and what it would be with all examples."""
        from fewshot.diagnosis import Share

        found = measured.found
        counted = Share.of(int(found.correct.sum()), len(found.correct))
        return counted, self._with_all(counted, measured, np.arange(len(found.correct)))

    def _with_all(self, counted: Share, measured: _Measured, places: NDArray[np.int64]) -> Share:
        """The share of some of those left out, as it would be if none had been."""
        from fewshot.diagnosis import mean_ratio

        found, curve = measured.found, measured.curve
        times = mean_ratio(self.shots[self.looked.codes[found.positions[places]]], found.shots[places])

        def change(accuracy: float) -> float:
            return 1.0 - (1.0 - accuracy) * float(curve.remaining(1.0 - accuracy, times))

        return counted.changed(change)

    def _suspected(self, found: LeftOut, examples: dict[int, DiagnosedExample]) -> list[Suspect]:
        wrong = found.mislabelled(self.looked.codes)
        return [
            Suspect(
                examples[int(found.positions[at])],
                self.looked.label(int(found.rivals[at, 0])),
                float(found.own[at]),
                float(found.rival_probabilities[at, 0]),
                bool(wrong[at]),
            )
            for at in self.suspects.tolist()
        ]

    def _harming(self, effect: Influence, examples: dict[int, DiagnosedExample]) -> list[HarmfulExample]:
        return [
            HarmfulExample(examples[at], int(effect.mended[at]), int(effect.broken[at])) for at in self.harmful.tolist()
        ]

    def _confused(self, found: LeftOut) -> list[ConfusedClasses]:
        from fewshot.diagnosis import confused_pairs

        pairs, label = confused_pairs(found, self.looked.codes, least=_LEAST_RATE), self.looked.label
        return [
            ConfusedClasses(label(one), label(other), float(rate), int(counted))
            for (one, other), rate, counted in zip(pairs.pairs.tolist(), pairs.rate, pairs.counted, strict=True)
        ]

    def _per_class(self, measured: _Measured | None) -> list[ClassDiagnosis]:
        from fewshot.diagnosis import Share

        codes, c = self.looked.codes, len(self.shots)
        counts = np.bincount(codes, minlength=c)
        shares: dict[int, Share] = {}
        gains, more = np.zeros(c), np.zeros(c, np.int64)
        if measured is not None:
            own = codes[measured.found.positions]
            order = np.argsort(own, kind="stable")
            for places in np.split(order, np.flatnonzero(np.diff(own[order])) + 1):
                counted = Share.of(int(measured.found.correct[places].sum()), len(places))
                shares[int(own[places[0]])] = self._with_all(counted, measured, places)
            gains, more = measured.needs.gains(), measured.needs.plan().more
        return [
            ClassDiagnosis(
                self.looked.label(code),
                int(counts[code]),
                int(self.shots[code]),
                shares.get(code),
                float(gains[code]),
                int(more[code]),
                bool(self.one_sided[code]),
            )
            for code in range(c)
        ]

    def _plan(self, needs: ClassNeeds) -> AdditionPlan:
        plan = needs.plan()
        chosen = [code for code in np.argsort(-plan.more, kind="stable").tolist() if plan.more[code]]
        classes = tuple((self.looked.label(code), int(plan.more[code])) for code in chosen)
        return AdditionPlan(classes, plan.gain, plan.rest, plan.doubled)

    def _notes(self) -> list[str]:
        looked, notes = self.looked, []
        medium = medium_of(looked.snapshot.settings.get("modality", "image"))
        c = len(looked.snapshot.labels)
        if len(looked.classes) < c:
            notes.append(f"{len(looked.classes):,} of {c:,} classes were looked at, evenly spaced; all would take long")
        single = int((self.shots < 2).sum())
        if self.measured is None and len(self.shots) < 2:
            notes.append("there is one class, and nothing to confuse it with: add another")
        elif self.measured is None:
            notes.append(f"no class has two {medium.noun}s that differ, so that none can be left out: add a second one")
        elif single:
            which = "1 class has" if single == 1 else f"{single:,} classes have"
            notes.append(f"{which} one {medium.noun} only, which cannot be left out: its accuracy is not known")
        return notes
