"""A registry learns a Label Studio project: from annotations to lessons."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from fewshot.errors import FewShotError
from fewshot.label_studio.fetching import Server, Unreachable
from fewshot.label_studio.pictures import Fetched, cut_out, fetched
from fewshot.lessons import Lesson, Lessons, Note, Taught

if TYPE_CHECKING:
    from fewshot.encoders import Encoder

_NOTES_AT_ONCE = 16


@dataclass(frozen=True)
class Learned:
    """How many annotations were learned, and what of them could not be, a sentence each."""

    annotations: int = 0
    problems: tuple[str, ...] = ()


def learn(lessons: Lessons, encoder: Encoder, server: Server, *, until: float | None = None) -> Learned:
    """Learn the notes that wait.

    Parameters
    ----------
    lessons : Lessons
    encoder : Encoder
    server : Server
        Where their pictures lie.
    until : float, optional
        When to stop, by ``time.monotonic``, even if more are waiting.

    Returns
    -------
    Learned

    Raises
    ------
    Unreachable : if Label Studio cannot be asked; the notes still wait, but for those whose pictures could be had.
    """
    after, learned = 0, Learned()
    unreachable: Unreachable | None = None
    while until is None or time.monotonic() < until:
        notes = lessons.waiting(limit=_NOTES_AT_ONCE, after=after)
        if not notes:
            break
        after = notes[-1].annotation
        addresses = {note.annotation: {one["image"] for one in json.loads(note.body)} for note in notes}
        pictures = fetched((address for note in notes for address in sorted(addresses[note.annotation])), server)
        for picture in pictures.values():
            unreachable = picture if isinstance(picture, Unreachable) else unreachable
        ready = [
            _taught(note, pictures)
            for note in notes
            if not any(isinstance(pictures[address], Unreachable) for address in addresses[note.annotation])
        ]
        if ready:  # else the model's version would rise without a lesson
            _learn_each(lessons, ready, encoder)
        why = lessons.problems(note.annotation for note in notes)
        problems = (f"annotation {annotation}: {reason}" for annotation, reason in why.items())
        learned = Learned(learned.annotations + len(ready), (*learned.problems, *problems))
    if unreachable is not None:
        raise unreachable
    return learned


def relearn(lessons: Lessons, server: Server, project: int, notes_of: Callable[[Any], Iterable[Note]]) -> int:
    """Bring what is noted in step with a project's export; returns how many notes wait to be learned now.

    Raises
    ------
    Unreachable : if the export cannot be had; nothing is changed then.
    """
    before = lessons.known()
    notes = list(notes_of(server.export(project)))
    gone = before - {note.annotation for note in notes}
    lessons.missing(gone)
    return lessons.note(notes, again=True)


def _learn_each(lessons: Lessons, taught: Sequence[Taught], encoder: Encoder) -> None:
    """Learn all at once; where one of them makes that fail, the others alone."""
    try:
        lessons.learn(taught, encoder)
    except (FewShotError, OSError):
        raise  # of the registry, the encoder or the disk, not of a lesson
    except Exception as error:
        if len(taught) > 1:
            for one in taught:
                _learn_each(lessons, [one], encoder)
        elif taught[0].lessons:
            lessons.learn([Taught(taught[0].note, (), (f"it could not be learned ({error})",))], encoder)
        else:
            raise


@dataclass(frozen=True)
class _Part:
    """One lesson of a note, as ``events`` writes it."""

    control: str
    image: str
    id: str
    labels: list[str]
    region: Mapping[str, Any] | None = None


def _taught(note: Note, pictures: Mapping[str, Fetched]) -> Taught:
    """Make lessons of a note."""
    parts = [_Part(**one) for one in json.loads(note.body)]
    lessons, problems = [], []
    for part, picture in zip(parts, cut_out({p.image: pictures[p.image] for p in parts}, parts), strict=True):
        source = _source(part, note)
        if isinstance(picture, bytes):
            lessons.append(Lesson(part.control, part.id, tuple(part.labels), picture, source))
        else:
            problems.append(f"{source}: {getattr(picture, 'reason', None) or picture}")
    return Taught(note, tuple(lessons), tuple(problems))


def _source(part: _Part, note: Note) -> str:
    """Name a lesson's picture for people: its path, as Label Studio knows it."""
    name = f"task {note.task}"
    if part.image[:5].lower() != "data:":
        with suppress(ValueError):  # no URL
            parts = urlsplit(part.image)
            name = parse_qs(parts.query).get("d", [parts.path])[0] or name
    return f"{name}, region {part.id}" if part.id else name
