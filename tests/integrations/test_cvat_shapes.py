"""Shapes that annotators drew get the classes of a registry, in the SDK's own models; nothing else changes."""

from __future__ import annotations

import io
import types

import numpy as np
import pytest
from fakes import BLUE, GREEN, RED, FakeEncoder, png
from PIL import Image

from fewshot import ClassRegistry, RegistryError
from fewshot.integrations.cvat import classify_shapes

models = pytest.importorskip("cvat_sdk.models", reason="pip install 'fewshot[cvat]'")

LABELS = {"object": 1, "red": 2, "blue": 3, "green": 4, "thing": 5}


def halves():
    """A picture whose left half is red and whose right half is blue, 20 x 10 pixels."""
    image = Image.new("RGB", (20, 10), RED)
    image.paste(BLUE, (10, 0, 20, 10))
    image.save(out := io.BytesIO(), "PNG")
    return out.getvalue()


class Task:
    """A task of CVAT as the SDK gives it: its frames, labels and shapes, and what was written."""

    def __init__(self, shapes, frames=None, kinds=None, deleted=()):
        self.shapes, self.frames = list(shapes), frames or {0: halves()}
        self.kinds, self.deleted, self.written, self.asked = kinds or {}, list(deleted), [], []

    def get_labels(self):
        return [types.SimpleNamespace(name=n, id=i, type=self.kinds.get(n, "any")) for n, i in LABELS.items()]

    def get_annotations(self):
        return models.LabeledData(tags=[], shapes=self.shapes, tracks=[])

    def get_meta(self):
        return types.SimpleNamespace(deleted_frames=self.deleted)

    def get_frame(self, number, *, quality):
        self.asked.append((number, quality))
        return io.BytesIO(self.frames[number])

    def update_annotations(self, data):
        self.written.append(data)


def client(task):
    return types.SimpleNamespace(tasks=types.SimpleNamespace(retrieve=lambda number: {42: task}[number]))


def shape(number, label, *points, kind="rectangle", frame=0, **more):
    return models.LabeledShape._from_openapi_data(
        id=number, type=kind, frame=frame, label_id=LABELS[label], points=list(map(float, points)), **more
    )


@pytest.fixture
def registry(tmp_path):
    with ClassRegistry(tmp_path / "r.fewshot", encoder=FakeEncoder()) as opened:
        for label, colour in (("red", RED), ("green", GREEN), ("blue", BLUE)):
            opened.add(label, [png(colour), png(colour, 5)])
        yield opened


def written(task):
    names = {number: name for name, number in LABELS.items()}
    return {one.id: names[one.label_id] for data in task.written for one in data.shapes}


def test_shapes_get_the_labels_of_their_classes_and_stay_as_they_were_drawn(registry):
    box = shape(7, "object", 1, 1, 8, 9, rotation=5.0, occluded=True, z_order=3, group=2, outside=False)
    task = Task([box, shape(8, "object", 12, 0, 20, 0, 16, 9, kind="polygon")])
    report = classify_shapes(client(task), 42, registry)
    assert (report.classified, report.rejected, report.kept, report.failed) == (2, 0, 0, ())
    assert written(task) == {7: "red", 8: "blue"}
    first = task.written[0].shapes[0]
    assert isinstance(first, models.LabeledShapeRequest)
    assert (first.points, first.rotation, first.occluded, first.z_order, first.group) == (box.points, 5.0, True, 3, 2)
    assert (first.source, str(first.type), first.frame) == ("semi-auto", "rectangle", 0)
    assert task.asked == [(0, "original")]


@pytest.mark.parametrize(
    ("kind", "points"),
    [
        ("ellipse", (15, 5, 18, 1)),  # the middle, its right end, its top
        ("mask", (0, 25, 12, 2, 16, 6)),
        ("rectangle", (11, -5, 400, 9)),
    ],
)
def test_the_inside_of_any_kind_of_region_is_classified(registry, kind, points):
    task = Task([shape(1, "object", *points, kind=kind)])
    classify_shapes(client(task), 42, registry)
    assert written(task) == {1: "blue"}


