import numpy as np
from box_examples import SQUARES, picture
from PIL import Image, ImageDraw

from fewshot.detection import RegionProposer


def near(found, box, within=1.0):
    return any(np.abs(np.subtract(one.box.xyxy, box)).max() <= within for one in found)


def test_what_stands_out_is_boxed():
    found = RegionProposer().propose(picture(), "a.png")
    assert all(near(found, box.xyxy) for _, _, box in SQUARES)
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    assert found[0].score == 1


def test_discs_that_touch_are_parted():
    image = Image.new("L", (200, 120), 255)
    pen = ImageDraw.Draw(image)
    for left in (20, 76):  # of 60 pixels, so that they share a few
        pen.ellipse((left, 30, left + 60, 90), fill=40)
    found = RegionProposer().propose(image.convert("RGB"), "a.png")
    assert near(found, (20, 30, 136, 90), 2)
    assert near(found, (20, 30, 80, 90), 4)
    assert near(found, (76, 30, 136, 90), 4)


def test_a_large_image_is_boxed_in_its_own_pixels():
    image = picture().resize((2000, 1800), Image.Resampling.NEAREST)
    found = RegionProposer().propose(image, "a.png")
    assert near(found, (200, 400, 600, 800), 10)


def test_an_even_image_has_no_boxes():
    assert RegionProposer().propose(Image.new("RGB", (50, 40), "grey"), "a.png") == []


def test_noise_gives_at_most_so_many_boxes():
    noise = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    assert len(RegionProposer(most=7).propose(Image.fromarray(noise), "a.png")) == 7
