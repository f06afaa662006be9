"""The pure parts: configurations, regions, brush masks, events, suggestions, tasks."""

from __future__ import annotations

import numpy as np
import pytest
from label_studio_fakes import BOXES, CHOICES, SEVERAL, annotation, boxed, chosen, created, event, task
from numpy.testing import assert_allclose
from PIL import Image

from fewshot import PrototypeClassifier
from fewshot.integrations import BadRequest, ProjectKey, parse_config, project_key, read_event
from fewshot.integrations.label_studio.events import read_export
from fewshot.integrations.label_studio.regions import brush_mask, crop_region
from fewshot.integrations.label_studio.suggestions import LabelSuggester, Suggestion
from fewshot.integrations.label_studio.tasks import QueryImage, prediction_of, query_images
from fewshot.registry import AnnotationSnapshot, ImageLabels
from fewshot.registry.annotations.annotation_records import AppliedLabel
from fewshot.registry.snapshot import Snapshot

# Configurations


def test_the_controls_that_ask_for_a_class_of_an_image_are_found():
    (choice,) = parse_config(CHOICES)
    assert (choice.name, choice.to_name, choice.kind, choice.image) == ("choice", "image", "choices", "image")
    assert (choice.labels, choice.multiple) == (("Red", "Blue"), False)
    assert [one.multiple for one in parse_config(SEVERAL)] == [True]
    assert [(one.name, one.kind, one.labels) for one in parse_config(BOXES)] == [
        ("box", "rectanglelabels", ("Red", "Blue")),
        ("brush", "brushlabels", ("Red", "Blue")),
    ]


def test_an_alias_is_what_an_annotation_holds():
    (control,) = parse_config(CHOICES.replace('value="Red"', 'value="Rot" alias="Red"'))
    assert control.labels == ("Red", "Blue")


@pytest.mark.parametrize(
    "config",
    [
        '<View><Text name="text" value="$text"/><Choices name="c" toName="text"><Choice value="A"/></Choices></View>',
        CHOICES.replace("<Choices ", '<Choices perRegion="true" '),
        CHOICES.replace("<Choices ", '<Choices allowNested="true" '),
        CHOICES.replace("$image", "https://host/$image"),
        "<View/>",
    ],
    ids=["of a text", "of each region", "nested", "no plain variable", "empty"],
)
def test_other_controls_are_left_out(config):
    assert parse_config(config) == ()


def test_an_event_without_annotations_changes_nothing():
    assert read_event(event("ANNOTATION_CREATED")).annotations.records == ()
    assert read_event(event("ANNOTATIONS_DELETED")).deleted == ()


@pytest.mark.parametrize("value", ["true", "True", "1", "yes"])
def test_a_control_that_models_are_to_skip_is_left_out(value):
    assert parse_config(CHOICES.replace("<Choices ", f'<Choices model_skip="{value}" ')) == ()
    assert [
        one.name for one in parse_config(BOXES.replace("<BrushLabels ", f'<BrushLabels model_skip="{value}" '))
    ] == ["box"]
    assert len(parse_config(CHOICES.replace("<Choices ", '<Choices model_skip="false" '))) == 1


def test_a_control_may_have_a_lowest_score_of_its_own(caplog):
    def lowest(attribute):
        (control,) = parse_config(CHOICES.replace("<Choices ", f"<Choices {attribute} "))
        return control.min_score

    assert (lowest('model_score_threshold="0.3"'), lowest('score_threshold="0.4"'), lowest("")) == (0.3, 0.4, 0.0)
    assert caplog.messages == []
    assert (lowest('model_score_threshold="high"'), lowest('model_score_threshold="nan"')) == (0.0, 0.0)
    assert caplog.messages[0] == "model_score_threshold='high' of 'choice' is no number, and is left out"


