"""A registry answers a Label Studio project: from tasks to predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fewshot.integrations.label_studio.labeling_config import Control
from fewshot.integrations.label_studio.server import Server
from fewshot.integrations.label_studio.suggestions import CONFIDENT, Answer, Answerer
from fewshot.integrations.label_studio.task_images import pieces
from fewshot.integrations.label_studio.tasks import Question, prediction_of, questions
from fewshot.registry import Lessons, Memory

if TYPE_CHECKING:
    from fewshot.encoders import Encoder


def version_of(state: tuple[int, int]) -> str:
    """Return the model version of a registry's state: another after each lesson."""
    return f"fewshot-{state[0]}"


@dataclass(frozen=True)
class Model:
    """What was learned of each control, in one state of the registry.

    Attributes
    ----------
    version : str
    answerers : mapping of Control to Answerer
    least : float
        Suggestions with a lower score are kept back.
    """

    version: str
    answerers: Mapping[Control, Answerer]
    least: float

    def predict(
        self, tasks: Sequence[Mapping[str, Any]], encoder: Encoder, server: Server, context: object = None
    ) -> list[dict[str, Any]]:
        """Return one prediction a task, in their order; an empty one for a task whose picture cannot be had."""
        from fewshot.encoders import encode_valid

        taught = [control for control, answerer in self.answerers.items() if not answerer.knows_nothing]
        asked = [
            (number, question) for number, task in enumerate(tasks) for question in questions(task, taught, context)
        ]
        answers: list[list[tuple[Question, Answer]]] = [[] for _ in tasks]
        for batch in pieces([question for _, question in asked], server):
            there = [place for place, piece in batch if not isinstance(piece, Exception)]
            encoded = encode_valid(encoder, [piece for _, piece in batch if not isinstance(piece, Exception)])
            mine = [asked[there[n]] for n in encoded.kept.tolist()]
            found = self._answered([question for _, question in mine], encoded.vectors)
            for (number, question), answer in zip(mine, found, strict=True):
                answers[number].append((question, answer))
        return [prediction_of(answered, self.version, self.least) for answered in answers]

    def _answered(self, asked: Sequence[Question], vectors: NDArray[np.float32]) -> list[Answer]:
        """Answer n questions, given the vectors (n, d) of their pictures, those of each control together."""
        found: dict[int, Answer] = {}
        for control in dict.fromkeys(question.control for question in asked):
            mine = [n for n, question in enumerate(asked) if question.control == control]
            found.update(zip(mine, self.answerers[control].answer(vectors[mine]), strict=True))
        return [found[n] for n in range(len(asked))]


class Predictor:
    """Makes models, and keeps what it made of one state of the registry until the next.

    Parameters
    ----------
    only_confident : bool
        Whether suggestions with a score under ``CONFIDENT`` are kept back.
    """

    def __init__(self, *, only_confident: bool = False) -> None:
        self._least = CONFIDENT if only_confident else 0.0
        self._memory: Memory | None = None
        self._answerers: dict[Control, Answerer] = {}

    def model(self, controls: Sequence[Control], lessons: Lessons, encoder: Encoder) -> Model:
        """Return what the registry knows now."""
        if self._memory is None or self._memory.state != lessons.state():
            self._memory, self._answerers = lessons.memory(encoder), {}
        memory, known = self._memory, self._answerers
        self._answerers = {
            control: known.get(control) or Answerer(control, memory, encoder.fingerprint) for control in controls
        }
        return Model(version_of(memory.state), self._answerers, self._least)
