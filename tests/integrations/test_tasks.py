"""The images of tasks and of their regions."""

from __future__ import annotations

from label_studio_fakes import BOXES, CHOICES, boxed, chosen, task

from fewshot.integrations import parse_config
from fewshot.integrations.label_studio.suggestions import Suggestion
from fewshot.integrations.label_studio.tasks import QueryImage, prediction_of, query_images


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
