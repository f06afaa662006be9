"""From what a registry has learned to the answer of one control."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from fewshot.calibration import shipped_calibration
from fewshot.integrations.label_studio.labeling_config import Control
from fewshot.registry import BY_HAND, Memory
from fewshot.validation import Metric

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

    from fewshot.classifiers import FewShotClassifier

CONFIDENT = 0.8
"""A suggestion is confident from this score on; benchmarks/label_studio.py says how many such are right."""


# Of directions. On boards of validation classes, 30 of them learned, the log loss is 0.47, 0.44, 0.44 with 3, 10, 30.
_INVERSE_PENALTY = 10.0


@dataclass(frozen=True)
class Answer:
    """The labels suggested for one picture, possibly none, and how likely the least sure is right, in [0, 1]."""

    labels: tuple[str, ...]
    score: float


class Answerer:
    """Answers one control from what was learned of it, and from examples that were registered without annotations.

    Of one choice, the score is the probability by ``FewShotClassifier.predict_proba`` among the labels taught so far,
    times the chance that the picture is of one of them. That of any other is the share of labels not yet taught, or if
    it is less, (1 + labels taught by one picture) / (1 + pictures): Good's estimate, but for the ones, without which
    nothing unseen would be expected as soon as every label has two pictures.

    Of several, each label is a question of its own, yes or no: logistic regression over the pictures labelled with it
    and those labelled without, both kinds weighing the same, so that a rare label is suggested too. The score is that
    of the least sure label, and does count how rare it is.

    Parameters
    ----------
    control : Control
    memory : Memory
    fingerprint : str, optional
        The encoder's, for the calibration of its probabilities.

    References
    ----------
    Good 1953, Biometrika 40:237 (the chance of what was never seen is about the share of what was seen once).
    """

    def __init__(self, control: Control, memory: Memory, fingerprint: str | None = None) -> None:
        self._calibration = shipped_calibration(fingerprint)
        self._elsewhere = 0.0
        self._questions: list[_YesOrNo] = []
        self._classifier: FewShotClassifier | None = None
        vectors, labels = _taught(control, memory)
        taught = dict.fromkeys(label for given in labels for label in sorted(given))
        if control.multiple:
            self._questions = [_YesOrNo(label, vectors, [label in given for given in labels]) for label in taught]
        elif taught:
            from fewshot.classifiers import PrototypeClassifier

            single = [(vector, label) for vector, given in zip(vectors, labels, strict=True) for label in given]
            classifier = PrototypeClassifier(metric=cast(Metric, memory.metric))
            self._classifier = classifier.fit(
                np.stack([vector for vector, _ in single]), [label for _, label in single]
            )
            self._elsewhere = _chance_of_another(Counter(label for _, label in single), len(control.labels))

    @property
    def knows_nothing(self) -> bool:
        """Whether no label was taught."""
        return self._classifier is None and not self._questions

    def answer(self, vectors: NDArray[np.float32]) -> list[Answer]:
        """Answer for each of n pictures, given by their vectors (n, d)."""
        if not len(vectors) or self.knows_nothing:
            return [Answer((), 0.0)] * len(vectors)
        if self._classifier is None:
            return self._several(vectors)
        probabilities = self._classifier.predict_proba(vectors, self._calibration)
        labels = self._classifier.classes_
        best = probabilities.argmax(axis=1)
        return [
            Answer((str(labels[c]),), float(row[c]) * (1 - self._elsewhere))
            for row, c in zip(probabilities, best, strict=True)
        ]

    def _several(self, vectors: NDArray[np.float32]) -> list[Answer]:
        names = [question.label for question in self._questions]
        asked = [question.answer(vectors) for question in self._questions]
        yes = np.stack([one[0] for one in asked], axis=1)
        scores = np.stack([one[1] for one in asked], axis=1).min(axis=1)
        return [
            Answer(tuple(label for label, said in zip(names, row, strict=True) if said), float(score))
            for row, score in zip(yes, scores, strict=True)
        ]


def _chance_of_another(taught: Counter[str], labels: int) -> float:
    """Return how likely a picture is of none of the labels taught."""
    others = 1 - len(taught) / max(len(taught), labels)
    once = sum(count == 1 for count in taught.values())
    return min(others, (1 + once) / (1 + taught.total()))


class _YesOrNo:
    """Whether a label fits, from the pictures (n, d) that are labelled with it and those that are not."""

    def __init__(self, label: str, vectors: Sequence[NDArray[np.float32]], labelled: Sequence[bool]) -> None:
        self.label = label
        self._share = sum(labelled) / len(labelled)
        self._model: LogisticRegression | None = None
        if self._share < 1.0:  # else every picture so far was a yes: nothing to compare with
            from sklearn.linear_model import LogisticRegression

            model = LogisticRegression(C=_INVERSE_PENALTY, class_weight="balanced", max_iter=1000)
            self._model = model.fit(_directions(np.stack(vectors)), labelled)

    def answer(self, vectors: NDArray[np.float32]) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        """Return for each of n pictures (n, d) whether it fits, and how likely that is right."""
        if self._model is None:
            return np.ones(len(vectors), bool), np.full(len(vectors), 0.5)
        even = self._model.predict_proba(_directions(vectors))[:, 1]  # were half of all pictures a yes
        likely = even * self._share / (even * self._share + (1 - even) * (1 - self._share))
        return even >= 0.5, np.where(even >= 0.5, likely, 1 - likely)


def _directions(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    found: NDArray[np.float32] = vectors / np.maximum(lengths, np.finfo(np.float32).tiny)
    return found


def _taught(control: Control, memory: Memory) -> tuple[list[NDArray[np.float32]], list[frozenset[str]]]:
    """Return the pictures that bear on a control, and the labels of each.

    One choice: every example of one of its labels, once for each label. Several: what each annotation said of a
    picture, so that annotators who disagree are heard both. What was renamed or moved to another class by hand counts
    as it is called now.
    """
    places = {id_: place for place, id_ in enumerate(memory.rows.ids.tolist())}
    said: dict[tuple[int, str], list[int]] = defaultdict(list)
    none: list[int] = []
    by_hand: set[int | None] = set()
    elsewhere: set[int | None] = set()
    for vote in memory.votes:
        if vote.annotation == BY_HAND:
            by_hand.add(vote.example)
        elif vote.control != control.name:
            elsewhere.add(vote.example)
        elif vote.example in places:
            said[vote.annotation, vote.region].append(places[vote.example])
        elif vote.negative is not None and vote.negative in memory.negatives:
            none.append(vote.negative)
    here = {place for found in said.values() for place in found}
    alone = [p for id_, p in places.items() if p not in here and (id_ in by_hand or id_ not in elsewhere)]

    asked = frozenset(control.labels or memory.rows.labels)
    groups = list(said.values()) if control.multiple else [[place] for place in sorted(here)]
    groups += [[place] for place in alone if memory.rows.labels[place] in asked]
    vectors = [memory.rows.vectors[found[0]] for found in groups] + [memory.negatives[id_] for id_ in none]
    labels = [asked.intersection(memory.rows.labels[place] for place in found) for found in groups]
    return vectors, labels + [frozenset()] * len(none)
