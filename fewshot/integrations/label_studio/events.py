"""Label Studio's webhook events and exports, read into annotation records for a registry."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from reprlib import repr as shown
from typing import Any

from fewshot.integrations.label_studio.labeling_config import Control, parse_config
from fewshot.registry import AnnotationRecord, ImageLabels, storable

_BEGIN = datetime(1970, 1, 1, tzinfo=timezone.utc)
# SQLite's and Label Studio's own bound.
_LARGEST_ID = 2**63 - 1


class BadRequest(ValueError):
    """What was sent is not what Label Studio sends."""


@dataclass(frozen=True)
class ProjectKey:
    """A project: its number, and when it was made, in seconds since 1970; None where that is not said.

    A Label Studio that begins anew gives the same numbers to other projects.
    """

    id: int
    created: int | None = None

    @property
    def registry(self) -> str:
        """The name of its registry."""
        return f"project-{self.id}" if self.created is None else f"project-{self.id}.{self.created}"


@dataclass(frozen=True)
class ReadAnnotations:
    """Annotations that could be read, and why others were skipped: by id, 0 where that cannot be read either."""

    records: tuple[AnnotationRecord, ...] = ()
    skipped: Mapping[int, str] = field(default_factory=dict)

    def problems(self) -> list[str]:
        """Return why annotations were skipped, a sentence each."""
        return [f"annotation {id_ or 'without an id'} was skipped: {why}" for id_, why in self.skipped.items()]


@dataclass(frozen=True)
class Event:
    """A webhook event.

    Attributes
    ----------
    action : str
    project : ProjectKey
    annotations : ReadAnnotations
        Created or updated.
    deleted, deleted_tasks : tuple of int
        Deleted annotations, and tasks deleted with all of theirs.
    config : str or None
        The labelling configuration to read the project's export by, if training was requested.
    """

    action: str
    project: ProjectKey
    annotations: ReadAnnotations = ReadAnnotations()
    deleted: tuple[int, ...] = ()
    deleted_tasks: tuple[int, ...] = ()
    config: str | None = None


def project_key(text: object) -> ProjectKey:
    """Read "<id>.<created>", as /setup and /predict name a project, or an id alone."""
    found = re.fullmatch(r"(\d{1,18})(?:\.(\d{1,18}))?", str(text)) if isinstance(text, (str, int)) else None
    if found is None:
        raise BadRequest(f"project must be an id and a time, as '2.1795241756', or an id alone, not {shown(text)}")
    return ProjectKey(int(found[1]), None if found[2] is None else int(found[2]))


def read_event(body: Mapping[str, Any]) -> Event | None:
    """Read a webhook's body; None for an action that changes no annotation. What it says nothing of has not changed.

    Raises
    ------
    BadRequest : naming what is missing or wrong.
    """
    action = body.get("action")
    if not isinstance(action, str) or action not in _READERS:
        return None
    project = _mapping(body, "project")
    created = None if project.get("created_at") is None else _moment(project, "created_at") // 1_000_000
    return _READERS[action](action, ProjectKey(_id(project, "id"), created), body)


def read_export(tasks: object, config: object) -> ReadAnnotations:
    """Read the annotations of a project's export in Label Studio's JSON.

    Raises
    ------
    BadRequest : if it is no list of tasks, or the labelling configuration is none.
    """
    if not isinstance(tasks, list):
        raise BadRequest(f"an export is a list of tasks, not {type(tasks).__name__}")
    controls = controls_of(config)
    return _read(((one, task) for task in tasks for one in _annotations_of(task)), controls)


def controls_of(config: object) -> tuple[Control, ...]:
    """Read a labelling configuration."""
    if not isinstance(config, str):
        raise BadRequest(f"the labelling configuration must be text, not {type(config).__name__}")
    try:
        return parse_config(config)
    except ValueError as error:
        raise BadRequest(str(error)) from error


def _annotated(action: str, key: ProjectKey, body: Mapping[str, Any]) -> Event:
    controls = controls_of(_mapping(body, "project").get("label_config"))
    tasks = {_id(task, "id"): task for task in _one_or_many(body, "task")}
    found = _read(((one, tasks.get(_whole(one.get("task")))) for one in _one_or_many(body, "annotation")), controls)
    if found.skipped and not found.records:
        raise BadRequest(next(iter(found.skipped.values())))
    return Event(action, key, found)


def _annotations_of(task: object) -> list[object]:
    found = (task.get("annotations") or []) if isinstance(task, Mapping) else task
    return found if isinstance(found, list) else [found]


def _annotations_deleted(action: str, key: ProjectKey, body: Mapping[str, Any]) -> Event:
    deleted = [*_one_or_many(body, "annotations"), *_one_or_many(body, "annotation")]
    return Event(action, key, deleted=tuple(_id(one, "id") for one in deleted))


def _tasks_deleted(action: str, key: ProjectKey, body: Mapping[str, Any]) -> Event:
    return Event(action, key, deleted_tasks=tuple(_id(one, "id") for one in _one_or_many(body, "tasks")))


def _start_training(action: str, key: ProjectKey, body: Mapping[str, Any]) -> Event:
    config = _mapping(body, "project").get("label_config")
    controls_of(config)
    return Event(action, key, config=config)


_READERS = {
    "ANNOTATION_CREATED": _annotated,
    "ANNOTATIONS_CREATED": _annotated,
    "ANNOTATION_UPDATED": _annotated,
    "ANNOTATION_DELETED": _annotations_deleted,
    "ANNOTATIONS_DELETED": _annotations_deleted,
    "TASKS_DELETED": _tasks_deleted,
    "START_TRAINING": _start_training,
}


def _read(pairs: Iterable[tuple[object, object]], controls: Sequence[Control]) -> ReadAnnotations:
    """Read annotations, each with its task; one that is none leaves the others."""
    records, skipped = [], {}
    for annotation, task in pairs:
        try:
            records.append(_record(annotation, task, controls))
        except BadRequest as error:
            skipped[_whole(annotation.get("id")) if isinstance(annotation, Mapping) else 0] = str(error)
    return ReadAnnotations(tuple(records), skipped)


def _record(annotation: object, task: object, controls: Sequence[Control]) -> AnnotationRecord:
    if not isinstance(annotation, Mapping):
        raise BadRequest(f"an annotation must be an object, not {type(annotation).__name__}")
    if not isinstance(task, Mapping):
        raise BadRequest(
            f"annotation {shown(annotation.get('id'))} comes without its task {shown(annotation.get('task'))}"
        )
    labels = () if annotation.get("was_cancelled") else tuple(_image_labels(annotation, task, controls))
    record = AnnotationRecord(_id(annotation, "id"), _id(task, "id"), _moment(annotation, "updated_at"), labels)
    try:
        record.labels_json  # noqa: B018  whether it can be stored shows here, where it leaves the others
    except RecursionError:
        raise BadRequest(f"annotation {shown(annotation.get('id'))} is nested too deep") from None
    return record


def _image_labels(
    annotation: Mapping[str, Any], task: Mapping[str, Any], controls: Sequence[Control]
) -> Iterator[ImageLabels]:
    """Yield the labels that an annotation gives the task's image, text or sound, or each region of an image."""
    results = annotation.get("result")
    data = task.get("data")
    if not isinstance(results, list) or not isinstance(data, Mapping):
        raise BadRequest(f"annotation {shown(annotation.get('id'))} must have a result, and its task data")
    for control in controls:
        image = control.address(data)
        if image is None:
            continue  # a task without this object
        found = [
            result
            for result in results
            if isinstance(result, Mapping)
            and (result.get("from_name"), result.get("type")) == (control.name, control.kind)
        ]
        if control.kind != "choices":
            yield from _region_labels(found, control, image)
            continue
        labels = dict.fromkeys(label for result in found for label in _labels(result, control))
        if labels or control.multiple:  # no box ticked: none of the classes
            yield ImageLabels(control.name, image, "", tuple(labels))


