"""The shapes that annotators drew in a task of CVAT, given the classes of a registry: shapes in, labels out."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from fewshot.detection import Box, crop_box
from fewshot.errors import ExampleError, MissingExtra, RegistryError
from fewshot.media import open_image
from fewshot.progress import Progress
from fewshot.registry import ClassRegistry, Failure

if TYPE_CHECKING:
    from PIL.Image import Image

REGIONS = ("rectangle", "polygon", "mask", "ellipse")
"""The types of shape that have an inside to classify."""

_GEOMETRY = ("type", "frame", "points", "occluded", "outside", "z_order", "rotation", "group")


@dataclass(frozen=True)
class ShapeReport:
    """What became of a task's shapes.

    Attributes
    ----------
    classified : int
        Got the label of a class.
    rejected : int
        Are of no class, by the registry's limit on false accepts or ``min_probability``: left as they were.
    kept : int
        Have a label that was not to be changed, no inside, as points and lines, or a frame that was deleted.
    tracks : int
        Tracks of videos, which are left as they are.
    failed : tuple of Failure
        Shapes that could not be classified, and why.
    """

    classified: int = 0
    rejected: int = 0
    kept: int = 0
    tracks: int = 0
    failed: tuple[Failure, ...] = ()


def classify_shapes(
    client: Any,
    task_id: int,
    registry: ClassRegistry,
    *,
    labels: Collection[str] | None = None,
    max_false_accept: float | None = None,
    min_probability: float = 0.0,
) -> ShapeReport:
    """Give the shapes of a task the labels that are named as their classes; the shapes themselves stay as drawn.

    What CVAT asks of an auto-annotation function shows it no shape that is there: so this reads and writes them through
    the SDK. A frame's are written as soon as they are classified; meanwhile nobody else should save the task.

    Parameters
    ----------
    client : cvat_sdk.Client
        Logged in.
    task_id : int
    registry : ClassRegistry
    labels : collection of str, optional
        The labels whose shapes are classified; by default those that are no class of the registry, as "object", so
        that what an annotator has named stays.
    max_false_accept : float, optional
        As for ``ClassRegistry.predict``; by default the one set in the registry.
    min_probability : float, default 0
        Shapes whose class is less probable are left as they are.

    Raises
    ------
    RegistryError : if no class is registered, or none that is a label of the task, naming both.
    ValueError : for ``labels`` that the task has not, or a multi-label registry: a shape has one label.
    MissingExtra : if the SDK is not installed.

    Notes
    -----
    Attributes of the former label are not kept: they are that label's. The source of a shape becomes "semi-auto".
    """
    registry.require_single_label("class of a shape")
    models = _models()
    task = client.tasks.retrieve(task_id)
    of_task = {label.name: label for label in task.get_labels()}
    classes = list(registry.classes())
    _check_names(registry, classes, of_task, labels, task_id)
    wanted = {of_task[name].id for name in (of_task.keys() - set(classes) if labels is None else labels)}
    found, deleted = task.get_annotations(), set(task.get_meta().deleted_frames)
    shapes = [
        shape
        for shape in sorted(found.shapes, key=lambda one: one.frame)
        if shape.label_id in wanted and shape_type(shape) in REGIONS and shape.frame not in deleted
    ]
    asked = {"top": 1, "nearest": 0, "max_false_accept": max_false_accept}
    classified = rejected = 0
    failed: list[Failure] = []
    frames = [list(group) for _, group in groupby(shapes, key=lambda one: one.frame)]
    with Progress(len(frames), "classify", unit="frame") as bar:
        for group in frames:
            changed = []
            for shape, answer in _answers(task, group, registry, asked):
                name = f"frame {shape.frame}, shape {shape.id}"
                if isinstance(answer, Failure):
                    failed.append(Failure(name, answer.reason))
                elif _is_rejected(answer, min_probability):
                    rejected += 1
                elif (reason := _misfit(answer.label, shape, of_task)) is not None:
                    failed.append(Failure(name, reason))
                else:
                    changed.append(_relabelled(shape, of_task[answer.label].id, models))
            if changed:
                task.update_annotations(models.PatchedLabeledDataRequest(shapes=changed))
            classified += len(changed)
            bar.advance(1)
    return ShapeReport(classified, rejected, len(found.shapes) - len(shapes), len(found.tracks), tuple(failed))


def shape_type(shape: Any) -> str:
    """Return the type of a shape of the SDK; "tag" for one of the whole image."""
    return str(getattr(shape.type, "value", shape.type)) if hasattr(shape, "type") else "tag"


def cut_out(image: Image, shape: Any, padding: float | None = None) -> Image:
    """Return the image inside a shape's box, turned upright with the shape.

    Parameters
    ----------
    image : PIL image
    shape : of the SDK
    padding : float, optional
        That of a registry's crops, ``ClassRegistry.crop_padding``: then what ``crop_box`` cuts out, as theirs are.

    Raises
    ------
    ValueError : if they share no pixel.
    """
    points = list(shape.points)
    if shape_type(shape) == "mask":  # run lengths, then the box with its last pixels
        left, top, right, bottom = points[-4], points[-3], points[-2] + 1, points[-1] + 1
    elif shape_type(shape) == "ellipse":  # its middle, then its right end and its top
        (x, y, right, top) = points
        left, bottom = 2 * x - right, 2 * y - top
    else:
        left, top, right, bottom = min(points[::2]), min(points[1::2]), max(points[::2]), max(points[1::2])
    turned = float(getattr(shape, "rotation", 0) or 0)  # degrees clockwise, about the middle
    if turned:
        image = image.rotate(turned, center=((left + right) / 2, (top + bottom) / 2))
    if padding is not None:
        return crop_box(image, Box(left, top, right, bottom), padding)
    box = (
        max(0, math.floor(left)),
        max(0, math.floor(top)),
        min(image.width, math.ceil(right)),
        min(image.height, math.ceil(bottom)),
    )
    if box[0] >= box[2] or box[1] >= box[3]:
        raise ValueError(f"it lies outside the picture of {image.width} x {image.height} pixels")
    return image.crop(box)


def _models() -> Any:
    try:
        import cvat_sdk.models
    except ImportError as error:
        raise MissingExtra(f"CVAT's SDK is needed: pip install 'fewshot[cvat]' ({error})") from error
    return cvat_sdk.models


def _check_names(
    registry: ClassRegistry,
    classes: Sequence[str],
    of_task: Mapping[str, Any],
    labels: Collection[str] | None,
    task_id: int,
) -> None:
    if isinstance(labels, str):
        raise TypeError(f"labels is a collection of names; for one, give [{labels!r}]")
    if unknown := set(labels or ()) - of_task.keys():
        raise ValueError(f"task {task_id} has no label {', '.join(sorted(unknown))}; it has {', '.join(of_task)}")
    if not set(classes) & of_task.keys():
        raise RegistryError(
            f"no class of {registry.path} ({', '.join(classes[:20]) or 'it holds none'}) is a label of task {task_id} "
            f"({', '.join(of_task)}); add labels of these names to the task"
        )


def _answers(
    task: Any, shapes: Sequence[Any], registry: ClassRegistry, asked: Mapping[str, Any]
) -> Iterator[tuple[Any, Any]]:
    """Yield the shapes of a frame, each with its prediction or the Failure that there is in its place."""
    try:
        image = open_image(task.get_frame(shapes[0].frame, quality="original"))
    except ExampleError as error:
        yield from ((shape, Failure("", f"its frame cannot be read: {error.reason}")) for shape in shapes)
        return
    crops, kept = [], []
    for shape in shapes:
        try:
            crops.append(cut_out(image, shape, registry.crop_padding))
            kept.append(shape)
        except (ArithmeticError, IndexError, OSError, TypeError, ValueError) as error:
            yield shape, Failure("", str(error))
    if crops:
        report = registry.predict_valid(crops, **asked)
        answers: dict[int, Any] = dict(zip(report.positions, report.predictions, strict=True))
        failures = iter(report.failed)
        yield from ((shape, answers[n] if n in answers else next(failures)) for n, shape in enumerate(kept))


def _is_rejected(answer: Any, min_probability: float) -> bool:
    return answer.label is None or (1.0 if answer.probability is None else answer.probability) < min_probability


def _misfit(label: str, shape: Any, of_task: Mapping[str, Any]) -> str | None:
    """Return why a shape cannot get a label."""
    if label not in of_task:
        return f"is of class {label!r}, which is no label of the task; add it there"
    kind = str(getattr(of_task[label], "type", "any"))
    if kind not in ("any", shape_type(shape)):
        return f"is of class {label!r}, a label for a {kind} there, not for a {shape_type(shape)}"
    return None


def _relabelled(shape: Any, label: int, models: Any) -> Any:
    geometry = {name: getattr(shape, name) for name in _GEOMETRY if hasattr(shape, name)}
    return models.LabeledShapeRequest(id=shape.id, label_id=label, source="semi-auto", **geometry)
