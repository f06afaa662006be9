"""Labels suggested for the images of one control, by what the registry holds of it."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fewshot.calibration import shipped_calibration
from fewshot.classifiers import MultiLabelClassifier
from fewshot.integrations.label_studio.labeling_config import Control
from fewshot.registry import BY_HAND, AnnotationSnapshot, classifier_of, take_parts

if TYPE_CHECKING:
    from fewshot.classifiers import FewShotClassifier
    from fewshot.encoders import Encoder

CONFIDENT = 0.8
"""A suggestion is confident from this score on; benchmarks/label_studio.py measures how many such are right."""


@dataclass(frozen=True)
class Suggestion:
    """The labels suggested for one image, possibly none, and the probability of the least likely one, in [0, 1].

    Its score is None where there is one label only, and so no alternative.
    """

    labels: tuple[str, ...]
    score: float | None


class LabelSuggester:
    """Suggests labels for one control, from its annotations and from examples registered without annotations.

    Single choice: the score is the probability by ``FewShotClassifier.predict_proba`` among the c labels that have
    examples, times the chance that the image is of one of them. The chance of another label is the share of labels
    without examples or, if less, Good's estimate with one added to both counts, (1 + labels with one example) / (1 +
    examples): without the ones, no new label would be expected as soon as every label has two examples. Where one
    label has examples and there is no other, there is no score.

    Multiple choice: a yes or no for each label by ``MultiLabelClassifier``, whose threshold of the highest F1 suggests
    rare labels, too. The score is the probability of the least likely decision.

    Parameters
    ----------
    control : Control
    snapshot : AnnotationSnapshot
    encoder : Encoder, optional
        That made the vectors: for the calibration of its probabilities, and its parts.

    References
    ----------
    Good 1953, Biometrika 40:237 (the chance of an unseen class is about the share of examples of classes seen once).
    """

    def __init__(self, control: Control, snapshot: AnnotationSnapshot, encoder: Encoder | None = None) -> None:
        self._calibration = shipped_calibration(None if encoder is None else encoder.fingerprint)
        self._new_label = 0.0  # the chance of a label without examples
        self._known: list[str] = []  # of a multiple choice
        self._each_label: MultiLabelClassifier | None = None
        self._classifier: FewShotClassifier | None = None
        vectors, labels = _labelled(control, snapshot)
        known = dict.fromkeys(label for given in labels for label in sorted(given))
        if control.multiple and known:
            self._known = list(known)
            truth = [[label in given for label in known] for given in labels]
            self._each_label = MultiLabelClassifier().fit(np.stack(vectors), truth)
        elif known:
            single = [(vector, label) for vector, given in zip(vectors, labels, strict=True) for label in given]
            classifier = classifier_of(snapshot.examples.settings, len(single))
            take_parts(classifier, encoder)
            self._classifier = classifier.fit(
                np.stack([vector for vector, _ in single]), [label for _, label in single]
            )
            self._new_label = _chance_of_new_label(Counter(label for _, label in single), len(control.labels))

    @property
    def is_empty(self) -> bool:
        """Whether no label has an example."""
        return self._classifier is None and self._each_label is None

    def suggest(self, vectors: NDArray[np.float32]) -> list[Suggestion]:
        """Suggest labels for each of q queries, given their embeddings (q, d)."""
        if not len(vectors) or self.is_empty:
            return [Suggestion((), 0.0)] * len(vectors)
        if self._each_label is not None:
            return self._multiple(self._each_label, vectors)
        assert self._classifier is not None
        probabilities = self._classifier.predict_proba(vectors, self._calibration)
        labels = self._classifier.classes_
        best = probabilities.argmax(axis=1)
        alone = len(labels) == 1 and not self._new_label
        return [
            Suggestion((str(labels[c]),), None if alone else float(row[c]) * (1 - self._new_label))
            for row, c in zip(probabilities, best, strict=True)
        ]

    def _multiple(self, classifier: MultiLabelClassifier, vectors: NDArray[np.float32]) -> list[Suggestion]:
        probabilities = classifier.predict_proba(vectors)
        applies = probabilities >= classifier.threshold_
        scores = np.where(applies, probabilities, 1.0 - probabilities).min(axis=1)
        return [
            Suggestion(tuple(label for label, yes in zip(self._known, row, strict=True) if yes), float(score))
            for row, score in zip(applies, scores, strict=True)
        ]


def _chance_of_new_label(examples: Counter[str], n_labels: int) -> float:
    """Return how likely an image is of none of the labels that have examples."""
    unseen = 1 - len(examples) / max(len(examples), n_labels)
    once = sum(count == 1 for count in examples.values())
    return min(unseen, (1 + once) / (1 + examples.total()))


def _labelled(control: Control, snapshot: AnnotationSnapshot) -> tuple[list[NDArray[np.float32]], list[frozenset[str]]]:
    """Return the embeddings of the images that count for a control, and the labels of each.

    Single choice: every example of one of its labels, once a label. Multiple choice: the labels that each annotation
    gives an image, so that annotators who disagree both count. An example that was renamed or moved to another class
    by hand has the label of that class.
    """
    examples = snapshot.examples
    positions = {id_: position for position, id_ in enumerate(examples.ids.tolist())}
    annotated: dict[tuple[int, str], list[int]] = defaultdict(list)
    none: list[int] = []
    by_hand: set[int | None] = set()
    other_controls: set[int | None] = set()
    for one in snapshot.applied:
        if one.annotation == BY_HAND:
            by_hand.add(one.example)
        elif one.control != control.name:
            other_controls.add(one.example)
        elif one.example in positions:
            annotated[one.annotation, one.region_id].append(positions[one.example])
        elif one.negative is not None and one.negative in snapshot.negatives:
            none.append(one.negative)
    here = {position for found in annotated.values() for position in found}
    alone = [p for id_, p in positions.items() if p not in here and (id_ in by_hand or id_ not in other_controls)]

    asked = frozenset(control.labels or examples.labels)
    groups = list(annotated.values()) if control.multiple else [[position] for position in sorted(here)]
    groups += [[position] for position in alone if examples.label_of(position) in asked]
    vectors = [examples.vectors[found[0]] for found in groups] + [snapshot.negatives[id_] for id_ in none]
    labels = [asked.intersection(examples.label_of(position) for position in found) for found in groups]
    return vectors, labels + [frozenset()] * len(none)
