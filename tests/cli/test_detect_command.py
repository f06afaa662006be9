import json
import shutil
from xml.etree import ElementTree

import pytest
from box_examples import SQUARES, coco, picture
from click.testing import CliRunner
from PIL import Image

from fewshot.cli import main

pytestmark = pytest.mark.usefixtures("pocket_stays")


def call(*words, status=0):
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == status, (result.output, result.exception)
    return result.stdout, result.stderr


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A registry of the squares, their file, and the picture."""
    folder = tmp_path_factory.mktemp("squares")
    (folder / "images").mkdir()
    picture().save(folder / "images" / "a.png")
    coco(folder / "a.json")
    call("add", folder / "r.fewshot", "--from-boxes", folder / "a.json", folder / "images")
    return folder


@pytest.fixture
def place(made, tmp_path, monkeypatch):
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


DETECT = ("detect", "r.fewshot", "images/a.png", "--proposer", "a.json")


def test_the_boxes_of_a_file_are_recognised_and_counted(place):
    out, err = call(*DETECT)
    (found,) = json.loads(out)
    assert found["counts"] == {"red": 1, "blue": 1, "green": 1}
    assert {(one["label"], tuple(one["box"])) for one in found["boxes"]} == {
        (label, box.xyxy) for label, _, box in SQUARES
    }
    assert "every box gets a class" in err
    assert "every box" not in call(*DETECT, "--min-confidence", 0.01)[1]


def test_without_a_proposer_what_stands_out_is_recognised(place):
    (found,) = json.loads(call("detect", "r.fewshot", "images/a.png", "--max-overlap", 1)[0])
    assert found["proposed"] >= 3
    boxes = [one["box"] for one in found["boxes"]]
    assert any(max(abs(a - b) for a, b in zip(box, (10, 20, 30, 40), strict=True)) <= 1 for box in boxes)


def test_each_format_holds_the_boxes(place):
    table = call(*DETECT, "--format", "table")[0].split()
    assert [word for word in ("red", "blue", "green", "images/a.png") if word not in table] == []
    assert len(call(*DETECT, "--format", "csv")[0].splitlines()) == 4
    assert json.loads(call(*DETECT, "--format", "jsonl")[0])["path"] == "images/a.png"
    data = json.loads(call(*DETECT, "--format", "coco")[0])
    assert sorted(one["bbox"] for one in data["annotations"]) == [[0, 0, 8, 8], [10, 20, 20, 20], [60, 50, 30, 30]]
    tasks, err = call(*DETECT, "--format", "label-studio", "--prefix", "/data/")
    assert json.loads(tasks)[0]["data"] == {"image": "/data/images/a.png"}
    assert "<RectangleLabels" in err
    assert len(list(ElementTree.fromstring(call(*DETECT, "--format", "cvat")[0]).iter("box"))) == 3
    written = json.loads(call(*DETECT, "--format", "yolo", "--out", "labels")[0])
    assert written == {"folder": "labels", "images": 1, "classes": ["red", "blue", "green"]}
    assert len((place / "labels" / "labels" / "a.txt").read_text().splitlines()) == 3


def test_pictures_of_one_name_are_drawn_beside_each_other(place):
    (place / "other").mkdir()
    picture().save(place / "other" / "a.png")
    call(*DETECT, "other/a.png", "--draw", "drawn")
    assert sorted(path.name for path in (place / "drawn").iterdir()) == ["a-2.png", "a.png"]
    with Image.open(place / "drawn" / "a.png") as drawn:
        assert drawn.size == (100, 90)


def test_what_cannot_be_read_is_listed_and_the_others_found(place):
    (place / "b.png").write_bytes(b"no image")
    out, err = call(*DETECT, "b.png", status=1)
    good, bad = json.loads(out)
    assert len(good["boxes"]) == 3
    assert bad["path"] == "b.png"
    assert "nothing found in b.png: not an image" in err


@pytest.mark.parametrize(
    ("words", "message", "status"),
    [
        ((*DETECT, "--format", "yolo"), "--format yolo writes a folder: --out DIR", 2),
        ((*DETECT, "--out", "x"), "--out is for yolo", 2),
        ((*DETECT, "--prefix", "x"), "--prefix is for --format label-studio, not json", 2),
        ((*DETECT, "--draw", "a.json"), "cannot write a.json/: it is a file", 1),
        (("detect", "r.fewshot", "images/a.png", "--proposer", "nothing"), "'nothing' is no proposer", 1),
        (("detect", "r.fewshot"), "Missing argument 'IMAGE...'", 2),
        (("detect", "none.fewshot", "images/a.png"), "none.fewshot", 1),
    ],
)
def test_wrong_usage_is_told(place, words, message, status):
    assert message in call(*words, status=status)[1]


def test_a_limit_that_leaves_out_most_objects_is_told(place, monkeypatch):
    from fewshot.openset import Threshold
    from fewshot.registry.rejection import Rejection

    found = Threshold(0.0, 0.1, 0.1, 50, "negatives", 0.92, None)
    monkeypatch.setattr(Rejection, "threshold", lambda self, limit=None: found)
    told = "the limit of 0.1 false accepts is expected to leave out 92% of the objects themselves"
    assert told in call(*DETECT)[1]
    assert told not in call(*DETECT, "--max-false-accept", 1)[1]
