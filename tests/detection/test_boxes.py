import numpy as np
import pytest
from PIL import Image

from fewshot.detection import Box, crop_box
from fewshot.detection.boxes import check_padding, crop_name, padded_square


def test_a_crop_without_padding_of_a_square_box_is_the_box():
    image = Image.fromarray(np.arange(100, dtype=np.uint8).reshape(10, 10))
    assert np.asarray(crop_box(image, Box(2, 3, 5, 6), 0)).tolist() == [[32, 33, 34], [42, 43, 44], [52, 53, 54]]


@pytest.mark.parametrize(
    ("box", "padding", "square"),
    [
        (Box(40, 40, 60, 60), 0.1, (38, 38, 62, 62)),
        (Box(40, 45, 60, 55), 0, (40, 40, 60, 60)),  # the longer side is that of the square
        (Box(0, 45, 20, 55), 0.5, (0, 30, 40, 70)),  # moved inside
        (Box(80, 85, 100, 95), 0.5, (60, 60, 100, 100)),
        (Box(0, 40, 100, 60), 0.5, (0, 0, 100, 100)),  # cut off
        (Box(-10, 40, 10, 50), 0, (0, 40, 10, 50)),  # the part inside counts
    ],
)
def test_a_crop_is_a_square_around_the_box_inside_the_image(box, padding, square):
    assert padded_square(box, 100, 100, padding) == square


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        (Box(5, 5, 5, 9), "a box of 0 x 4 pixels is empty"),
        (Box(9, 5, 5, 9), "a box of -4 x 4 pixels is empty"),
        (Box(20, 0, 30, 9), "it lies outside the image of 10 x 10 pixels"),
        (Box(-5, -5, 0, 9), "it lies outside the image"),
        (Box(9, 0, 30, 9), "1 x 9 pixels of it lie in the image, too few"),
    ],
)
def test_a_box_of_nothing_is_refused_in_words(box, reason):
    with pytest.raises(ValueError, match=reason):
        crop_box(Image.new("RGB", (10, 10)), box)


def test_a_box_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="a box's top is a finite number of pixels, not nan"):
        Box(0, float("nan"), 1, 1)


def test_a_large_crop_is_scaled_down():
    assert crop_box(Image.new("RGB", (3000, 2000)), Box(0, 0, 2000, 2000), 0).size == (1024, 1024)


def test_boxes_that_share_an_edge_do_not_overlap():
    assert not Box(0, 0, 5, 5).overlaps(Box(5, 0, 9, 5))
    assert Box(0, 0, 5, 5).overlaps(Box(4, 4, 9, 9))


def test_a_crop_is_named_by_its_file_and_its_pixels():
    assert crop_name("a/b.jpg", Box(10, 20.5, 40, 60.256)) == "a/b.jpg#xywh=10,20.5,30,39.76"


@pytest.mark.parametrize("padding", [-0.1, 2.5, float("nan")])
def test_a_padding_out_of_range_is_refused(padding):
    with pytest.raises(ValueError, match="padding is the share of a box's longer side"):
        check_padding(padding)
