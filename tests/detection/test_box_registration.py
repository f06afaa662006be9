import json
import zipfile

import numpy as np
import pytest
from box_examples import SQUARES, coco, picture, voc, yolo
from fakes import FakeEncoder
from PIL import Image

from fewshot import ClassRegistry
from fewshot.detection import Box, add_boxes, background_boxes


@pytest.fixture
def images(tmp_path):
    (tmp_path / "images" / "sub").mkdir(parents=True)
    picture().save(tmp_path / "images" / "sub" / "a.png")
    return tmp_path / "images"


@pytest.fixture
def registry(tmp_path):
    with ClassRegistry(tmp_path / "r.fewshot", encoder=FakeEncoder()) as opened:
        yield opened


@pytest.mark.parametrize("kind", ["coco", "voc", "yolo"])
def test_each_box_becomes_an_example_that_says_which_it_is(kind, registry, images, tmp_path):
    place = {"coco": coco, "voc": voc, "yolo": yolo}[kind](tmp_path / {"coco": "a.json", "voc": "a.xml"}.get(kind, "l"))
    report = add_boxes(registry, place, images, padding=0)
    assert (report.examples.added, report.images, report.padding) == (3, 1, 0)
    assert registry.classes() == {"red": 1, "blue": 1, "green": 1}
    assert [source for _, source in registry.examples("red")] == [f"{images}/sub/a.png#xywh=10,20,20,20"]
    assert registry.crop_padding == 0
    assert registry.predict(np.full((9, 9, 3), (0, 0, 255), np.uint8))[0].label == "blue"


def test_adding_twice_is_a_duplicate(registry, images, tmp_path):
    place = coco(tmp_path / "a.json")
    for added, duplicates in ((3, 0), (0, 3)):
        report = add_boxes(registry, place, images, negatives=4)
        assert (report.examples.added, report.examples.duplicates) == (added, duplicates)
    assert report.negatives.added == 0


def test_the_same_box_of_two_classes_is_a_conflict(registry, images, tmp_path):
    place = coco(tmp_path / "a.json", [("red", 10, 20, 20, 20), ("blue", 10, 20, 20, 20)])
    report = add_boxes(registry, place, images)
    (conflict,) = report.examples.conflicts
    assert (report.examples.added, conflict.label, conflict.held_by) == (1, "blue", ("red",))


def test_boxes_of_nothing_are_listed_and_the_others_added(registry, images, tmp_path):
    boxes = [("red", 10, 20, 0, 20), ("red", 300, 0, 9, 9), ("red", -5, 20, 35, 20), ("red", 10, 20, -3, 5)]
    report = add_boxes(registry, coco(tmp_path / "a.json", boxes), images)
    assert report.examples.added == 1
    assert [one.source.rpartition("#")[2] for one in report.examples.failed] == [
        "xywh=10,20,0,20", "xywh=300,0,9,9", "xywh=10,20,-3,5",
    ]  # fmt: skip
    assert "is empty" in report.examples.failed[0].reason
    assert "outside the image of 100 x 90" in report.examples.failed[1].reason


@pytest.mark.parametrize(("make", "word"), [("coco", "a crowd"), ("voc", "difficult")])
def test_crowds_and_difficult_objects_are_left_out_and_named(make, word, registry, images, tmp_path):
    place = coco(tmp_path / "a.json", iscrowd=1) if make == "coco" else voc(tmp_path / "a.xml", difficult=1)
    report = add_boxes(registry, place, images)
    assert (report.examples.added, len(report.examples.ignored)) == (0, 3)
    assert report.examples.ignored[0] == f"{images}/sub/a.png#xywh=10,20,20,20 ({word})"


