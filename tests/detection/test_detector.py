import io
import math

import numpy as np
import pytest
from box_examples import SQUARES, coco, picture
from fakes import BLUE, GREEN, RED, FakeEncoder, png
from PIL import Image

from fewshot import ClassRegistry, Detector, ImageError
from fewshot.detection import Box, Proposal
from fewshot.errors import NoClasses
from fewshot.registry import Failure

BOXES = [box.xyxy for _, _, box in SQUARES]


@pytest.fixture
def registry(tmp_path):
    with ClassRegistry(tmp_path / "r.fewshot", encoder=FakeEncoder(), classifier="prototype") as opened:
        for label, colour, _ in SQUARES:
            opened.add(label, png(colour))
        yield opened


class Scored:
    """Proposes boxes with scores."""

    def __init__(self, *rows):
        self.rows = rows

    def propose(self, image, name):
        return [Proposal(Box(*row[:4]), row[4]) for row in self.rows]


def test_each_box_gets_the_class_of_what_lies_in_it(registry):
    (found,) = Detector(registry, lambda image: BOXES, padding=0).detect(picture())
    assert {one.label: one.box.xyxy for one in found.detections} == {label: box.xyxy for label, _, box in SQUARES}
    assert found.counts == {"red": 1, "blue": 1, "green": 1}
    assert (found.width, found.height, found.proposed, found.unusable, found.rejected) == (100, 90, 3, 0, 0)


def test_an_answer_is_that_of_the_registry_for_the_crop(registry):
    (found,) = Detector(registry, lambda image: BOXES[:1], padding=0).detect(picture())
    (answer,) = registry.predict(picture().crop((10, 20, 30, 40)))
    (one,) = found.detections
    assert (one.label, one.score, one.probability) == (answer.label, answer.score, answer.probability)
    assert one.confidence == one.probability


def test_boxes_partly_outside_are_cut_off_and_those_of_nothing_are_counted(registry):
    boxes = [(-5, -5, 8, 8), (200, 0, 210, 9), (30, 30, 30, 50), (50, 40, 20, 10)]
    (found,) = Detector(registry, lambda image: boxes, padding=0).detect(picture())
    assert [(one.label, one.box.xyxy) for one in found.detections] == [("green", (0, 0, 8, 8))]
    assert (found.proposed, found.unusable) == (4, 3)


def test_of_boxes_that_overlap_the_most_confident_of_a_class_is_kept(registry):
    proposer = Scored((10, 20, 30, 40, 0.6), (10, 20, 30, 39, 0.9), (60, 50, 90, 80, 0.1))
    (found,) = Detector(registry, proposer, padding=0).detect(picture())
    assert [(one.label, one.box.bottom, one.proposal_score) for one in found.detections] == [
        ("red", 39, 0.9),
        ("blue", 80, 0.1),
    ]
    (both,) = Detector(registry, proposer, padding=0, max_overlap=1).detect(picture())
    assert len(both.detections) == 3


def test_across_classes_an_object_has_one_class(registry):
    half = np.full((40, 48, 3), RED, np.uint8)
    half[:, 24:] = BLUE
    boxes = Scored((0, 0, 40, 40, 0.9), (8, 0, 48, 40, 0.8))  # mostly red; mostly blue
    (apart,) = Detector(registry, boxes, padding=0).detect(half)
    (one,) = Detector(registry, boxes, padding=0, across_classes=True).detect(half)
    assert {found.label for found in apart.detections} == {"red", "blue"}
    assert [found.label for found in one.detections] == ["red"]


def test_a_box_of_none_of_the_classes_is_left_out(registry):
    registry.rejection.add_negatives([np.full((4, 4, 3), 255, np.uint8), np.full((4, 4, 3), 200, np.uint8)])
    registry.rejection.set(max_false_accept=0.5)
    boxes = [*BOXES, (40, 0, 60, 20)]
    (found,) = Detector(registry, lambda image: boxes, padding=0).detect(picture())
    assert (len(found.detections), found.rejected) == (3, 1)
    assert all(not math.isnan(one.unknown_score) for one in found.detections)
    (all_named,) = Detector(registry, lambda image: boxes, padding=0, max_false_accept=1).detect(picture())
    assert len(all_named.detections) == 4


