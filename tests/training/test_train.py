"""Data that cannot be trained on are refused by name."""

from __future__ import annotations

import pytest
from training_data import digits, log, train

from fewshot import Dataset


def test_sets_of_one_name_are_told_apart(tmp_path):
    train(tmp_path / "out", digits(), digits(8), epochs=1, hold_out=0.0)
    (line,) = log(tmp_path / "out")
    assert list(line["accuracy"]) == ["digits", "digits (2)"]


def test_a_class_with_one_picture_is_named(tmp_path):
    lonely = Dataset(
        "set", (*digits(4, range(5)).images, digits(1).images[9]), (*digits(4, range(5)).labels, "odd one")
    )
    with pytest.raises(ValueError, match=r"class 'odd one' of set has 1 image, but an\s+episode needs 2 of each"):
        train(tmp_path / "out", lonely, method="prototypical", batch_size=(1,), hold_out=0.0)
    with pytest.raises(ValueError, match=r"class 'odd one' of set, for validation, has 1 of the images .*2 of each"):
        train(tmp_path / "out", digits(), validation=[lonely])
    with pytest.raises(ValueError, match=r"class 'odd one' of set has 1 image, but .*two images of each"):
        train(tmp_path / "out", lonely, contrastive=(1.0,), hold_out=0.0, batch_size=(4,))


def test_too_few_classes_for_the_ways_are_counted(tmp_path):
    with pytest.raises(ValueError, match=r"digits has 2 classes for validation, too few for --ways 3: lower it"):
        train(tmp_path / "out", digits(), validation=[digits(4, range(2))])
    with pytest.raises(ValueError, match=r"digits has 2 classes for training, too few for --ways 3: lower"):
        train(tmp_path / "out", digits(4, range(2)), method="prototypical", batch_size=(1,), hold_out=0.0)


def test_a_batch_larger_than_the_data_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"digits has 10 images for training, too few for a batch of 32: lower"):
        train(tmp_path / "out", digits(1), hold_out=0.0)
    assert list(tmp_path.iterdir()) == []


def test_one_class_and_one_picture_a_step_are_refused(tmp_path):
    with pytest.raises(ValueError, match="digits has 1 class for training, where 2 are needed"):
        train(tmp_path / "out", digits(40, [0]), hold_out=0.0)
    with pytest.raises(ValueError, match="a batch of one image cannot be normalised: raise --batch-size"):
        train(tmp_path / "out", digits(4), batch_size=(1,))
