"""Augmented views of images."""

from __future__ import annotations

import torch
from numpy.testing import assert_allclose, assert_array_equal
from tinted_data import pixels_of, tinted_images

from fewshot.finetuning.image_views import augmented, scaled


def tinted_pixels():
    return torch.from_numpy(pixels_of(tinted_images(3)[0])).permute(0, 3, 1, 2)


def test_a_view_of_a_grey_image_is_grey_and_of_another_seed_is_another():
    grey = torch.full((4, 3, 8, 8), 100, dtype=torch.uint8)
    views = augmented(grey, torch.Generator().manual_seed(0), flip=False)
    assert_allclose(views.std((1, 2, 3)), 0, atol=1e-6)
    assert len({round(float(view.mean()), 4) for view in views}) > 1  # brightness differs
    pixels = tinted_pixels()
    first, again, other = (augmented(pixels, torch.Generator().manual_seed(seed), flip=False) for seed in (1, 1, 2))
    assert_array_equal(first, again)
    assert (first - other).abs().mean() > 0.02
    assert first.min() >= 0
    assert first.max() <= 1


def test_a_view_without_augmentation_is_the_image_and_flipping_flips_about_half(monkeypatch):
    for name in ("_ROTATION", "_SCALE", "_SHEAR", "_TRANSLATION", "_CONTRAST", "_BRIGHTNESS"):
        monkeypatch.setattr(f"fewshot.finetuning.image_views.{name}", 0.0)
    pixels = tinted_pixels().repeat(10, 1, 1, 1)
    assert_allclose(augmented(pixels, torch.Generator().manual_seed(0), flip=False), scaled(pixels), atol=1e-3)
    both = augmented(pixels, torch.Generator().manual_seed(0), flip=True)
    flips = (both - scaled(pixels).flip(3)).abs().amax((1, 2, 3)) < 1e-3
    kept = (both - scaled(pixels)).abs().amax((1, 2, 3)) < 1e-3
    assert (flips ^ kept).all()
    assert 25 < int(flips.sum()) < 65
