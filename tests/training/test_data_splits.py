"""Which classes are held out for validation."""

from __future__ import annotations

import pytest
from training_data import digits, train

from fewshot import Dataset
from fewshot.training import Recipe
from fewshot.training.data_splits import limit_per_class, load_splits, split_classes


def test_whole_groups_are_held_out():
    labels = tuple(f"{group}{c}" for group in "abcdefghij" for c in range(3) for _ in range(2))
    data = Dataset("grouped", tuple(b"" for _ in labels), labels, tuple(label[0] for label in labels))
    learn, held = split_classes(data, 0.2, ways=5, examples=2, seed=0)
    assert len(set(held.groups)) == 2
    assert len(set(held.labels)) == 6
    assert not set(held.groups) & set(learn.groups)
    assert len(learn) + len(held) == len(data)
    assert split_classes(data, 0.2, ways=5, examples=2, seed=0)[1].labels == held.labels
    assert any(split_classes(data, 0.2, ways=5, examples=2, seed=s)[1].labels != held.labels for s in (1, 2, 3))


def test_more_is_held_out_where_an_episode_needs_more_classes():
    data = digits(3)
    assert len(split_classes(data, 0.1, ways=4, examples=2, seed=0)[1].classes) == 4


def test_too_few_classes_to_hold_some_out_says_so():
    with pytest.raises(ValueError, match=r"digits has 3 classes, 3 of them with the 2 images.*--hold-out 0"):
        split_classes(digits(3, range(3)), 0.1, ways=2, examples=2, seed=0)


def test_validation_pictures_are_thinned_evenly():
    thin = limit_per_class(Dataset("d", tuple(range(12)), ("a",) * 9 + ("b",) * 3), 3)
    assert thin.images == (0, 4, 8, 9, 10, 11)


def test_a_sets_own_validation_part_is_taken_and_nothing_held_out(tmp_path):
    from PIL import Image

    for part, names in (("train", "abc"), ("val", "de")):
        for name in names:
            (tmp_path / "set" / part / name).mkdir(parents=True)
            for n in range(4):
                Image.fromarray(digits(4, [ord(name) - 97]).images[n]).save(tmp_path / "set" / part / name / f"{n}.png")
    notes = []
    result = train(
        tmp_path / "out", str(tmp_path / "set"), ways=(2,), queries=2, epochs=1, batch_size=(6,), note=notes.append
    )
    assert result.validation[0]["measure"].startswith("2-way 1-shot")
    about = (tmp_path / "out" / "training.json").read_text()
    assert '"use": "training",\n    "images": 12,' in about
    assert '"split": "val",\n    "use": "validation",\n    "images": 8,' in about


def test_held_out_classes_are_named_with_the_reason_before_anything_is_trained():
    notes = []
    recipe = Recipe(ways=(4,), shots=1, hold_out=0.1)
    train_parts, (held,) = load_splits([digits(3)], None, None, recipe, notes.append)
    names = ", ".join(held.dataset.classes)
    assert len(held.dataset.classes) == 4
    assert notes == [
        "digits: 4 of 10 classes are held out for validation, at least 10% and the 4 of an episode (--hold-out, "
        f"--ways; --hold-out 0 trains on all): {names}"
    ]
    assert len(train_parts[0].dataset.classes) == 6
