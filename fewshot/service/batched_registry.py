"""Questions to one registry that come while another is answered: they are answered in one call."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fewshot.registry import ClassRegistry, Prediction
from fewshot.validation import check_vectors

if TYPE_CHECKING:
    from fewshot.encoders import Encoder

# Vectors of one call: their scores with thousands of classes are held at once.
_MOST = 256


@dataclass(eq=False)
class _Question:
    vectors: NDArray[np.float32]
    options: dict[str, Any]
    answer: list[Prediction] | None = None
    error: BaseException | None = None
    turn: threading.Event = field(default_factory=threading.Event)


class BatchedRegistry(ClassRegistry):
    """A registry that looks at the vectors of several threads at once: it takes little longer for many than for one.

    Whoever comes first answers those who have come by then, and hands over to one of those who came meanwhile.
    """

    def __init__(self, path: str | os.PathLike[str], *, encoder: Encoder, create: bool) -> None:
        super().__init__(path, encoder=encoder, create=create)
        self._asking = threading.Lock()
        self._waiting: list[_Question] = []
        self._answering = False

    def predict_vectors(self, vectors: ArrayLike, **options: Any) -> list[Prediction]:
        """Answer as any registry does, with all that was registered before the call."""
        question = _Question(check_vectors(vectors, self.encoder.dim), options)
        with self._asking:
            self._waiting.append(question)
            mine, self._answering = not self._answering, True
        if not mine:
            question.turn.wait()
        if question.answer is None and question.error is None:
            self._answer()
        if question.error is not None:
            raise question.error
        assert question.answer is not None
        return question.answer

    def _answer(self) -> None:
        with self._asking:
            batch = self._next()
        again: list[_Question] = []
        try:
            vectors = np.concatenate([question.vectors for question in batch])
            found = super().predict_vectors(vectors, **batch[0].options)
            for question in batch:
                question.answer, found = found[: len(question.vectors)], found[len(question.vectors) :]
        except BaseException as error:
            # It may be that of one who asks, whose client has gone or whose time is over: the others ask again.
            batch[0].error = error
            again, batch = batch[1:], batch[:1]
        with self._asking:
            self._waiting[:0] = again
            self._answering = bool(self._waiting)
            if self._waiting:
                self._waiting[0].turn.set()
        for question in batch:
            question.turn.set()

    def _next(self) -> list[_Question]:
        """Take the question that has waited longest, and those with the same options that fit in."""
        batch: list[_Question] = []
        room = _MOST
        for question in self._waiting:
            if question.options == self._waiting[0].options and (not batch or len(question.vectors) <= room):
                batch.append(question)
                room -= len(question.vectors)
        self._waiting = [question for question in self._waiting if question not in batch]
        return batch