def _region_labels(results: Sequence[Mapping[str, Any]], control: Control, image: str) -> Iterator[ImageLabels]:
    seen: set[str] = set()
    for number, result in enumerate(results):
        if labels := _labels(result, control):
            id_ = storable(str(result.get("id") or number))
            if id_ in seen:
                id_ = f"{id_} {number}"
            seen.add(id_)
            geometry = {key: result.get(key) for key in ("original_width", "original_height", "image_rotation")}
            value = {key: part for key, part in result["value"].items() if key != control.kind}
            yield ImageLabels(control.name, image, id_, tuple(labels), {**geometry, "value": value})


def _labels(result: Mapping[str, Any], control: Control) -> list[str]:
    value = result.get("value")
    labels = value.get(control.kind) if isinstance(value, Mapping) else None
    return [label for label in labels if isinstance(label, str)] if isinstance(labels, list) else []


def _mapping(body: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = body.get(key)
    if not isinstance(value, Mapping):
        raise BadRequest(f"{key} must be an object, not {type(value).__name__}")
    return value


def _one_or_many(body: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    value = body.get(key)
    values = value if isinstance(value, list) else [] if value is None else [value]
    found = [one for one in values if isinstance(one, Mapping)]
    if len(found) < len(values):
        raise BadRequest(f"{key} must be an object, or a list of them")
    return found


def _id(body: Mapping[str, Any], key: str) -> int:
    value = body.get(key)
    if not (found := _whole(value)):
        raise BadRequest(f"{key} must be a whole number above 0, not {shown(value)}")
    return found


def _whole(value: object) -> int:
    """Return what may be an id, or 0."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= _LARGEST_ID:
        return 0
    return value


def _moment(body: Mapping[str, Any], key: str) -> int:
    """Read a time such as 2026-11-21T06:15:58.325360Z, in microseconds since 1970."""
    value = body.get(key)
    try:
        when = datetime.fromisoformat(value.replace("Z", "+00:00"))  # type: ignore[union-attr]
        since = when - _BEGIN
    except (AttributeError, TypeError, ValueError):
        raise BadRequest(
            f"{key} must be a time with its zone, as 2026-11-21T06:15:58.325360Z, not {shown(value)}"
        ) from None
    return since.days * 86_400_000_000 + since.seconds * 1_000_000 + since.microseconds
