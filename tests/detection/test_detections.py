import sys
from types import SimpleNamespace

import numpy as np
import pytest

from fewshot.detection import Box, Detection, ImageDetections
from fewshot.errors import MissingExtra

FOUND = ImageDetections(
    "a.jpg",
    40,
    30,
    (Detection(Box(1, 2, 3, 4), "pen", 0.5, 0.75, 0.5), Detection(Box(5, 6, 7, 8), "cup", 0.25)),
    ("cup", "pen"),
)


def test_the_confidence_is_the_probability_times_the_proposers_score_or_the_closeness():
    assert [one.confidence for one in FOUND.detections] == [0.375, 0.25]


def test_supervision_gets_boxes_with_ids_and_names(monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", SimpleNamespace(Detections=lambda **given: given))
    given = FOUND.to_supervision()
    assert given["xyxy"].tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert given["class_id"].tolist() == [1, 0]
    assert given["confidence"].tolist() == [0.375, 0.25]
    assert given["data"]["class_name"].tolist() == ["pen", "cup"]
    assert ImageDetections("b", 1, 1, (), ()).to_supervision()["xyxy"].shape == (0, 4)


def test_without_supervision_its_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(MissingExtra, match="pip install supervision"):
        FOUND.to_supervision()


def test_supervision_itself_takes_them():
    pytest.importorskip("supervision", reason="needs supervision")
    found = FOUND.to_supervision()
    assert len(found) == 2
    assert np.allclose(found.area, [4, 4])