def test_suggestions_under_the_score_of_their_control_are_left_out_and_count_for_the_tasks_score():
    (choice,) = parse_config(CHOICES.replace("<Choices ", '<Choices model_score_threshold="0.7" '))
    (box, _) = parse_config(BOXES)
    region = {"value": {}}
    made = prediction_of(
        [
            (QueryImage(choice, "x"), Suggestion(("Red",), 0.6)),
            (QueryImage(box, "x", region), Suggestion(("Blue",), 0.5)),
        ],
        "v",
    )
    assert ([result["from_name"] for result in made["result"]], made["score"]) == (["box"], 0.5)
    (result,) = prediction_of([(QueryImage(choice, "x"), Suggestion(("Red",), 0.7))], "v")["result"]
    assert result["value"] == {"choices": ["Red"]}


def test_choices_that_each_task_brings_have_no_labels():
    (control,) = parse_config(
        '<View><Image name="i" value="$image"/><Choices name="c" toName="i" value="$options"/></View>'
    )
    assert control.labels == ()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ('<!DOCTYPE v [<!ENTITY a "aaaa">]><View>&a;</View>', "declares a document type or entities"),
        ("<View>" * 200, "more than 100 tags deep"),
        ("<View>" + " " * 1_000_000 + "</View>", "1,000,013 characters, over the limit of 1,000,000"),
        ("<View>", "is not XML"),
        ("\ud800", "is not XML"),
    ],
    ids=["entities", "deep", "long", "cut", "a lone surrogate"],
)
def test_a_hostile_configuration_is_refused(config, message):
    with pytest.raises(ValueError, match=message):
        parse_config(config)


# Regions. The picture is 8 x 4: red on the left half, blue on the right.


@pytest.fixture
def halves():
    image = Image.new("RGB", (8, 4), (255, 0, 0))
    image.paste((0, 0, 255), (4, 0, 8, 4))
    return image


def colours(image):
    return {colour for _, colour in image.getcolors()}


def test_a_rectangle_is_cut_out_by_percent(halves):
    cut = crop_region(halves, boxed("Red", 50, 25, 25, 50))
    assert (cut.size, colours(cut)) == ((2, 2), {(0, 0, 255)})
    assert crop_region(halves, boxed("Red", 0, 0, 100, 100)).tobytes() == halves.tobytes()


def test_what_stands_out_over_the_edge_is_left_out(halves):
    assert crop_region(halves, boxed("Red", -50, -50, 75, 100)).size == (2, 2)


def test_a_rotated_rectangle_is_turned_upright_about_its_corner():
    # Clockwise by 90 degrees about (4, 0): a box 2 wide and 4 high then lies over x 0..4, y 0..2.
    image = Image.new("RGB", (8, 8), (0, 0, 0))
    image.paste((255, 0, 0), (0, 0, 4, 1))  # its right column, once turned upright is its left
    image.paste((0, 255, 0), (0, 1, 4, 2))
    result = boxed("Red", 50, 0, 25, 50)
    result["value"]["rotation"] = 90
    cut = crop_region(image, result)
    assert cut.size == (2, 4)
    assert np.abs(np.asarray(cut, int) - [(255, 0, 0), (0, 255, 0)]).max() <= 1


def test_coordinates_are_those_of_the_picture_as_the_annotator_had_turned_it(halves):
    # Turned clockwise by 90 degrees it is 4 x 8, red above blue.
    cut = crop_region(halves, boxed("Red", 0, 0, 100, 50, image_rotation=90))
    assert (cut.size, colours(cut)) == ((4, 4), {(255, 0, 0)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 0}, "is empty"),
        ({"width": 1e308}, "width must be a number up to a million"),
        ({"x": 120}, "lies outside the picture of 8 x 4 pixels"),
        ({"x": None}, "x must be a number up to a million, not None"),
        ({"y": float("nan")}, "y must be a number up to a million, not nan"),
        ({"height": True}, "height must be a number up to a million, not True"),
        ({"width": 1e5, "rotation": 1}, "larger than its picture"),
        ({"rle": "x"}, "must be a list of bytes, not str"),
        ({"rle": [256]}, "whole numbers from 0 to 255"),
        ({"rle": [0, 0, 0]}, "ends in the middle"),
        ({"rle": [0, 0, 0, 9]}, "a brush stroke of 9 values does not fit its picture of 8 x 4 pixels"),
    ],
)
def test_a_region_that_is_none_says_why(halves, change, message):
    result = boxed("Red", 0, 0, 50, 50)
    result["value"] |= change
    with pytest.raises(ValueError, match=message):
        crop_region(halves, result)


