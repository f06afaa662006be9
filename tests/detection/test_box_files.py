import json

import pytest
from box_examples import SQUARES, coco, voc, yolo

from fewshot.detection import read_boxes

CORNERS = {label: box.xyxy for label, _, box in SQUARES}


def corners(read, size=(100, 90)):
    (image,) = read.images
    return {one.label: pytest.approx(one.box.xyxy) for one in read.in_pixels(image, *size)}


def test_the_three_formats_say_the_same_of_the_same_boxes(tmp_path):
    (tmp_path / "voc").mkdir()
    for place in (coco(tmp_path / "a.json"), voc(tmp_path / "voc" / "a.xml").parent, yolo(tmp_path / "labels")):
        assert corners(read_boxes(place)) == CORNERS
        assert read_boxes(place).counts == {"blue": 1, "green": 1, "red": 1}


def test_one_voc_file_is_read_as_a_folder_of_it(tmp_path):
    assert corners(read_boxes(voc(tmp_path / "a.xml"))) == CORNERS


def test_crowds_and_difficult_objects_are_marked(tmp_path):
    (image,) = read_boxes(coco(tmp_path / "a.json", iscrowd=1)).images
    assert all(one.crowd for one in image.boxes)
    (image,) = read_boxes(voc(tmp_path / "a.xml", difficult=1)).images
    assert all(one.difficult for one in image.boxes)


def test_an_outline_of_yolo_becomes_the_box_around_it(tmp_path):
    place = yolo(tmp_path / "labels")
    (place / "a.txt").write_text("1 0.6 0.5 0.9 0.6 0.7 0.8\n")
    assert corners(read_boxes(place), (100, 100)) == {"blue": (60, 50, 90, 80)}


def test_a_confidence_of_yolo_is_not_a_coordinate(tmp_path):
    place = yolo(tmp_path / "labels")
    (place / "a.txt").write_text("0 0.2 0.3 0.2 0.2 0.875\n")
    assert corners(read_boxes(place), (100, 100)) == {"red": (10, 20, 30, 40)}


@pytest.mark.parametrize(
    ("name", "text", "label"),
    [
        ("classes.txt", "cat\ndog\n", "dog"),
        ("obj.names", "cat\ndog", "dog"),
        ("data.yaml", "names:\n  0: cat\n  1: dog\n", "dog"),
        ("data.yaml", "names: [cat, 7]\n", "7"),
    ],
)
def test_yolo_classes_are_named_by_the_files_that_tools_write(tmp_path, name, text, label):
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("1 0.5 0.5 0.1 0.1\n")
    (tmp_path / name).write_text(text)
    assert list(read_boxes(tmp_path / "labels").counts) == [label]


def test_an_image_that_coco_lists_twice_is_one_with_all_boxes(tmp_path):
    data = json.loads(coco(tmp_path / "a.json").read_text())
    data["images"].append({**data["images"][0], "id": 6})
    data["annotations"][0]["image_id"] = 6
    (tmp_path / "a.json").write_text(json.dumps(data))
    read = read_boxes(tmp_path / "a.json")
    assert (len(read.images), len(read.images[0].boxes), read.repeated) == (1, 3, ("a.png",))


def changed(path, **changes):
    """A COCO file whose first annotation has other values."""
    data = json.loads(coco(path).read_text())
    data["annotations"][0].update(changes)
    path.write_text(json.dumps(data))
    return path


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"category_id": 4}, "annotation 0: its category_id 4 is none of the file's"),
        ({"image_id": [5]}, r"annotation 0: its image_id \[5\] is none of the file's"),
        ({"bbox": [1, 2, 3]}, r"annotation 0: a box is 4 finite numbers, not \[1, 2, 3\]"),
        ({"bbox": None}, "annotation 0: a box is 4 finite numbers, not None"),
        ({"bbox": [1, 2, 3, float("nan")]}, "a box is 4 finite numbers"),
    ],
)
def test_a_damaged_annotation_of_coco_is_named(tmp_path, changes, reason):
    with pytest.raises(ValueError, match=reason):
        read_boxes(changed(tmp_path / "a.json", **changes))


def test_shares_in_place_of_pixels_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no box reaches beyond 1 pixel.*COCO's boxes are in pixels"):
        read_boxes(coco(tmp_path / "a.json", [("red", 0.1, 0.2, 0.3, 0.4)]))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("0 50 40 20 20", "a.txt, line 1: YOLO's boxes are in shares of the image, and 50 is pixels"),
        ("9 0.5 0.5 0.1 0.1", r"a.txt, line 1: class 9 has no name; the classes are \[0, 1, 2\]"),
        ("0 0.5 0.5", "a.txt, line 1: 3 numbers are neither class, centre and size nor class and an outline"),
        ("0 0.5 half 0.1 0.1", "a.txt, line 1: a box is 4 finite numbers"),
    ],
)
def test_a_damaged_line_of_yolo_is_named(tmp_path, line, reason):
    place = yolo(tmp_path / "labels")
    (place / "a.txt").write_text(line)
    with pytest.raises(ValueError, match=reason):
        read_boxes(place)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<annotation>", "a.xml is not XML"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><annotation/>', "declares a document type or entities"),
        ("<a><object><name>x</name></object></a>", "a.xml, object 1: a box is 4 finite numbers"),
        ("<a><object><bndbox/></object></a>", "a.xml, object 1: it has no name"),
    ],
)
def test_a_damaged_file_of_voc_is_named(tmp_path, text, reason):
    (tmp_path / "a.xml").write_text(text)
    with pytest.raises(ValueError, match=reason):
        read_boxes(tmp_path)


@pytest.mark.parametrize(
    ("text", "reason"),
    [("[]", "is no COCO data set"), ("{", "is not JSON"), ('{"images": [{}], "annotations": []}', "lacks")],
)
def test_another_json_file_is_refused(tmp_path, text, reason):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=reason):
        read_boxes(tmp_path / "a.json")


def test_a_place_without_boxes_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no boxes"):
        read_boxes(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such file or folder of boxes"):
        read_boxes(tmp_path / "none.json")
    yolo(tmp_path)
    voc(tmp_path / "a.xml")
    with pytest.raises(ValueError, match="holds both"):
        read_boxes(tmp_path)
    with pytest.raises(ValueError, match="is no file of boxes"):
        read_boxes(tmp_path / "a.txt")


def test_yolo_labels_without_names_are_refused(tmp_path):
    (tmp_path / "deep").mkdir()
    (yolo(tmp_path / "deep" / "er") / "data.yaml").unlink()
    with pytest.raises(ValueError, match=r"nothing names them: put data.yaml"):
        read_boxes(tmp_path / "deep" / "er")


@pytest.mark.parametrize(
    ("size", "words"), [((90, 100), "when upright: they are of the image without its EXIF"), ((50, 45), "is 50 x 45")]
)
def test_boxes_of_an_image_of_another_size_are_refused(tmp_path, size, words):
    read = read_boxes(coco(tmp_path / "a.json"))
    with pytest.raises(ValueError, match=rf"boxes for an image of 100 x 90 pixels.*{words}"):
        read.in_pixels(read.images[0], *size)
