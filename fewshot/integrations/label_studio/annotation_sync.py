"""A registry brought in step with a Label Studio project's annotations."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from fewshot.errors import ExampleError, FewShotError
from fewshot.integrations.label_studio.events import read_export
from fewshot.integrations.label_studio.label_studio_client import LabelStudioClient, Unreachable
from fewshot.integrations.label_studio.labeling_config import inline_text
from fewshot.integrations.label_studio.storage_address import storage_address
from fewshot.integrations.label_studio.task_images import fetch_images
from fewshot.media import Medium, describe_text, medium_of
from fewshot.registry import AnnotationRecord, AnnotationWriter, FetchedAnnotation, ImageLabels, LabelledImage

if TYPE_CHECKING:
    from fewshot.encoders import Encoder
    from fewshot.integrations.label_studio.task_images import FetchedImage

_RECORDS_AT_ONCE = 16


@dataclass(frozen=True)
class SyncReport:
    """What came of applying pending annotations, or of reading an export.

    Attributes
    ----------
    annotations : int
        How many were applied, or recorded.
    problems : tuple of str
        What of them could not be, a sentence each.
    unreachable : Unreachable or None
        Why some stay pending: where an image could not be had now, with the longest pause.
    last : int
        The last annotation that was tried.
    out_of_time : bool
        Whether there was no time for those after it.
    """

    annotations: int = 0
    problems: tuple[str, ...] = ()
    unreachable: Unreachable | None = None
    last: int = 0
    out_of_time: bool = False


def apply_pending(
    writer: AnnotationWriter,
    encoder: Encoder,
    client: LabelStudioClient,
    *,
    after: int = 0,
    until: float | None = None,
) -> SyncReport:
    """Apply pending annotations; those with an image that cannot be had now stay pending.

    Parameters
    ----------
    writer : AnnotationWriter
    encoder : Encoder
    client : LabelStudioClient
        Gets their images.
    after : int, default 0
        Begin after the annotation of this id.
    until : float, optional
        When to stop, by ``time.monotonic``; an annotation that is begun is applied whole.
    """
    from fewshot.encoders import modality_of

    medium = medium_of(modality_of(encoder))
    count, last = 0, after
    unreachable: Unreachable | None = None
    problems: list[str] = []

    def report(*, out_of_time: bool) -> SyncReport:
        return SyncReport(count, tuple(problems), unreachable, last, out_of_time)

    while not _is_past(until):
        records = writer.pending(limit=_RECORDS_AT_ONCE, after=last)
        if not records:
            return report(out_of_time=False)
        for batch in _fetched(records, client, medium):
            for error in batch.unreachable:
                unreachable = error if unreachable is None or error.pause > unreachable.pause else unreachable
            if not batch.annotations:  # the model version would change though nothing else did
                continue
            _apply_each(writer, batch.annotations, encoder)
            done = [one.record.annotation for one in batch.annotations if one.is_last]
            problems += [f"annotation {id_}: {reason}" for id_, reason in writer.problems(done).items()]
            count += len(done)
            final = batch.annotations[-1]
            # Those without images come out of order: none of them is the last.
            if final.is_last and (final.images or final.problems) and _is_past(until):
                last = final.record.annotation
                return report(out_of_time=True)
        last = records[-1].annotation
    return report(out_of_time=True)


def _is_past(until: float | None) -> bool:
    return until is not None and time.monotonic() >= until


def sync_with_export(writer: AnnotationWriter, client: LabelStudioClient, project: int, config: object) -> SyncReport:
    """Record what a project's export says; what differs from before is pending then.

    Parameters
    ----------
    writer : AnnotationWriter
    client : LabelStudioClient
    project : int
        Its id there.
    config : str
        The labelling configuration to read the annotations by.

    Raises
    ------
    Unreachable : if the export cannot be had; nothing is changed then.
    BadRequest : if it is none.
    """
    before = writer.recorded()
    found = read_export(client.export(project), config)
    there = {record.annotation for record in found.records} | found.skipped.keys()
    if 0 not in there:  # else nobody knows which annotation that is
        writer.retract(before - there)
    return SyncReport(writer.record(found.records, refresh=True), tuple(found.problems()))


def _apply_each(writer: AnnotationWriter, fetched: Sequence[FetchedAnnotation], encoder: Encoder) -> None:
    """Apply all at once; where one image makes that fail, the others without it."""
    try:
        writer.apply(fetched, encoder)
    except (FewShotError, OSError):
        raise  # of the registry, the encoder or the disk, not of an image
    except Exception as error:
        if len(fetched) > 1:
            for one in fetched:
                _apply_each(writer, [one], encoder)
        elif len(fetched[0].images) > 1:
            for one in _parts(fetched[0]):
                _apply_each(writer, [one], encoder)
        elif fetched[0].images:
            problem = f"{fetched[0].images[0].source}: it could not be learned ({error})"
            one = replace(fetched[0], images=(), problems=(*fetched[0].problems, problem))
            writer.apply([one], encoder)
        else:
            raise


def _parts(one: FetchedAnnotation) -> list[FetchedAnnotation]:
    """Split an annotation into parts of one image."""
    found = [replace(one, images=(image,), problems=(), is_first=False, is_last=False) for image in one.images]
    found[0] = replace(found[0], problems=one.problems, is_first=one.is_first)
    found[-1] = replace(found[-1], is_last=one.is_last)
    return found


@dataclass(frozen=True)
class _Batch:
    """Annotations whose images were had, and why others stay pending."""

    annotations: list[FetchedAnnotation]
    unreachable: tuple[Unreachable, ...] = ()


def _fetched(records: Sequence[AnnotationRecord], client: LabelStudioClient, medium: Medium) -> Iterator[_Batch]:
    """Fetch the images, texts or sounds of annotations, few at a time; one that lacks any now is left out."""
    wanted = [(record, labels) for record in records for labels in record.labels]
    if empty := [FetchedAnnotation(record) for record in records if not record.labels]:
        yield _Batch(empty)
    seen: Counter[int] = Counter()
    pending: dict[int, Unreachable] = {}

    def batch_of(images: Sequence[tuple[int, FetchedImage]]) -> _Batch:  # a function, to let go of its images
        found = []
        for annotation, group in groupby(images, key=lambda one: wanted[one[0]][0].annotation):
            given = [(*wanted[position], image) for position, image in group]
            pending.update((annotation, image) for *_, image in given if isinstance(image, Unreachable))
            is_first = not seen[annotation]
            seen[annotation] += len(given)
            if annotation not in pending:
                is_last = seen[annotation] == len(given[0][0].labels)
                found.append(_annotation(given, medium, is_first=is_first, is_last=is_last))
        return _Batch(found, tuple(pending.values()))

    places = [replace(labels, image=storage_address(labels.image, record.task)) for record, labels in wanted]
    for images in fetch_images(places, client):
        yield batch_of(images)


def _annotation(
    given: Sequence[tuple[AnnotationRecord, ImageLabels, FetchedImage]],
    medium: Medium,
    *,
    is_first: bool,
    is_last: bool,
) -> FetchedAnnotation:
    images, problems = [], []
    for record, labels, image in given:
        source, file = _source(labels, record), _file(image, medium)
        if isinstance(file, bytes):
            images.append(LabelledImage(labels.control, labels.region_id, labels.labels, file, source))
        else:
            problems.append(f"{source}: {getattr(file, 'reason', None) or file}")
    return FetchedAnnotation(given[0][0], tuple(images), tuple(problems), is_first, is_last)


def _file(image: FetchedImage, medium: Medium) -> bytes | Exception:
    try:
        return image if isinstance(image, Exception) else medium.content(image)
    except (ExampleError, OSError, MemoryError) as error:
        return error


def _source(labels: ImageLabels, record: AnnotationRecord) -> str:
    """Name an image or sound for people by its path, as Label Studio knows it; a text by its beginning."""
    if (text := inline_text(labels.image)) is not None:
        return describe_text(text)
    name = f"task {record.task}"
    if labels.image[:5].lower() != "data:":
        with suppress(ValueError):  # no URL
            parts = urlsplit(labels.image)
            name = parse_qs(parts.query).get("d", [parts.path])[0] or name
    return f"{name}, region {labels.region_id}" if labels.region_id else name
