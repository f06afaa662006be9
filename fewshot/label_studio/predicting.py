"""A registry answers a Label Studio project: from tasks to predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fewshot.label_studio.answers import CONFIDENT, Answer, Answerer
from fewshot.label_studio.config import Control
from fewshot.label_studio.fetching import Server
from fewshot.label_studio.pictures import cut_out, fetched
from fewshot.label_studio.tasks import Question, prediction_of, questions
from fewshot.lessons import Lessons, Memory

if TYPE_CHECKING:
    from fewshot.encoders import Encoder

_TASKS_AT_ONCE = 16


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
        found: list[dict[str, Any]] = []
        for start in range(0, len(tasks), _TASKS_AT_ONCE):
            found += self._some(tasks[start : start + _TASKS_AT_ONCE], encoder, server, context)
        return found

    def _some(
        self, tasks: Sequence[Mapping[str, Any]], encoder: Encoder, server: Server, context: object
    ) -> list[dict[str, Any]]:
        from fewshot.encoders.base import encode_valid

        taught = [control for control, answerer in self.answerers.items() if not answerer.knows_nothing]
        asked = [
            (number, question) for number, task in enumerate(tasks) for question in questions(task, taught, context)
        ]
        cut = cut_out(fetched((question.image for _, question in asked), server), [question for _, question in asked])
        answers: dict[int, list[tuple[Question, Answer]]] = {number: [] for number in range(len(tasks))}
        for control in taught:
            mine = [
                (number, question, picture)
                for (number, question), picture in zip(asked, cut, strict=True)
                if question.control == control and isinstance(picture, bytes)
            ]
            encoded = encode_valid(encoder, [picture for *_, picture in mine])
            found = self.answerers[control].answer(encoded.vectors)
            for n, answer in zip(encoded.kept.tolist(), found, strict=True):
                number, question, _ = mine[n]
                answers[number].append((question, answer))
        return [prediction_of(answers[number], self.version, self.least) for number in range(len(tasks))]


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
