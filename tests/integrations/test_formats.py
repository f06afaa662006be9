"""Each format holds the prediction for each image as its tool reads it."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner
from fakes import BLUE, GREEN, RED, FakeEncoder, png
from PIL import Image

from fewshot import ClassRegistry
from fewshot.cli import main
from fewshot.integrations.formats import (
    LabelStudioNames,
    as_json,
    to_coco,
    to_csv,
    to_fiftyone,
    to_jsonl,
    to_label_studio,
)
from fewshot.registry.results import Failure, Neighbor, Prediction

BOLT = Prediction(
    "bolt", 0.87654, (("bolt", 0.87654), ("nut", 0.5)), (Neighbor(3, "bolt", "b.jpg", 0.9),), -0.4, probability=0.91236
)
NONE = Prediction(None, 0.25, (("nut", 0.25), ("bolt", 0.125)), (), 0.75, probability=0.625)
PREDICTIONS = [("in/a.jpg", BOLT), ("in/b.jpg", Failure("in/b.jpg", "no such file")), ("in/c.jpg", NONE)]
CLASSES = ["bolt", "nut"]
NOT_TEXT = os.fsdecode(b"caf\xe9.jpg")


def table(predictions):
    return list(csv.DictReader(io.StringIO(to_csv(predictions))))


def label_studio(predictions, **asked):
    return to_label_studio(
        predictions, **{"prefix": "/data/local-files/?d=", "model_version": "parts.fewshot", **asked}
    )


def test_json_lines_are_the_rows_of_predict_failures_among_them():
    first, second, third = map(json.loads, to_jsonl(PREDICTIONS).splitlines())
    assert first == {
        "path": "in/a.jpg", "label": "bolt", "score": 0.8765, "probability": 0.9124, "unknown_score": -0.4,
        "top": [["bolt", 0.8765], ["nut", 0.5]],
        "nearest": [{"example": 3, "label": "bolt", "source": "b.jpg", "score": 0.9}],
    }  # fmt: skip
    assert second == {"path": "in/b.jpg", "error": "no such file"}
    assert (third["label"], third["top"][0]) == (None, ["nut", 0.25])


def test_a_table_has_a_row_an_image_and_the_top_label_of_a_rejected_one():
    bolt, failed, none = table(PREDICTIONS)
    assert bolt == {
        "path": "in/a.jpg",
        "label": "bolt",
        "probability": "0.9124",
        "score": "0.8765",
        "top_label": "bolt",
        "runner_up": "nut",
        "runner_up_score": "0.5",
        "unknown_score": "-0.4",
        "error": "",
    }
    assert failed == {**dict.fromkeys(bolt, ""), "path": "in/b.jpg", "error": "no such file"}
    assert none == {
        "path": "in/c.jpg",
        "label": "",
        "probability": "0.625",
        "score": "0.25",
        "top_label": "nut",
        "runner_up": "bolt",
        "runner_up_score": "0.125",
        "unknown_score": "0.75",
        "error": "",
    }


@pytest.mark.parametrize("none", [None, math.nan])
def test_where_there_is_no_probability_the_formats_leave_it_out_and_have_the_score(none):
    predictions = [("a.jpg", Prediction("bolt", -0.25, (("bolt", -0.25),), probability=none))]
    assert json.loads(to_jsonl(predictions))["probability"] is None
    (row,) = table(predictions)
    assert (row["probability"], row["score"], row["runner_up"], row["runner_up_score"]) == ("", "-0.25", "", "")
    (task,) = label_studio(predictions)
    assert "score" not in task["predictions"][0]
    assert task["predictions"][0]["result"][0]["meta"] == {"score": -0.25}
    (box,) = to_coco(predictions, sizes={"a.jpg": (4, 3)}, classes=CLASSES)["annotations"]
    assert "score" not in box
    assert box["attributes"] == {"score": -0.25}
    assert to_fiftyone(predictions, classes=CLASSES)["labels"] == {
        os.path.abspath("a.jpg"): {"label": "bolt", "attributes": {"score": -0.25}}
    }


@pytest.mark.parametrize("label", ["=cmd|' /C calc'!A0", "+1", "-10 C", "@SUM(A1)", "\t=1", "\r=1", "\n=1"])
def test_a_name_that_a_spreadsheet_would_evaluate_comes_after_a_quote(label):
    (row,) = table([("=a.jpg", Prediction(label, 0.5, ((label, 0.5),), (), -0.5))])
    assert (row["path"], row["label"], row["top_label"]) == ("'=a.jpg", f"'{label}", f"'{label}")
    assert row["unknown_score"] == "-0.5"  # a number is no formula


def test_commas_quotes_and_lines_in_names_stay_in_their_cell():
    label = 'M6, "long"\nbolt'
    (row,) = table([("a, b.jpg", Prediction(label, 0.5, ((label, 0.5),), (), 0.0))])
    assert (row["path"], row["label"]) == ("a, b.jpg", label)


def test_a_file_name_that_is_not_unicode_leaves_every_format_readable():
    predictions = [(NOT_TEXT, BOLT)]
    assert os.fsencode(json.loads(to_jsonl(predictions).encode())["path"]) == b"caf\xe9.jpg"
    assert table(predictions)[0]["path"] == r"caf\udce9.jpg"
    to_csv(predictions).encode()
    assert label_studio(predictions)[0]["data"]["image"] == "/data/local-files/?d=caf%E9.jpg"
    (path,) = json.loads(as_json(to_fiftyone(predictions, classes=CLASSES)).encode())["labels"]
    assert os.fsencode(path).endswith(b"/caf\xe9.jpg")


def test_what_was_not_asked_is_null_in_json_and_empty_in_a_table():
    predictions = [("a.jpg", Prediction("bolt", 0.5, (("bolt", 0.5),)))]
    assert json.loads(to_jsonl(predictions), parse_constant=pytest.fail)["unknown_score"] is None
    assert table(predictions)[0]["unknown_score"] == ""


def test_json_is_in_unicode_unless_it_cannot():
    assert as_json(["ü", "日本"]) == '["ü", "日本"]'


def test_label_studio_gets_a_task_a_picture_and_no_prediction_for_none_of_these():
    first, second = label_studio(PREDICTIONS)
    assert first == {
        "data": {"image": "/data/local-files/?d=in/a.jpg"},
        "predictions": [
            {
                "model_version": "parts.fewshot",
                "score": 0.9124,
                "result": [
                    {
                        "from_name": "choice",
                        "to_name": "image",
                        "type": "choices",
                        "value": {"choices": ["bolt"]},
                        "meta": {"score": 0.8765},
                    }
                ],
            }
        ],
    }
    assert second == {"data": {"image": "/data/local-files/?d=in/c.jpg"}, "predictions": []}


def test_label_studio_finds_a_picture_whatever_its_name():
    (task,) = label_studio([("./in/a b&d=c#1%20ü?.jpg", BOLT)])
    assert parse_qs(urlsplit(task["data"]["image"]).query) == {"d": ["in/a b&d=c#1%20ü?.jpg"]}
    (task,) = label_studio([("a b.jpg", BOLT)], prefix="https://example.com/x/")
    assert unquote(urlsplit(task["data"]["image"]).path) == "/x/a b.jpg"


def test_buckets_and_plain_paths_are_not_percent_encoded():
    assert label_studio([("a b.jpg", BOLT)], prefix="s3://bucket/")[0]["data"]["image"] == "s3://bucket/a b.jpg"
    assert label_studio([("/x/a b.jpg", BOLT)], prefix="")[0]["data"]["image"] == "/x/a b.jpg"


@pytest.mark.parametrize("path", ["/abs/a.jpg", "../a.jpg", "in/../../a.jpg"])
def test_a_path_outside_the_folder_of_the_prefix_is_refused_with_the_remedy(path):
    with pytest.raises(ValueError, match=r"does not lie in the folder of the prefix .* run this in that folder"):
        label_studio([(path, BOLT)])


@pytest.mark.parametrize("score", [-0.1, 0.0, 1.0, 1.5])
def test_label_studio_gets_no_score_that_it_refuses(score):
    (task,) = label_studio([("a.jpg", Prediction("bolt", score, (("bolt", score),), probability=0.75))])
    assert task["predictions"][0]["score"] == 0.75  # it refuses those outside [0, 1]


def test_label_studio_gets_the_names_of_its_configuration():
    names = LabelStudioNames("what", "photo", "url")
    (task,) = label_studio([("a.jpg", BOLT)], names=names)
    assert "url" in task["data"]
    result = task["predictions"][0]["result"][0]
    assert (result["from_name"], result["to_name"]) == ("what", "photo")
    view = ElementTree.fromstring(names.config(['3" & <up>', "nut"]))
    assert [choice.get("value") for choice in view.iter("Choice")] == ['3" & <up>', "nut"]
    assert (view.find("Image").get("value"), view.find("Choices").get("toName")) == ("$url", "photo")


def test_coco_gets_the_whole_picture_as_a_box_of_its_class(tmp_path):
    coco = pytest.importorskip("pycocotools.coco")
    sizes = {"in/a.jpg": (640, 480), "in/c.jpg": (30, 20)}
    made = to_coco([*PREDICTIONS, ("in/a.jpg", BOLT)], sizes=sizes, classes=CLASSES)
    (tmp_path / "coco.json").write_text(json.dumps(made))
    read = coco.COCO(str(tmp_path / "coco.json"))
    assert [c["name"] for c in read.loadCats(read.getCatIds())] == CLASSES
    assert [i["file_name"] for i in read.loadImgs(read.getImgIds())] == ["in/a.jpg", "in/c.jpg"]
    (box,) = read.loadAnns(read.getAnnIds())
    assert (box["image_id"], box["category_id"], box["bbox"], box["score"]) == (1, 1, [0, 0, 640, 480], 0.9124)
    assert box["attributes"] == {"score": 0.8765}
    assert read.getImgIds(catIds=[1]) == [1]
    assert read.loadRes(made["annotations"]).getAnnIds() == [1]


def test_fiftyone_gets_absolute_paths_and_no_label_for_none_of_these():
    made = to_fiftyone(PREDICTIONS, classes=CLASSES)
    assert made["classes"] == CLASSES
    assert made["labels"] == {
        os.path.abspath("in/a.jpg"): {"label": "bolt", "confidence": 0.9124, "attributes": {"score": 0.8765}},
        os.path.abspath("in/c.jpg"): None,
    }


@pytest.fixture
def parts(tmp_path, monkeypatch):
    """A registry of three colours in the current folder, and pictures to recognise: two, and one that is none."""
    monkeypatch.setattr("fewshot.encoders.load_encoder", lambda *_, **__: FakeEncoder(name="fake"))
    with ClassRegistry(tmp_path / "parts.fewshot", encoder=FakeEncoder(name="fake")) as registry:
        for label, colour in (("red", RED), ("green", GREEN), ("blue", BLUE)):
            registry.add(label, [png(colour), png(colour, 5)])
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "1.png").write_bytes(png(RED, 6))
    (tmp_path / "new" / "2.png").write_bytes(png(BLUE, 7))
    (tmp_path / "new" / "bad.png").write_bytes(b"no picture")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def predict(*arguments, status):
    result = CliRunner().invoke(main, ["predict", "parts.fewshot", *arguments])
    assert result.exit_code == status, (result.output, result.exception)
    return result


def test_every_format_is_written_whole_and_names_what_failed_on_stderr(parts):
    good, all_ = ("new/1.png", "new/2.png"), ("new",)
    for form in ("json", "jsonl", "csv", "label-studio", "coco", "fiftyone"):
        assert "not recognised" not in predict("--format", form, *good, status=0).stderr
        result = predict("--format", form, *all_, status=1)
        assert "no prediction for new/bad.png: not an image" in result.stderr
        written = {
            "json": lambda text: [row.get("label") for row in json.loads(text)],
            "jsonl": lambda text: [json.loads(line).get("label") for line in text.splitlines()],
            "csv": lambda text: [row["label"] or None for row in csv.DictReader(io.StringIO(text))],
            "label-studio": lambda text: [
                task["predictions"][0]["result"][0]["value"]["choices"][0] for task in json.loads(text)
            ],
            "coco": lambda text: [CLASSES_OF[a["category_id"]] for a in json.loads(text)["annotations"]],
            "fiftyone": lambda text: [label["label"] for label in json.loads(text)["labels"].values()],
        }[form](result.stdout)
        failed = [None] if form in ("json", "jsonl", "csv") else []
        assert written == ["red", "blue", *failed], form


def test_of_one_class_every_format_is_without_probability_and_the_note_says_why(parts):
    with ClassRegistry("parts.fewshot", encoder=FakeEncoder(name="fake")) as registry:
        for label in ("green", "blue"):
            registry.remove(label)
    found = predict("--format", "json", "new/1.png", status=0)
    (row,) = json.loads(found.stdout)
    assert (row["label"], row["probability"]) == ("red", None)
    assert row["note"].startswith("no probability: with one class there is nothing to compare it with")
    assert found.stderr.count(row["note"]) == 1
    (row,) = csv.DictReader(io.StringIO(predict("--format", "csv", "new/1.png", status=0).stdout))
    assert (row["label"], row["probability"]) == ("red", "")
    (task,) = json.loads(predict("--format", "label-studio", "new/1.png", status=0).stdout)
    assert "score" not in task["predictions"][0]
    assert "100" not in predict("--format", "table", "new/1.png", status=0).stdout


CLASSES_OF = {1: "red", 2: "green", 3: "blue"}


def test_every_format_has_the_probability_of_the_api_and_the_table_the_runner_up(parts):
    with ClassRegistry("parts.fewshot", encoder=FakeEncoder(name="fake")) as registry:
        (one,) = registry.predict(["new/1.png"], top=2)
    expected, (runner_up, second) = round(one.probability, 4), one.top[1]

    def written(form):
        return predict("--format", form, "new/1.png", status=0).stdout

    (row,) = csv.DictReader(io.StringIO(written("csv")))
    assert (float(row["probability"]), row["runner_up"]) == (expected, runner_up)
    assert float(row["runner_up_score"]) == round(second, 4)
    assert json.loads(written("jsonl"))["probability"] == expected
    assert json.loads(written("label-studio"))[0]["predictions"][0]["score"] == expected
    assert json.loads(written("coco"))["annotations"][0]["score"] == expected
    (label,) = json.loads(written("fiftyone"))["labels"].values()
    assert label["confidence"] == expected


def test_a_cameras_turned_picture_has_the_size_it_is_seen_with(parts):
    turned = Image.new("RGB", (8, 4), RED)
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(parts / "turned.jpg", exif=exif)
    (image,) = json.loads(predict("--format", "coco", "turned.jpg", status=0).stdout)["images"]
    assert (image["width"], image["height"]) == (4, 8)


def test_an_image_that_is_deleted_meanwhile_is_a_failure(parts, monkeypatch):
    from fewshot.media import open_image

    def lost(path):
        os.remove("new/2.png")
        return open_image(path)

    monkeypatch.setattr("fewshot.media.open_image", lost)
    result = predict("--format", "coco", "new/2.png", status=1)
    assert json.loads(result.stdout)["images"] == []
    assert "no prediction for new/2.png: no such file" in result.stderr


def test_a_table_says_which_names_it_changed(parts):
    os.rename("new/1.png", "-1.png")
    result = predict("--format", "csv", "--", "-1.png", status=0)
    assert '"\'-1.png","red"' in result.stdout
    assert "1 name escaped" in result.stderr
    assert "'-1.png; --format jsonl leaves names as they are" in result.stderr


def test_the_rows_of_evaluate_are_a_table_like_any_other(parts):
    os.makedirs("test/=1+1")
    os.rename("new/1.png", "test/=1+1/1.png")
    result = CliRunner().invoke(main, ["evaluate", "parts.fewshot", "test", "--out", "rows.csv"])
    assert result.exit_code == 0, result.output
    with open("rows.csv", newline="") as file:
        assert next(csv.DictReader(file))["label"] == "'=1+1"


def test_a_configuration_gives_the_names_and_what_it_lacks_is_noted(parts):
    (parts / "view.xml").write_text(
        '<View><Image name="photo" value="$url"/>'
        '<Choices name="what" toName="photo"><Choice value="red"/></Choices></View>'
    )
    result = predict(
        "--format", "label-studio", "--label-config", "view.xml", "--prefix", "", "new/1.png", status=0
    )  # fmt: skip
    (task,) = json.loads(result.stdout)
    assert task["data"] == {"url": "new/1.png"}
    assert task["predictions"][0]["result"][0]["from_name"] == "what"
    assert "lack: green, blue" in result.stderr
    (parts / "view.xml").write_text("<View><Text name='t' value='$t'/></View>")
    refused = predict("--format", "label-studio", "--label-config", "view.xml", "new/1.png", status=1)
    assert "view.xml has no Choices for an Image; add them" in refused.stderr
    assert refused.stdout == ""


def test_without_a_configuration_the_one_to_use_is_noted(parts):
    told = predict("--format", "label-studio", "new/1.png", status=0).stderr
    view = ElementTree.fromstring(told.split(": ", 1)[1])
    assert [choice.get("value") for choice in view.iter("Choice")] == ["red", "green", "blue"]


@pytest.mark.parametrize("option", ["--prefix", "--label-config"])
def test_an_option_for_label_studio_alone_is_refused_elsewhere(parts, option):
    assert f"{option} is for --format label-studio, not csv" in predict(
        "--format", "csv", option, "x", "new/1.png", status=2
    ).stderr  # fmt: skip