def encoded(values, *, size=8, lengths=(3, 4, 8, 16)):
    """Encode a brush stroke by hand, as ``brush_mask`` describes it: runs of three or more values as repeated."""
    bits = f"{len(values):032b}{size - 1:05b}" + "".join(f"{length - 1:04b}" for length in lengths)
    at = 0
    while at < len(values):
        run = next((n for n in range(at, len(values)) if values[n] != values[at]), len(values)) - at
        count = run if run >= 3 else 1
        which = next(n for n, length in enumerate(lengths) if count <= 2**length)
        bits += f"{int(run >= 3)}{which:02b}{count - 1:0{lengths[which]}b}{values[at]:0{size}b}"
        at += count
    bits += "0" * (-len(bits) % 8)
    return [int(bits[n : n + 8], 2) for n in range(0, len(bits), 8)]


@pytest.mark.parametrize("seed", range(3))
def test_a_brush_stroke_is_decoded_to_the_mask_it_was_made_of(seed):
    mask = np.random.default_rng(seed).random((7, 5)) < 0.3
    rgba = np.repeat(mask.astype(np.uint8) * 255, 4)
    assert (brush_mask(encoded(rgba.tolist()), 5, 7) == mask).all()


def test_only_the_fourth_channel_is_the_mask():
    values = [255, 255, 255, 0, 0, 0, 0, 1]
    assert brush_mask(encoded(values), 2, 1).tolist() == [[False, True]]


# What Label Studio's own converter (label-studio-sdk 2.1.2, brush.mask2rle) makes of a 6 x 3 mask with the pixels
# (row, column) (0, 1), (1, 1), (1, 2) and (2, 5) set.
CONVERTED = [0, 0, 0, 72, 57, 27, 252, 96, 17, 255, 225, 48, 9, 255, 240, 248, 4, 127, 224]


def test_a_stroke_of_label_studios_own_converter_is_decoded():
    assert np.argwhere(brush_mask(CONVERTED, 6, 3)).tolist() == [[0, 1], [1, 1], [1, 2], [2, 5]]


def test_a_stroke_is_cut_out_by_the_box_around_it(halves):
    mask = np.zeros((4, 8), np.uint8)
    mask[1, 5] = mask[2, 6] = 255
    stroke = {
        "original_width": 8,
        "original_height": 4,
        "value": {"format": "rle", "rle": encoded(np.repeat(mask, 4).tolist())},
    }
    cut = crop_region(halves, stroke)
    assert (cut.size, colours(cut)) == ((2, 2), {(0, 0, 255)})
    twice = crop_region(halves.resize((16, 8)), stroke)
    assert twice.size == (4, 4)


def test_a_stroke_of_nothing_or_too_much_is_refused(halves):
    stroke = {"original_width": 8, "original_height": 4, "value": {"rle": encoded([0] * 128)}}
    with pytest.raises(ValueError, match="the brush stroke is empty"):
        crop_region(halves, stroke)
    with pytest.raises(ValueError, match="over the limit of 4,194,304 bytes and 33,554,432 pixels"):
        crop_region(halves, stroke | {"original_width": 10**6, "original_height": 10**6})


# Events


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


# Suggestions


