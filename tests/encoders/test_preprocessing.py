"""JPEGs are decoded no larger than the network needs, and everything else whole."""

from __future__ import annotations

import io
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from timm import get_pretrained_cfg
from timm.data import create_transform, resolve_model_data_config
from torchvision.transforms import CenterCrop

import fewshot.encoders.architectures.registration  # noqa: F401
from fewshot import ImageError, open_image
from fewshot.encoders.preprocessing import data_config, preparation
from fewshot.media import ImagePreparation

CONFIG = {"input_size": (3, 64, 64), "interpolation": "bicubic", "mean": (0.5,) * 3, "std": (0.5,) * 3}


def photo(width: int, height: int, kind: str = "JPEG", **options: object) -> bytes:
    rows, columns = np.mgrid[:height, :width]
    waves = np.stack([np.sin(rows / 40), np.cos(columns / 60), np.sin((rows + columns) / 50)], axis=-1)
    out = io.BytesIO()
    Image.fromarray((127.5 + 127 * waves).astype(np.uint8)).save(out, kind, **options)
    return out.getvalue()


@pytest.mark.parametrize(
    ("at_least", "size"),
    [(None, (800, 600)), (601, (800, 600)), (301, (800, 600)), (300, (400, 300)), (150, (200, 150)), (10, (100, 75))],
)
def test_a_jpeg_comes_at_the_smallest_eighth_that_suffices(at_least, size):
    assert open_image(photo(800, 600), at_least=at_least).size == size


def test_other_formats_and_opened_images_come_whole():
    assert open_image(photo(800, 600, "PNG"), at_least=10).size == (800, 600)
    opened = Image.open(io.BytesIO(photo(800, 600)))
    assert open_image(opened, at_least=10).size == (800, 600)


def test_a_reduced_jpeg_is_turned_upright_too():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright
    assert open_image(photo(800, 600, exif=exif), at_least=150).size == (150, 200)


def test_the_limit_of_pixels_is_on_the_file_not_on_what_is_left_of_it():
    with pytest.raises(ImageError, match="800 x 600 is over the limit of 100,000 pixels"):
        open_image(photo(800, 600), at_least=10, max_pixels=100_000)


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
def test_a_large_jpeg_becomes_nearly_the_pixels_of_the_whole_picture(mode):
    prepare = preparation({**CONFIG, "crop_mode": mode, "crop_pct": 0.9})
    file = photo(1600, 1200, quality=95)
    reduced, whole = prepare(file).astype(int), prepare(open_image(file)).astype(int)
    assert not np.array_equal(reduced, whole)  # else nothing was reduced
    assert np.abs(reduced - whole).mean() < 1.0


def test_a_jpeg_less_than_four_times_too_large_is_decoded_whole():
    prepare = preparation({**CONFIG, "crop_pct": 1.0})
    file = photo(330, 250)
    assert np.array_equal(prepare(file), prepare(open_image(file)))


@pytest.mark.parametrize("size", [(1, 20_000), (20_000, 1), (3, 20_001), (20_000, 3)])
def test_a_strip_is_cropped_to_its_centre_before_it_is_resized(size, monkeypatch):
    largest = []
    resize = Image.Image.resize

    def watched(image, size, *args, **kwargs):
        largest.append(size[0] * size[1])
        return resize(image, size, *args, **kwargs)

    monkeypatch.setattr(Image.Image, "resize", watched)
    strip = np.zeros((size[1], size[0], 3), np.uint8)
    axis = int(size[0] > size[1])
    middle = [slice(None), slice(None)]
    middle[axis] = slice(max(size) // 2 - 200, max(size) // 2 + 200)
    strip[tuple(middle)] = 200
    for config in ({**CONFIG, "crop_mode": mode, "crop_pct": 0.9} for mode in ("center", "squash")):
        found = preparation(config)(strip)
        assert found.shape == (64, 64, 3)
        if config["crop_mode"] == "center":
            assert found.min() == found.max() == 200
    assert max(largest) < 64 * 64 * 25


def test_a_strip_of_ordinary_ratio_is_resized_whole():
    strip = np.random.default_rng(0).integers(0, 256, (100, 1500, 3), dtype=np.uint8)
    resize, crop, *_ = create_transform(**CONFIG, crop_pct=0.9).transforms
    whole = np.asarray(crop(resize(open_image(strip))))
    assert np.array_equal(preparation({**CONFIG, "crop_pct": 0.9})(strip), whole)


def test_what_cannot_be_resized_is_an_image_error_with_both_sides():
    with pytest.raises(ImageError, match="its 1 x 20000 pixels cannot be resized"):
        preparation({**CONFIG, "crop_mode": "border", "crop_pct": 0.9})(np.zeros((20_000, 1, 3), np.uint8))


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224", "mobilenetv2_100", "fewshot_conv4"])
@pytest.mark.parametrize("lacking", [None, "crop_pct", "interpolation", "mean"])
def test_a_configuration_is_read_as_timm_reads_it(name, lacking):
    network = SimpleNamespace(pretrained_cfg=get_pretrained_cfg(name).to_dict())
    if lacking:
        network.pretrained_cfg[lacking] = None
    assert data_config(network) == resolve_model_data_config(network)


@pytest.mark.parametrize("mode", ["center", "squash"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
@pytest.mark.parametrize("size", [(64, 64), (71, 200), (201, 72), (30, 41), (64, 91), (500, 333)])
def test_described_steps_make_the_pixels_of_timms_own(mode, interpolation, size):
    config = {**CONFIG, "crop_mode": mode, "crop_pct": 0.9, "interpolation": interpolation}
    image = open_image(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8))
    resize, crop, *_ = create_transform(**config).transforms
    assert isinstance(preparation(config), ImagePreparation)
    assert np.array_equal(preparation(config)(image), np.asarray(crop(resize(image))))


@pytest.mark.parametrize("crop", [(64, 64), (65, 33), (20, 31)])
def test_what_a_crop_lacks_is_black_as_torchvision_has_it(crop):
    image = open_image(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8))
    assert np.array_equal(ImagePreparation(40, crop, "bilinear")(image), np.asarray(CenterCrop(crop)(image)))
