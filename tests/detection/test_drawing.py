import numpy as np
import pytest
from PIL import Image

from fewshot.detection import Box, Detection, ImageDetections, draw_detections

FOUND = ImageDetections("a.jpg", 200, 100, (Detection(Box(50, 40, 150, 90), "cup", 0.5),), ("cup",))


def test_a_box_is_drawn_on_a_copy():
    image = Image.new("RGB", (200, 100), "white")
    drawn = np.asarray(draw_detections(image, FOUND))
    assert drawn[40, 100].tolist() == drawn[89, 100].tolist() == drawn[60, 50].tolist() == drawn[60, 149].tolist()
    assert drawn[60, 100].tolist() == [255, 255, 255]
    assert drawn[40, 100].tolist() != [255, 255, 255]
    assert np.asarray(image).min() == 255


def test_a_box_at_the_corner_is_drawn_inside():
    at_corner = ImageDetections("a.jpg", 60, 50, (Detection(Box(55, 0, 60, 5), "a long name", 0.5),), ("a long name",))
    assert draw_detections(Image.new("RGB", (60, 50)), at_corner).size == (60, 50)


def test_another_image_is_refused():
    with pytest.raises(ValueError, match=r"a\.jpg was 200 x 100 pixels, this is 100 x 200"):
        draw_detections(Image.new("RGB", (100, 200)), FOUND)