def test_images_that_are_missing_ambiguous_or_damaged_are_listed(registry, images, tmp_path):
    data = json.loads(coco(tmp_path / "a.json").read_text())
    for number, name in enumerate(("gone.png", "twice.png", "damaged.png"), start=6):
        data["images"].append({"id": number, "file_name": name})
        data["annotations"].append({"image_id": number, "category_id": 3, "bbox": [1, 2, 3, 4]})
    (tmp_path / "a.json").write_text(json.dumps(data))
    for name in ("twice.png", "sub/twice.png"):
        picture().save(images / name)
    (images / "damaged.png").write_bytes(b"\x89PNG no more")
    report = add_boxes(registry, tmp_path / "a.json", images)
    assert report.examples.added == 3
    reasons = {one.source: one.reason for one in report.examples.failed}
    assert reasons["gone.png"] == "there is no such image (its boxes: 1)"
    assert "may be any of" in reasons["twice.png"]
    assert reasons["damaged.png"].endswith("(its boxes: 1)")


def test_an_image_of_another_size_than_annotated_is_listed(registry, images, tmp_path):
    report = add_boxes(registry, voc(tmp_path / "a.xml", size=(90, 100)), images)
    (failure,) = report.examples.failed
    assert "boxes for an image of 90 x 100 pixels, but this one is 100 x 90 when upright" in failure.reason


def test_images_may_lie_in_a_zip(registry, images, tmp_path):
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        archive.write(images / "sub" / "a.png", "deep/a.png")
    report = add_boxes(registry, coco(tmp_path / "a.json"), tmp_path / "images.zip")
    assert report.examples.added == 3
    assert registry.examples("red")[0][1] == f"{tmp_path}/images.zip/deep/a.png#xywh=10,20,20,20"


def test_the_background_is_registered_as_none_of_the_classes(registry, images, tmp_path):
    report = add_boxes(registry, coco(tmp_path / "a.json"), images, padding=0, negatives=6, random_state=3)
    assert report.negatives.added + report.negatives.duplicates == 6
    assert registry.rejection.n_negatives == report.negatives.added
    (answer,) = registry.predict(np.full((5, 5, 3), 255, np.uint8), max_false_accept=0.5)
    assert answer.label is None


def test_a_full_image_has_no_background(registry, images, tmp_path):
    report = add_boxes(registry, coco(tmp_path / "a.json", [("red", 0, 0, 100, 90)]), images, negatives=5)
    assert (report.examples.added, report.negatives.added) == (1, 0)


def test_boxes_of_the_background_overlap_nothing():
    rng = np.random.default_rng(0)
    objects = [Box(100, 100, 300, 300), Box(0, 0, 50, 400)]
    found = background_boxes(rng, objects, [(40, 30), (80, 80)], (400, 400), count=12, padding=0.1)
    assert len(found) == 12
    for n, box in enumerate(found):
        assert box == box.clipped(400, 400)
        assert not any(box.overlaps(other) for other in (*objects, *found[:n]))


def test_another_padding_is_refused(registry, images, tmp_path):
    place = coco(tmp_path / "a.json")
    add_boxes(registry, place, images, padding=0.2)
    with pytest.raises(ValueError, match=r"holds crops with a padding of 0\.2, not 0\.3.*Leave the padding out"):
        add_boxes(registry, place, images, padding=0.3)
    assert add_boxes(registry, place, images).padding == 0.2


def test_a_registry_that_keeps_paths_only_is_refused(images, tmp_path):
    with ClassRegistry(tmp_path / "paths.fewshot", encoder=FakeEncoder(), keep_images=False) as registry:
        with pytest.raises(ValueError, match=r"keeps the paths of its images only.*make a registry that keeps"):
            add_boxes(registry, coco(tmp_path / "a.json"), images)


def test_a_reindex_and_a_repair_keep_the_crops_and_their_padding(registry, images, tmp_path):
    add_boxes(registry, coco(tmp_path / "a.json"), images, padding=0.2)
    assert registry.reindex(FakeEncoder(times=2.0)) == len(SQUARES)
    assert registry.crop_padding == 0.2


def test_one_image_at_a_time_is_in_memory(registry, images, tmp_path, monkeypatch):
    from fewshot.detection import box_registration

    opened = []
    real = box_registration.open_image
    monkeypatch.setattr(box_registration, "open_image", lambda source: opened.append(source) or real(source))
    add_boxes(registry, coco(tmp_path / "a.json", [("red", 10, 20, 20, 20)] * 300), images)
    assert len(opened) == 1
    assert isinstance(real(opened[0]), Image.Image)
