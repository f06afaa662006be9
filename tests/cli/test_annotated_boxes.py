import json

import pytest
from box_examples import coco, picture, voc
from click.testing import CliRunner

from fewshot.cli import main

pytestmark = pytest.mark.usefixtures("pocket_stays")


def call(*words, status=0):
    result = CliRunner().invoke(main, ["add", "r.fewshot", *(str(word) for word in words)])
    assert result.exit_code == status, (result.output, result.exception)
    return json.loads(result.stdout) if result.stdout else None, result.stderr


@pytest.fixture
def place(tmp_path, monkeypatch):
    (tmp_path / "images").mkdir()
    picture().save(tmp_path / "images" / "a.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_boxes_and_background_are_added_and_told(place):
    coco(place / "a.json")
    words = ("--from-boxes", "a.json", "images", "--negatives-from-background", 3, "--padding", 0.2)
    answer, err = call(*words)
    assert {key: answer[key] for key in ("file", "images", "padding", "left_out", "added", "classes")} == {
        "file": "a.json", "images": 1, "padding": 0.2, "left_out": 0, "added": 3, "classes": 3,
    }  # fmt: skip
    assert answer["negatives"] >= 1
    assert "boxes in 1 image: blue 1, green 1, red 1" in err
    again, _ = call(*words)
    assert (again["added"], again["duplicates"], again["negatives"]) == (0, 3, 0)
    assert "holds crops with a padding of 0.2, not 0.3" in call(*words[:3], "--padding", 0.3, status=1)[1]


def test_what_was_not_added_is_named(place):
    coco(place / "a.json", [("red", 10, 20, 20, 20), ("red", 300, 20, 20, 20)])
    answer, err = call("--from-boxes", "a.json", "images", status=1)
    assert answer["added"] == 1
    assert answer["failed"][0]["path"] == "images/a.png#xywh=300,20,20,20"
    assert "not added: images/a.png#xywh=300,20,20,20: it lies outside the image" in err
    voc(place / "b.xml", difficult=1)
    answer, err = call("--from-boxes", "b.xml", "images")
    assert (answer["added"], answer["left_out"]) == (0, 3)
    assert "boxes left out: 3: images/a.png#xywh=10,20,20,20 (difficult)" in err


def test_too_little_background_is_told(place):
    coco(place / "a.json", [("red", 0, 0, 100, 90)])
    answer, err = call("--from-boxes", "a.json", "images", "--negatives-from-background", 5)
    assert answer["negatives"] == 0
    assert "the background had room for 0 of 5 boxes that overlap no other" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--from-boxes", "a.json"), "--from-boxes takes the folder or zip of the images"),
        (("--from-boxes", "a.json", "images", "more"), "--from-boxes takes the folder or zip of the images"),
        (("--from-boxes", "a.json", "images", "--from-folder", "x"), "--from-boxes goes with a folder of images alone"),
        (("--from-boxes", "a.json", "images", "--augment", "catalogue"), "--from-boxes goes with a folder"),
        (("--from-boxes", "a.json", "images", "--negative"), "--negative takes files"),
        (("red", "images/a.png", "--padding", 0.1), "are for --from-boxes FILE IMAGES"),
        (("red", "images/a.png", "--negatives-from-background", 4), "are for --from-boxes FILE IMAGES"),
    ],
)
def test_wrong_usage_is_told(place, words, message):
    coco(place / "a.json")
    assert message in call(*words, status=2)[1]
    assert not (place / "r.fewshot").exists()