def snapshot_of(*examples):
    """Annotated examples, a label and a colour each."""
    labels = list(dict.fromkeys(label for label, _ in examples))
    vectors = np.array([vector for _, vector in examples], np.float32)
    ids = np.arange(1, len(examples) + 1)
    codes = np.array([labels.index(label) for label, _ in examples])
    settings = {"metric": "cosine", "revision": 1, "rewrites": 1}
    held = Snapshot(
        settings, ids, vectors, np.linalg.norm(vectors, axis=1), ids, codes, labels, np.arange(1, len(labels) + 1)
    )
    applied = [AppliedLabel(n, "choice", "", label, n, None) for n, (label, _) in enumerate(examples, start=1)]
    return AnnotationSnapshot(held, applied, {})


def test_a_score_leaves_a_chance_to_labels_without_examples():
    # Three examples of "Red" and one of "Blue", of five labels. Without examples: 3 of 5; by Good's estimate with one
    # added, (1 + 1) / (1 + 4) = 0.4, which is less.
    snapshot = snapshot_of(("Red", (1, 0, 0)), ("Red", (0.9, 0.1, 0)), ("Red", (0.9, 0, 0.1)), ("Blue", (0, 0, 1)))
    (two,), (five,) = (
        parse_config(CHOICES.replace("<Choice ", more + "<Choice ", 1))
        for more in ("", '<Choice value="A"/><Choice value="B"/><Choice value="C"/>')
    )
    query = np.array([(1, 0.1, 0.2)], np.float32)
    (sure,), (unsure,) = LabelSuggester(two, snapshot).suggest(query), LabelSuggester(five, snapshot).suggest(query)
    classifier = PrototypeClassifier().fit(
        snapshot.examples.vectors, [snapshot.examples.labels[code] for code in snapshot.examples.codes]
    )
    probability = classifier.predict_proba(query).max()
    assert (sure.labels, unsure.labels) == (("Red",), ("Red",))
    assert_allclose([sure.score, unsure.score], [probability, 0.6 * probability], rtol=1e-6)


def test_with_many_examples_a_label_without_any_is_unlikely():
    snapshot = snapshot_of(*[("Red", (1, 0, 0)), ("Blue", (0, 0, 1))] * 20)
    (control,) = parse_config(CHOICES.replace("<Choice ", '<Choice value="A"/>' + "<Choice ", 1))
    (suggestion,) = LabelSuggester(control, snapshot).suggest(np.array([(1, 0, 0)], np.float32))
    assert 0.7 < suggestion.score <= 40 / 41  # one of the three labels did not come in 40 pictures


# Tasks


def regions(task_, context=None):
    controls = parse_config(BOXES)
    return [(q.control.name, q.region["value"]["x"]) for q in query_images(task_, controls, context)]


def test_regions_are_those_of_drafts_annotations_and_predictions_each_once():
    one, two, three = (boxed("Red", x, 0, 10, 10, id_=str(x)) for x in (1, 2, 3))
    again = boxed("Blue", 1, 0, 10, 10, id_="another")
    drawn = task(
        6,
        "x",
        drafts=[{"result": [one]}],
        annotations=[{"result": [again, two, chosen("Red")]}],
        predictions=[{"result": [three]}, {"result": None}, "odd"],
    )
    assert regions(drawn) == [("box", 1), ("box", 2), ("box", 3)]


def test_a_region_just_drawn_is_classified_alone():
    drawn = task(6, "x", annotations=[{"result": [boxed("Red", 1, 0, 10, 10)]}])
    assert regions(drawn, {"result": [boxed(None, 5, 0, 10, 10, type="rectangle")]}) == [("box", 5)]


def test_what_is_nested_in_a_region_is_no_part_of_its_outline():
    drawn = boxed("Red", 1, 0, 10, 10, original_width={"a": []})
    drawn["value"]["rotation"] = {"a": []}
    (query,) = query_images(task(6, "x", annotations=[{"result": [drawn]}]), parse_config(BOXES))
    assert query.region == {
        "id": "r1",
        "original_height": 4,
        "image_rotation": 0,
        "value": {"x": 1, "y": 0, "width": 10, "height": 10},
    }


def test_a_task_without_the_image_has_no_queries():
    assert regions({"id": 1}) == regions({"id": 1, "data": {"image": 3}}) == []
