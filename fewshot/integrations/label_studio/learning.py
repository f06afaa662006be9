"""A registry learns a Label Studio project: from annotations to lessons."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from fewshot.errors import FewShotError, ImageError
from fewshot.integrations.label_studio.events import notes_of_export
from fewshot.integrations.label_studio.server import Server, Unreachable
from fewshot.integrations.label_studio.task_images import pieces
from fewshot.media import image_bytes
from fewshot.registry import Lesson, Lessons, Note, Taught

if TYPE_CHECKING:
    from fewshot.encoders import Encoder
    from fewshot.integrations.label_studio.task_images import Piece

_NOTES_AT_ONCE = 16


@dataclass(frozen=True)
class Learned:
    """What came of learning, or of asking for an export.

    Attributes
    ----------
    annotations : int
        How many were learned, or are to be.
    problems : tuple of str
        What of them could not be, a sentence each.
    waits : Unreachable or None
        Why some go on waiting: where a picture could not be asked for, with the longest pause.
    after : int
        The last annotation that was tried.
    more : bool
        Whether there was no time for those after it.
    """

    annotations: int = 0
    problems: tuple[str, ...] = ()
    waits: Unreachable | None = None
    after: int = 0
    more: bool = False


def learn(lessons: Lessons, encoder: Encoder, server: Server, *, after: int = 0, until: float | None = None) -> Learned:
    """Learn the notes that wait; those whose pictures cannot be asked for now wait on.

    Parameters
    ----------
    lessons : Lessons
    encoder : Encoder
    server : Server
        Where their pictures lie.
    after : int, default 0
        Where to begin: with what waits of later annotations than this.
    until : float, optional
        When to stop, by ``time.monotonic``, even if more are waiting; an annotation that is begun is learned whole.
    """
    count, waits = 0, None
    problems: list[str] = []

    def learned(*, more: bool) -> Learned:
        return Learned(count, tuple(problems), waits, after, more)

    while not _is_past(until):
        notes = lessons.waiting(limit=_NOTES_AT_ONCE, after=after)
        if not notes:
            return learned(more=False)
        for some in _taught(notes, server):
            waits = max((*some.waits, *([waits] if waits else [])), key=lambda one: one.pause, default=None)
            if not some.taught:  # the model's version would rise without a lesson
                continue
            _learn_each(lessons, some.taught, encoder)
            done = [one.note.annotation for one in some.taught if one.ends]
            problems += [f"annotation {id_}: {reason}" for id_, reason in lessons.problems(done).items()]
            count += len(done)
            last = some.taught[-1]
            if last.ends and (last.lessons or last.problems) and _is_past(until):  # others do not come in their order
                after = last.note.annotation
                return learned(more=True)
        after = notes[-1].annotation
    return learned(more=True)


def _is_past(until: float | None) -> bool:
    return until is not None and time.monotonic() >= until


def relearn(lessons: Lessons, server: Server, project: int, config: object) -> Learned:
    """Bring what is noted in step with a project's export; what differs waits to be learned now.

    Parameters
    ----------
    lessons : Lessons
    server : Server
    project : int
        Its number there.
    config : str
        The labelling configuration by which the annotations are to be read.

    Raises
    ------
    Unreachable : if the export cannot be had; nothing is changed then.
    BadRequest : if it is none.
    """
    before = lessons.known()
    notes = notes_of_export(server.export(project), config)
    there = {note.annotation for note in notes.read} | notes.skipped.keys()
    if 0 not in there:  # else nobody knows which annotation that is
        lessons.missing(before - there)
    return Learned(lessons.note(notes.read, again=True), tuple(notes.passed_over()))


def _learn_each(lessons: Lessons, taught: Sequence[Taught], encoder: Encoder) -> None:
    """Learn all at once; where one lesson makes that fail, the others alone."""
    try:
        lessons.learn(taught, encoder)
    except (FewShotError, OSError):
        raise  # of the registry, the encoder or the disk, not of a lesson
    except Exception as error:
        if len(taught) > 1:
            for one in taught:
                _learn_each(lessons, [one], encoder)
        elif len(taught[0].lessons) > 1:
            for one in _apart(taught[0]):
                _learn_each(lessons, [one], encoder)
        elif taught[0].lessons:
            problem = f"{taught[0].lessons[0].source}: it could not be learned ({error})"
            one = replace(taught[0], lessons=(), problems=(*taught[0].problems, problem))
            lessons.learn([one], encoder)
        else:
            raise


def _apart(one: Taught) -> list[Taught]:
    """Make each lesson a part of its own."""
    found = [replace(one, lessons=(lesson,), problems=(), begins=False, ends=False) for lesson in one.lessons]
    found[0] = replace(found[0], problems=one.problems, begins=one.begins)
    found[-1] = replace(found[-1], ends=one.ends)
    return found


@dataclass(frozen=True)
class _Part:
    """One lesson of a note, as ``events`` writes it."""

    control: str
    image: str
    id: str
    labels: list[str]
    region: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class _Some:
    """Notes whose pictures were had, and why others wait."""

    taught: list[Taught]
    waits: tuple[Unreachable, ...] = ()


def _taught(notes: Sequence[Note], server: Server) -> Iterator[_Some]:
    """Make lessons of notes, few at a time; a note with a picture that cannot be asked for now is left out."""
    parts = [(note, _Part(**one)) for note in notes for one in json.loads(note.body)]
    counts = Counter(note.annotation for note, _ in parts)
    if empty := [Taught(note) for note in notes if note.annotation not in counts]:
        yield _Some(empty)
    seen: Counter[int] = Counter()
    waiting: dict[int, Unreachable] = {}

    def some(batch: Sequence[tuple[int, Piece]]) -> _Some:  # a function, so that no variable holds its pictures later
        found = []
        for annotation, group in groupby(batch, key=lambda one: parts[one[0]][0].annotation):
            given = [(*parts[place], piece) for place, piece in group]
            waiting.update((annotation, piece) for *_, piece in given if isinstance(piece, Unreachable))
            begins = not seen[annotation]
            seen[annotation] += len(given)
            if annotation not in waiting:
                found.append(_lessons(given, begins=begins, ends=seen[annotation] == counts[annotation]))
        return _Some(found, tuple(waiting.values()))

    for batch in pieces([part for _, part in parts], server):
        yield some(batch)


def _lessons(given: Sequence[tuple[Note, _Part, Piece]], *, begins: bool, ends: bool) -> Taught:
    """Make lessons of some parts of a note."""
    lessons, problems = [], []
    for note, part, piece in given:
        source, file = _source(part, note), _file(piece)
        if isinstance(file, bytes):
            lessons.append(Lesson(part.control, part.id, tuple(part.labels), file, source))
        else:
            problems.append(f"{source}: {getattr(file, 'reason', None) or file}")
    return Taught(given[0][0], tuple(lessons), tuple(problems), begins, ends)


def _file(piece: Piece) -> bytes | Exception:
    try:
        return piece if isinstance(piece, Exception) else image_bytes(piece)
    except (ImageError, OSError, MemoryError) as error:
        return error


def _source(part: _Part, note: Note) -> str:
    """Name a lesson's picture for people: its path, as Label Studio knows it."""
    name = f"task {note.task}"
    if part.image[:5].lower() != "data:":
        with suppress(ValueError):  # no URL
            parts = urlsplit(part.image)
            name = parse_qs(parts.query).get("d", [parts.path])[0] or name
    return f"{name}, region {part.id}" if part.id else name
