"""Notes of annotations, the lessons in them, and what was learned."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fewshot.registry.store import Rows


@dataclass(frozen=True)
class Note:
    """An annotation as it was at one time, still to be learned.

    Attributes
    ----------
    annotation, task : int
        Their ids, unique within the registry.
    updated : int
        When the annotation was last changed, in microseconds since 1970; the latest note of an annotation counts.
    body : str
        What the teacher needs to know of it; "[]" where there is nothing to learn, as of a skipped task.
    """

    annotation: int
    task: int
    updated: int
    body: str

    @property
    def digest(self) -> str:
        """The SHA-256 of the body, in hexadecimal: what is kept of it once it is learned."""
        return hashlib.sha256(self.body.encode()).hexdigest()


@dataclass(frozen=True)
class Lesson:
    """The labels that an annotation gives one picture, or none of them.

    Attributes
    ----------
    control : str
        Which question it answers; a project may ask several.
    region : str
        Which region of the annotated picture this one is; "" is the whole.
    labels : tuple of str
        Empty: it is none of the classes.
    picture : bytes
        The file.
    source : str
        Where it came from, for people.
    """

    control: str
    region: str
    labels: tuple[str, ...]
    picture: bytes
    source: str

    @property
    def digest(self) -> bytes:
        """The SHA-256 of the picture."""
        return hashlib.sha256(self.picture).digest()


@dataclass(frozen=True)
class Taught:
    """What is to be learned of a note, and what of it cannot be, a sentence each.

    Large ones come in parts, so that not all of their pictures need be held at once: with the one that ``begins``,
    what the annotation taught before is unlearned; with the one that ``ends``, the note no longer waits.
    """

    note: Note
    lessons: tuple[Lesson, ...] = ()
    problems: tuple[str, ...] = ()
    begins: bool = True
    ends: bool = True


@dataclass(frozen=True)
class Asked:
    """That all is to be learned again: when that was asked, in nanoseconds since 1970, and what the teacher needs."""

    when: int
    how: str


@dataclass(frozen=True)
class Vote:
    """One label, or with "" none, that an annotation gives a picture: an example's or a negative's, by its id."""

    annotation: int
    control: str
    region: str
    label: str
    example: int | None
    negative: int | None


@dataclass(frozen=True)
class Memory:
    """All that was learned, in one state of the registry."""

    state: tuple[int, int]  # revision, rewrites
    metric: str
    rows: Rows
    votes: list[Vote]
    negatives: Mapping[int, NDArray[np.float32]]
