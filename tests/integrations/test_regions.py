"""Regions and brush masks cut out of an image of 8 x 4: red on the left half, blue on the right."""

from __future__ import annotations

import numpy as np
import pytest
from label_studio_fakes import boxed
from PIL import Image

from fewshot.integrations.label_studio.regions import brush_mask, crop_region


@pytest.fixture
def halves():
    image = Image.new("RGB", (8, 4), (255, 0, 0))
    image.paste((0, 0, 255), (4, 0, 8, 4))
    return image


def colours(image):
    return {colour for _, colour in image.getcolors()}


def test_a_rectangle_is_cut_out_by_percent(halves):
    cut = crop_region(halves, boxed("Red", 50, 25, 25, 50))
    assert (cut.size, colours(cut)) == ((2, 2), {(0, 0, 255)})
    assert crop_region(halves, boxed("Red", 0, 0, 100, 100)).tobytes() == halves.tobytes()


def test_what_stands_out_over_the_edge_is_left_out(halves):
    assert crop_region(halves, boxed("Red", -50, -50, 75, 100)).size == (2, 2)


def test_a_rotated_rectangle_is_turned_upright_about_its_corner():
    # Clockwise by 90 degrees about (4, 0): a box 2 wide and 4 high then lies over x 0..4, y 0..2.
    image = Image.new("RGB", (8, 8), (0, 0, 0))
    image.paste((255, 0, 0), (0, 0, 4, 1))  # its right column, once turned upright is its left
    image.paste((0, 255, 0), (0, 1, 4, 2))
    result = boxed("Red", 50, 0, 25, 50)
    result["value"]["rotation"] = 90
    cut = crop_region(image, result)
    assert cut.size == (2, 4)
    assert np.abs(np.asarray(cut, int) - [(255, 0, 0), (0, 255, 0)]).max() <= 1


def test_coordinates_are_those_of_the_picture_as_the_annotator_had_turned_it(halves):
    # Turned clockwise by 90 degrees it is 4 x 8, red above blue.
    cut = crop_region(halves, boxed("Red", 0, 0, 100, 50, image_rotation=90))
    assert (cut.size, colours(cut)) == ((4, 4), {(255, 0, 0)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 0}, "is empty"),
        ({"width": 1e308}, "width must be a number up to a million"),
        ({"x": 120}, "lies outside the picture of 8 x 4 pixels"),
        ({"x": None}, "x must be a number up to a million, not None"),
        ({"y": float("nan")}, "y must be a number up to a million, not nan"),
        ({"height": True}, "height must be a number up to a million, not True"),
        ({"width": 1e5, "rotation": 1}, "larger than its picture"),
        ({"rle": "x"}, "must be a list of bytes, not str"),
        ({"rle": [256]}, "whole numbers from 0 to 255"),
        ({"rle": [0, 0, 0]}, "ends in the middle"),
        ({"rle": [0, 0, 0, 9]}, "a brush stroke of 9 values does not fit its picture of 8 x 4 pixels"),
    ],
)
def test_a_region_that_is_none_says_why(halves, change, message):
    result = boxed("Red", 0, 0, 50, 50)
    result["value"] |= change
    with pytest.raises(ValueError, match=message):
        crop_region(halves, result)


def encoded(values, *, size=8, lengths=(3, 4, 8, 16)):
    """Encode a brush stroke by hand, as ``brush_mask`` describes it: runs of three or more values as repeated."""
    bits = f"{len(values):032b}{size - 1:05b}" + "".join(f"{length - 1:04b}" for length in lengths)
    at = 0
    while at < len(values):
        run = next((n for n in range(at, len(values)) if values[n] != values[at]), len(values)) - at
        count = run if run >= 3 else 1
        which = next(n for n, length in enumerate(lengths) if count <= 2**length)
        bits += f"{int(run >= 3)}{which:02b}{count - 1:0{lengths[which]}b}{values[at]:0{size}b}"
        at += count
    bits += "0" * (-len(bits) % 8)
    return [int(bits[n : n + 8], 2) for n in range(0, len(bits), 8)]


@pytest.mark.parametrize("seed", range(3))
def test_a_brush_stroke_is_decoded_to_the_mask_it_was_made_of(seed):
    mask = np.random.default_rng(seed).random((7, 5)) < 0.3
    rgba = np.repeat(mask.astype(np.uint8) * 255, 4)
    assert (brush_mask(encoded(rgba.tolist()), 5, 7) == mask).all()


def test_only_the_fourth_channel_is_the_mask():
    values = [255, 255, 255, 0, 0, 0, 0, 1]
    assert brush_mask(encoded(values), 2, 1).tolist() == [[False, True]]


# What Label Studio's own converter (label-studio-sdk 2.1.2, brush.mask2rle) makes of a 6 x 3 mask with the pixels
# (row, column) (0, 1), (1, 1), (1, 2) and (2, 5) set.
CONVERTED = [0, 0, 0, 72, 57, 27, 252, 96, 17, 255, 225, 48, 9, 255, 240, 248, 4, 127, 224]


def test_a_stroke_of_label_studios_own_converter_is_decoded():
    assert np.argwhere(brush_mask(CONVERTED, 6, 3)).tolist() == [[0, 1], [1, 1], [1, 2], [2, 5]]


def test_a_stroke_is_cut_out_by_the_box_around_it(halves):
    mask = np.zeros((4, 8), np.uint8)
    mask[1, 5] = mask[2, 6] = 255
    stroke = {
        "original_width": 8,
        "original_height": 4,
        "value": {"format": "rle", "rle": encoded(np.repeat(mask, 4).tolist())},
    }
    cut = crop_region(halves, stroke)
    assert (cut.size, colours(cut)) == ((2, 2), {(0, 0, 255)})
    twice = crop_region(halves.resize((16, 8)), stroke)
    assert twice.size == (4, 4)


def test_a_stroke_of_nothing_or_too_much_is_refused(halves):
    stroke = {"original_width": 8, "original_height": 4, "value": {"rle": encoded([0] * 128)}}
    with pytest.raises(ValueError, match="the brush stroke is empty"):
        crop_region(halves, stroke)
    with pytest.raises(ValueError, match="over the limit of 4,194,304 bytes and 33,554,432 pixels"):
        crop_region(halves, stroke | {"original_width": 10**6, "original_height": 10**6})