def test_what_is_named_already_has_no_inside_or_a_deleted_frame_stays(registry):
    task = Task(
        [
            shape(1, "red", 11, 0, 19, 9),  # an annotator knows better
            shape(2, "object", 1, 1, 3, 3, kind="polyline"),
            shape(3, "object", 1, 1, 3, 3, frame=9),
        ],
        deleted=[9],
    )
    report = classify_shapes(client(task), 42, registry)
    assert (report.classified, report.kept, task.written, task.asked) == (0, 3, [], [])


def test_the_labels_to_classify_can_be_named(registry):
    task = Task([shape(1, "red", 11, 0, 19, 9), shape(2, "object", 0, 0, 9, 9), shape(3, "thing", 0, 0, 9, 9)])
    classify_shapes(client(task), 42, registry, labels=["red", "thing"])
    assert written(task) == {1: "blue", 3: "red"}


def test_a_frame_is_fetched_once_and_written_before_the_next(registry):
    task = Task([shape(n, "object", 0, 0, 9, 9, frame=n % 2) for n in range(6)], {0: halves(), 1: png(GREEN, 20)})
    report = classify_shapes(client(task), 42, registry)
    assert [number for number, _ in task.asked] == [0, 1]
    assert [{one.id for one in data.shapes} for data in task.written] == [{0, 2, 4}, {1, 3, 5}]
    assert (report.classified, written(task)[0], written(task)[1]) == (6, "red", "green")


def test_none_of_these_and_the_improbable_keep_their_label(registry):
    orange = {0: png((204, 102, 0), 20)}
    task = Task([shape(1, "object", 0, 0, 9, 9)], orange)
    assert classify_shapes(client(task), 42, registry, min_probability=0.999).rejected == 1
    registry.rejection.set(0.05, background=np.random.default_rng(0).random((60, 3)).astype(np.float32))
    assert classify_shapes(client(task), 42, registry).rejected == 1
    assert task.written == []
    assert classify_shapes(client(task), 42, registry, max_false_accept=1).classified == 1


def test_what_cannot_be_classified_is_named_and_the_others_are(registry):
    shapes = [
        shape(1, "object", 50, 50, 60, 60),
        shape(2, "object", 0, 0, 9, 9),
        shape(3, "object", 0, 0, 9, 9, frame=1),
        shape(4, "object", 11, 0, 19, 9),
    ]
    task = Task(shapes, {0: halves(), 1: b"bad"}, kinds={"blue": "polygon"})
    report = classify_shapes(client(task), 42, registry)
    assert written(task) == {2: "red"}
    reasons = {one.source: one.reason for one in report.failed}
    assert reasons["frame 0, shape 1"] == "it lies outside the picture of 20 x 10 pixels"
    assert reasons["frame 1, shape 3"].startswith("its frame cannot be read: not an image")
    assert reasons["frame 0, shape 4"] == "is of class 'blue', a label for a polygon there, not for a rectangle"


def test_a_class_without_a_label_in_the_task_is_named(registry, monkeypatch):
    monkeypatch.delitem(LABELS, "green")
    task = Task([shape(1, "object", 0, 0, 9, 9)], {0: png(GREEN, 20)})
    (failure,) = classify_shapes(client(task), 42, registry).failed
    assert failure.reason == "is of class 'green', which is no label of the task; add it there"


def test_names_that_do_not_fit_are_refused_before_any_frame_is_fetched(registry, tmp_path):
    task = Task([shape(1, "object", 0, 0, 9, 9)])
    with pytest.raises(ValueError, match="task 42 has no label car; it has object, red, blue"):
        classify_shapes(client(task), 42, registry, labels=["car"])
    with pytest.raises(TypeError, match=r"give \['object'\]"):
        classify_shapes(client(task), 42, registry, labels="object")
    with ClassRegistry(tmp_path / "other.fewshot", encoder=FakeEncoder()) as other:
        other.add("cyan", [png((0, 255, 255))])
        with pytest.raises(RegistryError, match=r"no class of .*other\.fewshot \(cyan\) is a label of task 42 \("):
            classify_shapes(client(task), 42, other)
    assert task.asked == []


def test_a_multi_label_registry_has_no_class_of_a_shape(tmp_path):
    with ClassRegistry(tmp_path / "m.fewshot", encoder=FakeEncoder(), multi_label=True) as several:
        several.add("red", [png(RED)])
        with pytest.raises(ValueError, match="there is no class of a shape"):
            classify_shapes(client(Task([])), 42, several)
