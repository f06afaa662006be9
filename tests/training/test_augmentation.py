"""Augmentation: sizes, turns and the generator."""

from __future__ import annotations

import pytest
import torch
from numpy.testing import assert_allclose
from training_data import pictures, training_set

from fewshot.training.augmentation import Augment, resized


@pytest.mark.parametrize(("kind", "channels"), [("photos", 3), ("glyphs", 1), ("none", 3)])
def test_altered_pictures_have_the_size_asked_for_and_repeat_from_their_generator(kind, channels):
    pixels = pictures((20,), side=16, channels=channels).pixels
    turns = torch.zeros(20, dtype=torch.int64)
    made = [Augment(torch.Generator().manual_seed(seed))(kind, pixels, turns, 12) for seed in (3, 3, 4)]
    assert made[0].shape == (20, 3, 12, 12)
    assert 0.0 <= made[0].min()
    assert made[0].max() <= 1.0
    assert torch.equal(made[0], made[1])
    assert torch.equal(made[0], made[2]) == (kind == "none")


def test_a_turned_glyph_is_turned_and_its_class_another():
    stroke = torch.full((1, 1, 32, 32), 255, dtype=torch.uint8)
    stroke[:, :, 15:17, 4:28] = 0
    at = torch.arange(32.0)
    for turn in range(4):
        turns = torch.full((100,), turn)
        x = Augment(torch.Generator().manual_seed(0))("glyphs", stroke.expand(100, -1, -1, -1), turns, 32)
        ink = (x - x.flatten(2).median(2).values[:, :, None, None]).abs().mean(1)  # most of a picture is paper
        ink = torch.where(ink > 0.2, ink, 0.0)
        across, down = (torch.einsum("nk,k->n", ink.sum(axis), at) / ink.sum((1, 2)) for axis in (1, 2))
        wide = (ink.sum(1) * (at - across[:, None]) ** 2).sum(1)
        high = (ink.sum(2) * (at - down[:, None]) ** 2).sum(1)
        assert ((wide > high) == (turn % 2 == 0)).float().mean() > 0.95
    some = training_set((2, 1), rotated=True, augment="glyphs", channels=1)
    assert some.size == 12
    assert some.labels().tolist() == [0, 0, 1, 2, 2, 3, 4, 4, 5, 6, 6, 7]
    pixels, turns = some.pixels_of(torch.tensor([0, 4, 11]))
    assert turns.tolist() == [0, 1, 3]
    assert torch.equal(pixels, some.images.pixels[[0, 1, 2]])


def test_pictures_are_read_as_the_encoder_reads_them():
    pixels = torch.tensor([[[[0, 255], [51, 102]]]], dtype=torch.uint8)
    assert_allclose(resized(pixels, 2)[0, 2], [[0.0, 1.0], [0.2, 0.4]], atol=1e-6)
