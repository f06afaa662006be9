"""The settings of a training, and what is refused."""

from __future__ import annotations

import pytest

from fewshot.training.recipe import Recipe


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "magic"}, "method must be one of 'classical', 'prototypical', 'maml', 'anil', not 'magic'"),
        ({"augment": ("photos", "shapes")}, "augment must be one of .*, not 'shapes'"),
        ({"ways": (1,)}, "ways must be a whole number of at least 2, not 1"),
        ({"rotations": True}, "rotations are classes of glyphs"),
        ({"contrastive": (1.0,), "method": "maml"}, "contrastive is for classical training, not maml"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0, not 0.0"),
        ({"weights": (-1.0,)}, "weights must not be negative"),
        ({"hold_out": 1.0}, "hold_out is a share"),
        ({"seed": 2**32}, "seed must be below"),
        ({"epochs": 0}, "epochs must be a whole number of at least 1, not 0"),
    ],
)
def test_settings_that_make_no_sense_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**changes)


def test_a_value_for_each_set_must_match_their_number():
    with pytest.raises(
        ValueError, match="batch_size holds 2 values, for 3 data sets: give one for all, or one for each"
    ):
        Recipe(batch_size=(3, 4)).batches(3)
    assert Recipe(batch_size=(3,)).batches(3) == (3, 3, 3)


def test_one_value_without_its_tuple_is_told_how_to_be_given():
    with pytest.raises(TypeError, match=r"ways holds a value for all data sets, .*: give \(5,\), not 5"):
        Recipe(ways=5)
    with pytest.raises(TypeError, match=r"give \('glyphs',\), not 'glyphs'"):
        Recipe(augment="glyphs")