def test_boxes_of_little_confidence_are_left_out(registry):
    proposer = Scored((*BOXES[0], 1.0), (*BOXES[1], 0.01))
    (found,) = Detector(registry, proposer, padding=0, min_confidence=0.1).detect(picture())
    assert ([one.label for one in found.detections], found.rejected) == (["red"], 1)


def test_the_padding_is_that_of_the_registered_crops(registry, tmp_path):
    assert Detector(registry).padding == 0.1
    with ClassRegistry(tmp_path / "new.fewshot", encoder=FakeEncoder()) as new:
        new.set_crop_padding(0.25)
        assert Detector(new).padding == 0.25
        assert Detector(new, padding=0).padding == 0


def test_thousands_of_boxes_are_recognised_a_few_at_a_time(registry):
    sizes = []
    encode = registry.encoder.encode

    def counted(images):
        sizes.append(len(images))
        return encode(images)

    registry.encoder.encode = counted
    boxes = [(x, y, x + 4, y + 4) for x in range(0, 90, 3) for y in range(0, 81, 3)] * 3
    (found,) = Detector(registry, lambda image: boxes, padding=0).detect(picture())
    assert found.proposed == sum(sizes) == 2430
    assert max(sizes) <= 64


def test_an_image_is_searched_upright(registry):
    turned = picture().transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise when shown
    out = io.BytesIO()
    turned.save(out, format="PNG", exif=exif)
    (found,) = Detector(registry, lambda image: BOXES, padding=0).detect(out.getvalue())
    assert ((found.width, found.height), found.counts) == ((100, 90), {"red": 1, "blue": 1, "green": 1})


def test_what_cannot_be_read_does_not_stop_the_others(registry, tmp_path):
    picture().save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no image")
    picture().save(tmp_path / "c.png")
    detector = Detector(registry, str(coco(tmp_path / "a.json")), padding=0)
    paths = [str(tmp_path / name) for name in ("a.png", "b.png", "c.png")]
    good, damaged, unnamed = detector.detect_valid(paths)
    assert sum(good.counts.values()) == 3
    assert damaged == Failure(paths[1], damaged.reason)
    assert "not an image" in damaged.reason
    assert "has no image of that name" in unnamed.reason
    with pytest.raises(ImageError, match=r"b\.png"):
        detector.detect(paths)


def test_an_empty_registry_and_wrong_numbers_are_refused(tmp_path):
    with ClassRegistry(tmp_path / "r.fewshot", encoder=FakeEncoder()) as registry:
        with pytest.raises(NoClasses, match=r"holds no classes yet.*--from-boxes"):
            Detector(registry).detect(picture())
        with pytest.raises(ValueError, match=r"max_overlap is a share in \[0, 1\], not 50"):
            Detector(registry, max_overlap=50)
        with pytest.raises(ValueError, match="padding is the share"):
            Detector(registry, padding=-1)


def test_a_registry_of_texts_is_refused(tmp_path):
    encoder = FakeEncoder()
    encoder.modality = "text"
    with ClassRegistry(tmp_path / "r.fewshot", encoder=encoder) as registry:
        with pytest.raises(ValueError, match="objects are found in images"):
            Detector(registry)


def test_an_image_without_boxes_has_no_detections(registry):
    (found,) = Detector(registry, lambda image: []).detect(np.full((20, 20, 3), GREEN, np.uint8))
    assert (found.detections, found.proposed) == ((), 0)


def test_a_class_that_has_a_description_only_is_counted_too(registry, monkeypatch):
    from fewshot.registry import Prediction

    monkeypatch.setattr(
        registry, "predict", lambda crops, **how: [Prediction("kiwi", 0.5, (("kiwi", 0.5),))] * len(crops)
    )
    (found,) = Detector(registry, lambda image: BOXES[:1]).detect(picture())
    assert found.counts == {"red": 0, "blue": 0, "green": 0, "kiwi": 1}
