"""Decoding: images of a data set as one tensor."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from training_data import digits, train

from fewshot import Dataset, FewShotError, ImageError
from fewshot.training.decoded_images import Decoding


def test_a_picture_is_squeezed_to_a_square_and_grey_ones_are_dark_on_light():
    dark = np.zeros((20, 40, 3), np.uint8)
    dark[8:12, 18:22] = 255
    data = Dataset("two", (dark, 255 - dark), ("a", "b"))
    assert Decoding.of(data, 10).run().pixels.shape == (2, 3, 10, 10)
    grey = Decoding.of(data, 10, grey=True).run().pixels
    assert grey.shape == (2, 1, 10, 10)
    assert torch.equal(grey[0], grey[1])
    assert grey[0, 0, 0, 0] == 255


def test_pictures_to_be_cropped_are_kept_larger_but_never_enlarged_for_that():
    large = Dataset("large", tuple(np.zeros((100, 90, 3), np.uint8) for _ in range(3)), ("a",) * 3)
    small = Dataset("small", tuple(np.zeros((35, 34, 3), np.uint8) for _ in range(3)), ("a",) * 3)
    assert Decoding.of(large, 32, margin=True).run().pixels.shape[-1] == 40
    assert Decoding.of(small, 32, margin=True).run().pixels.shape[-1] == 34
    assert Decoding.of(small, 64, margin=True).run().pixels.shape[-1] == 64


def test_unreadable_pictures_are_named_and_counted():
    data = Dataset("mixed", (b"no", np.zeros((4, 4, 3), np.uint8), b""), ("a", "a", "b"))
    with pytest.raises(ImageError, match=r"<2 bytes>: not an image.*\(2 of the 3 images of mixed cannot be read"):
        Decoding.of(data, 8).run()


def test_data_sets_that_do_not_fit_in_memory_together_are_refused_before_they_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr("os.sysconf", lambda name: {"SC_PAGE_SIZE": 1, "SC_PHYS_PAGES": 100_000}[name])
    monkeypatch.setattr(Decoding, "run", None)
    learn, validation = digits(5, range(10)), digits(5, range(10), name="others")  # 50 x 16 x 16 x 3 = 38,400 bytes
    for sets in ({"data": (learn, validation, validation)}, {"data": (learn, validation), "validation": [validation]}):
        data = sets.pop("data")
        with pytest.raises(FewShotError, match=r"the images of digits \(50\), others .*take 0\.0 GiB at 16 .*: lower"):
            train(tmp_path / "out", *data, hold_out=0.0, batch_size=(10,), **sets)
    with pytest.raises(TypeError, match="'NoneType' object is not callable"):  # two of them fit
        train(tmp_path / "out", learn, validation, hold_out=0.0, batch_size=(10,))
