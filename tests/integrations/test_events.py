"""Label Studio's webhooks and exports, read into records."""

from __future__ import annotations

import pytest
from label_studio_fakes import BOXES, CHOICES, SEVERAL, annotation, boxed, chosen, created, event, task

from fewshot.integrations import BadRequest, ProjectKey, project_key, read_event
from fewshot.integrations.label_studio.events import read_export
from fewshot.registry import ImageLabels


def test_an_annotation_is_a_record_with_its_time_in_microseconds():
    found = read_event(created(annotation(2, 6, chosen("Red"), second=58.32536), task(6, "/data/upload/2/up.png")))
    assert found.project == ProjectKey(2, 1795241756)
    assert found.project.registry == "project-2.1795241756"
    (record,) = found.annotations.records
    assert (record.annotation, record.task, record.updated) == (2, 6, 1795241758_325360)
    assert record.labels == (ImageLabels("choice", "/data/upload/2/up.png", "", ("Red",)),)
    assert record.labels_json == '[{"control":"choice","image":"/data/upload/2/up.png","id":"","labels":["Red"]}]'


def test_the_project_is_the_same_in_every_form_that_label_studio_names_it():
    assert project_key("2.1795241756") == read_event(event("TASKS_DELETED", tasks=[{"id": 10}])).project


def test_annotations_that_come_in_bulk_are_found_with_their_tasks():
    body = event(
        "ANNOTATIONS_CREATED",
        annotation=[annotation(1, 7, chosen("Red")), annotation(2, 6, chosen("Blue"))],
        task=[task(6, "six"), task(7, "seven")],
    )
    assert [record.labels[0].image for record in read_event(body).annotations.records] == ["seven", "six"]


def test_a_skipped_annotation_has_no_labels():
    skipped = created(annotation(2, 6, chosen("Red"), was_cancelled=True), task(6, "x"))
    (record,) = read_event(skipped).annotations.records
    assert (record.labels, record.labels_json) == ((), "[]")


def test_no_box_ticked_is_none_of_the_classes_for_multiple_choice_only():
    multiple, single = (
        read_event(created(annotation(2, 6), task(6, "x"), config=config)).annotations.records[0].labels
        for config in (SEVERAL, CHOICES)
    )
    assert (multiple, single) == ((ImageLabels("choice", "x", "", ()),), ())


def test_each_labelled_region_has_labels_of_its_own():
    results = [
        boxed("Red", 0, 0, 50, 100, id_="a"),
        boxed(None, 0, 0, 9, 9, id_="b"),
        boxed("Blue", 50, 0, 50, 100, id_="c"),
    ]
    (record,) = read_event(created(annotation(2, 6, *results), task(6, "x"), config=BOXES)).annotations.records
    assert [(one.region_id, one.labels) for one in record.labels] == [("a", ("Red",)), ("c", ("Blue",))]
    assert record.labels[0].region["value"] == {"x": 0, "y": 0, "width": 50, "height": 100, "rotation": 0}


def test_deletions_are_ids_and_other_actions_are_nothing():
    assert read_event(event("ANNOTATIONS_DELETED", annotations=[{"id": 2}])).deleted == (2,)
    assert read_event(event("ANNOTATION_DELETED", annotation=annotation(2, 6))).deleted == (2,)
    assert read_event(event("ANNOTATION_DELETED", annotations=[{"id": 2}, {"id": 3}])).deleted == (2, 3)
    assert read_event(event("TASKS_DELETED", tasks=[{"id": 10}])).deleted_tasks == (10,)
    assert read_event(event("PROJECT_UPDATED")) is None
    assert read_event({"action": ["?"]}) is None


def test_an_export_has_the_same_records_as_the_webhooks():
    annotated = annotation(2, 6, chosen("Red"))
    sent = read_event(created(annotated, task(6, "x"))).annotations
    assert read_export([task(6, "x", annotations=[annotated])], CHOICES) == sent


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (created(annotation(0, 6), task(6, "x")), "id must be a whole number above 0, not 0"),
        (created(annotation(1, 7), task(6, "x")), "annotation 1 comes without its task 7"),
        (created(annotation(1, 6, updated_at="noon"), task(6, "x")), "updated_at must be a time with its zone"),
        (created(annotation(1, 6, updated_at="2026-11-21T06:15:58"), task(6, "x")), "a time with its zone"),
        (created(annotation(1, 6, result=None), task(6, "x")), "annotation 1 must have a result"),
        (created(annotation(1, 6), task(6, "x"), config="<"), "is not XML"),
        ({"action": "START_TRAINING"}, "project must be an object, not NoneType"),
        (event("ANNOTATIONS_DELETED", annotations=[3]), "annotations must be an object, or a list of them"),
    ],
)
def test_what_label_studio_would_not_send_is_refused_by_name(body, message):
    with pytest.raises(BadRequest, match=message):
        read_event(body)


@pytest.mark.parametrize("text", ["42", 42])
def test_a_project_may_come_without_its_creation_time(text):
    assert project_key(text) == ProjectKey(42, None)
    assert project_key(text).registry == "project-42"
    body = event("TASKS_DELETED", tasks=[{"id": 10}])
    body["project"] = {"id": 42}
    assert read_event(body).project == project_key(text)


@pytest.mark.parametrize("text", [None, True, -2, 2.5, "", "../2", "../2.1", "2.1.1", "-2.1", "2.1\n", "2\n", "2."])
def test_what_names_no_project_never_becomes_a_file_name(text):
    with pytest.raises(BadRequest, match="project must be an id and a time"):
        project_key(text)


def test_an_event_without_annotations_changes_nothing():
    assert read_event(event("ANNOTATION_CREATED")).annotations.records == ()
    assert read_event(event("ANNOTATIONS_DELETED")).deleted == ()
