import io
from contextlib import redirect_stdout
from xml.etree import ElementTree

import pytest

from fewshot.detection import Box, Detection, ImageDetections, read_boxes
from fewshot.integrations import detection_formats as formats
from fewshot.integrations import parse_config
from fewshot.registry import Failure

CLASSES = ["cup", 'a "pen" & <ink>']
FOUND = [
    ImageDetections(
        "x/a b.jpg",
        200,
        100,
        (
            Detection(Box(20, 10, 60, 50), CLASSES[1], 0.5, 0.75),
            Detection(Box(0, 0, 10.126, 20), "cup", 0.25, 0.5, 0.5),
        ),
        tuple(CLASSES),
        proposed=4,
        rejected=2,
    ),
    Failure("b.jpg", "not an image"),
    ImageDetections("c.jpg", 30, 20, (), tuple(CLASSES)),
]


def test_a_row_tells_all_of_an_image():
    row = formats.detection_row(FOUND[0])
    assert row["counts"] == {"cup": 1, CLASSES[1]: 1}
    assert (row["width"], row["height"], row["proposed"], row["none_of_these"]) == (200, 100, 4, 2)
    assert row["boxes"][1] == {
        "label": "cup", "box": [0, 0, 10.13, 20], "confidence": 0.25, "probability": 0.5, "score": 0.25,
    }  # fmt: skip
    assert formats.detection_row(FOUND[1]) == {"path": "b.jpg", "error": "not an image"}


def test_a_table_has_a_row_for_each_box_and_failure():
    lines = formats.detections_to_csv(FOUND).splitlines()
    assert lines[0].replace('"', "") == ",".join(formats.BOX_COLUMNS)
    assert lines[2] == '"x/a b.jpg","cup",0.25,0.5,0.25,0,0,10.13,20,""'
    assert lines[3].endswith('"not an image"')
    assert len(lines) == 4


def test_cocos_own_api_reads_it():
    coco_api = pytest.importorskip("pycocotools.coco")
    data = formats.detections_to_coco([*FOUND, FOUND[0]], classes=CLASSES)
    assert len(data["images"]) == 2
    with redirect_stdout(io.StringIO()):
        coco = coco_api.COCO()
        coco.dataset = data
        coco.createIndex()
    (first, second) = coco.loadAnns(coco.getAnnIds(imgIds=1))
    assert (first["bbox"], first["category_id"], first["score"]) == ([20, 10, 40, 40], 2, 0.75)
    assert coco.loadCats(second["category_id"])[0]["name"] == "cup"


def test_coco_is_read_back_as_it_was_written(tmp_path):
    from fewshot.integrations import as_json

    (tmp_path / "a.json").write_text(as_json(formats.detections_to_coco(FOUND, classes=CLASSES)))
    read = read_boxes(tmp_path / "a.json")
    assert [one.box for one in read.images[0].boxes] == [Box(20, 10, 60, 50), Box(0, 0, 10.13, 20)]


def test_label_studio_gets_rectangles_in_percent():
    first, empty = formats.detections_to_label_studio(FOUND, prefix="/data/?d=", model_version="r")
    assert first["data"] == {"image": "/data/?d=x/a%20b.jpg"}
    (prediction,) = first["predictions"]
    result = prediction["result"][0]
    assert result["value"] == {
        "x": 10, "y": 10, "width": 20, "height": 40, "rotation": 0, "rectanglelabels": [CLASSES[1]],
    }  # fmt: skip
    assert (result["type"], result["original_width"], result["score"]) == ("rectanglelabels", 200, 0.75)
    assert prediction["score"] == 0.5
    assert empty["predictions"][0]["result"] == []


def test_the_labelling_configuration_names_what_the_tasks_do():
    (control,) = parse_config(formats.box_config(CLASSES))
    assert (control.name, control.to_name, control.kind, list(control.labels)) == (
        "label", "image", "rectanglelabels", CLASSES,
    )  # fmt: skip


def test_cvats_xml_holds_each_box():
    tree = ElementTree.fromstring(formats.detections_to_cvat(FOUND, classes=CLASSES))
    images = tree.findall("image")
    assert [image.get("name") for image in images] == ["x/a b.jpg", "c.jpg"]
    box = images[0].find("box")
    assert box.get("label") == CLASSES[1]
    assert [box.get(key) for key in ("xtl", "ytl", "xbr", "ybr")] == ["20.00", "10.00", "60.00", "50.00"]
    assert [name.text for name in tree.iter("name")] == CLASSES


def test_yolo_is_read_back_as_it_was_written(tmp_path):
    assert formats.write_yolo(FOUND, tmp_path, classes=CLASSES) == 2
    read = read_boxes(tmp_path / "labels")
    (image,) = [one for one in read.images if one.name == "a b"]
    first, second = read.in_pixels(image, 200, 100)
    assert (first.label, second.label) == (CLASSES[1], "cup")
    assert first.box.xyxy == pytest.approx((20, 10, 60, 50), abs=1e-3)
    assert (tmp_path / "labels" / "c.txt").read_text() == ""


def test_two_images_of_one_name_cannot_both_be_a_file_of_yolo(tmp_path):
    twice = [FOUND[2], ImageDetections("x/c.png", 1, 1, (), ())]
    with pytest.raises(ValueError, match=r"c\.jpg and x/c\.png would both be labels/c\.txt"):
        formats.write_yolo(twice, tmp_path, classes=CLASSES)
    assert list(tmp_path.iterdir()) == []
