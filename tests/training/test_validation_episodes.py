"""The episodes that a training is validated on."""

from __future__ import annotations

from training_data import digits, train

from fewshot.training.recipe import Recipe
from fewshot.training.validation_episodes import sampler_for, within_groups


def test_validation_stays_within_groups_where_one_has_the_classes(tmp_path):
    classes = range(8)
    data = digits(8, classes, groups=tuple("few" if c < 3 else "many" for c in classes for _ in range(8)))
    for ways, within in ((3, True), (5, True), (6, False)):
        assert within_groups(data, ways) == within
        groups = [
            {data.groups[i] for i in row} for some in sampler_for(data, ways, Recipe(queries=2)) for row in some.support
        ]
        assert {len(found) for found in groups} == ({1} if within else {1, 2} - ({1} if ways > 5 else set()))
    straddling = digits(2, range(3), groups=("a", "b", "a", "a", "a", "a"))
    assert not within_groups(straddling, 2)
    assert not within_groups(digits(2), 2)
    result = train(tmp_path / "out", digits(8, (8, 9)), validation=[data], ways=(4,), epochs=1, batch_size=(8,))
    assert result.validation[0]["measure"] == "4-way 1-shot within groups, cosine prototypes"


def test_classes_both_trained_on_and_validated_on_are_reported(tmp_path):
    notes = []
    train(tmp_path / "out", digits(8), validation=[digits(8, range(4))], epochs=1, note=notes.append)
    assert notes[0].startswith("4 of the 4 validation classes of digits have the names of training classes of digits")
