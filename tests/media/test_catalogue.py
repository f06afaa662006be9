"""An object cut out of its plain background, and pasted on others."""

from __future__ import annotations

import io

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image, ImageDraw

from fewshot.errors import ImageError
from fewshot.media import catalogue_views

WHITE, BLUE, RED = (255, 255, 255), (20, 40, 230), (230, 30, 20)


def drawn(ground=WHITE, body=BLUE, box=(90, 60, 210, 240), inside=WHITE):
    """A catalogue picture: a box with a field of the ground's colour in it."""
    image = Image.new("RGB", (300, 300), ground)
    draw = ImageDraw.Draw(image)
    draw.rectangle(box, fill=body)
    draw.rectangle((130, 120, 170, 180), fill=inside)
    return image


def share(view, colour):
    """The share of a view's pixels whose hue is about this one, whatever the light."""
    pixels = np.asarray(view, np.float32) + 1
    wanted = np.asarray(colour, np.float32) + 1
    cosine = (pixels @ wanted) / np.linalg.norm(pixels, axis=2) / np.linalg.norm(wanted)
    return (cosine > 0.99).mean()


def test_each_view_shows_the_object_on_another_background():
    views = catalogue_views(drawn())
    assert len(views) == 6
    assert {(view.size, view.mode) for view in views} == {((256, 256), "RGB")}
    assert all(share(view, BLUE) > 0.05 for view in views)
    corners = {np.asarray(view)[0, 0].tobytes() for view in views}
    assert len(corners) == 6
    assert np.asarray(drawn())[0, 0].tobytes() not in corners
    # What has the background's colour inside the object is not cut out: each view shows a light field.
    assert all((np.asarray(view).min(axis=2) > 140).mean() > 0.005 for view in views)


def test_the_same_pixels_give_the_same_views_and_others_give_others():
    file = io.BytesIO()
    drawn().save(file, format="PNG")
    first, again = catalogue_views(drawn()), catalogue_views(file.getvalue())
    for one, other in zip(first, again, strict=True):
        assert_array_equal(np.asarray(one), np.asarray(other))
    assert np.asarray(first[0]).tobytes() != np.asarray(catalogue_views(drawn(body=RED))[0]).tobytes()


@pytest.mark.parametrize("ground", [WHITE, (0, 0, 0), (200, 210, 190)])
def test_the_background_may_have_any_colour_and_a_little_noise(ground):
    noise = np.random.default_rng(0).integers(-8, 9, (300, 300, 3))
    image = Image.fromarray((np.asarray(drawn(ground, inside=RED)) + noise).clip(0, 255).astype(np.uint8))
    assert all(share(view, BLUE) > 0.05 for view in catalogue_views(image))


def test_an_object_of_thin_lines_is_on_its_views():
    lines = Image.new("RGB", (300, 300), WHITE)
    for x in range(60, 240, 15):
        ImageDraw.Draw(lines).line((x, 50, x, 250), fill=RED, width=3)
    assert all(share(view, RED) > 0.02 for view in catalogue_views(lines))


def test_a_thin_object_and_a_tiny_picture_have_views():
    assert len(catalogue_views(drawn(box=(20, 140, 280, 150)))) == 6
    assert len(catalogue_views(drawn().resize((9, 9)))) == 6


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8), r"of its border has one colour, 90%"),
        (Image.new("RGB", (64, 64), WHITE), "differs from its background is 0.0% of it, 1% to 90% are needed"),
        (drawn(box=(5, 5, 294, 294), inside=BLUE), "differs from its background is 9[0-9.]+% of it"),
        (drawn(box=(-1, -1, 301, 150)), "of its border has one colour"),
    ],
    ids=["photograph", "nothing", "all", "cut off"],
)
def test_what_is_no_catalogue_picture_is_refused_with_the_reason(image, message):
    with pytest.raises(ImageError, match=f"no catalogue picture: .*{message}.* without augment|{message}"):
        catalogue_views(image)


def test_an_image_that_cannot_be_read_is_named():
    with pytest.raises(ImageError, match=r"gone\.png: no such file"):
        catalogue_views("gone.png")
