from __future__ import annotations

import math

import numpy as np
import pytest
from fakes import BLUE, GREEN, RED, FakeEncoder, png
from media_examples import FILMS, SOUPS, text_encoder

from fewshot import ClassRegistry, FunctionEncoder
from fewshot.errors import RegistryError

D, CLASSES, EXAMPLES = 24, 10, 6


def numbered(X):
    """An encoder of texts that are numbers of rows."""
    return FunctionEncoder(lambda texts: np.stack([X[int(text)] for text in texts]), D, "rows", modality="text")


def registry_of(folder, X, codes, **settings):
    registry = ClassRegistry(folder / "r.fewshot", encoder=numbered(X), **{"classifier": "whitened", **settings})
    registry.add_labelled([(str(row), f"class {code}") for row, code in enumerate(codes)], all_or_none=True)
    return registry


def row(example):
    return int(example.source.strip('"'))


@pytest.fixture(scope="module")
def rows():
    """Vectors of ten classes of six: 3 and 40 have wrong labels, 21 is a copy of 20, and class 7's are nearly alike."""
    rng = np.random.default_rng(0)
    codes = np.repeat(np.arange(CLASSES), EXAMPLES)
    spread = np.where(codes == 7, 0.05, 1.0)[:, None]
    X = (1.3 * rng.normal(size=(CLASSES, D))[codes] + spread * rng.normal(size=(len(codes), D))).astype(np.float32)
    codes[[3, 40]] = 5, 0
    X[21] = X[20] + 0.01
    return X, codes


@pytest.fixture(scope="module")
def found(rows, tmp_path_factory):
    with registry_of(tmp_path_factory.mktemp("doctor"), *rows) as registry:
        return registry.diagnose()


def test_wrong_labels_are_found_with_the_class_they_belong_to(found):
    assert {(row(one.example), one.closest) for one in found.mislabelled[:2]} == {(3, "class 0"), (40, "class 6")}
    assert {one.example.label for one in found.mislabelled[:2]} == {"class 5", "class 0"}
    assert found.suspects[0].closest_probability > found.suspects[0].probability
    probabilities = [one.probability for one in found.suspects]
    assert probabilities == sorted(probabilities)


def test_copies_and_classes_that_are_all_alike_are_found(found):
    within = [(row(one.first), row(one.second)) for one in found.duplicates if one.first.label != "class 7"]
    assert within == [(20, 21)]
    assert not any(one.across_classes for one in found.duplicates)
    assert [one.label for one in found.one_sided] == ["class 7"]
    by_label = {one.label: one for one in found.per_class}
    assert (by_label["class 3"].examples, by_label["class 3"].distinct) == (6, 5)


def test_the_expected_accuracy_is_a_little_above_what_was_counted(found):
    assert found.left_out.value < found.accuracy.value <= 1.0
    assert found.left_out.low < found.left_out.value < found.left_out.high
    assert found.accuracy.n == found.left_out.n == found.curve.points[-1].n


def test_the_plan_is_a_sentence(found):
    assert found.plan.examples == sum(one.add for one in found.per_class)
    assert 0 < found.plan.gain < found.plan.doubled
    assert f"{found.plan.examples} more example" in found.advice
    assert "point" in found.advice


def test_nothing_is_embedded_and_nothing_changes(rows, tmp_path):
    with registry_of(tmp_path, *rows) as registry:
        registry.encoder._function = None  # would raise
        before = registry.revision
        assert registry.diagnose() == registry.diagnose()
        assert registry.revision == before


def test_it_is_by_the_registrys_own_classifier(rows, tmp_path):
    with registry_of(tmp_path, *rows, classifier="nearest") as registry:
        found = registry.diagnose()
        assert found.classifier == "nearest"
        (held_out,) = [one.accuracy for one in registry.compare_classifiers() if one.chosen]
        assert found.left_out.value == pytest.approx(held_out, abs=0.1)  # near-duplicates are left out together here


def test_of_too_many_every_nth_class_is_looked_at(rows, tmp_path, monkeypatch):
    monkeypatch.setattr("fewshot.registry.registry_diagnosis._MOST_EXAMPLES", 30)
    with registry_of(tmp_path, *rows) as registry:
        found = registry.diagnose()
    assert (found.classes, found.diagnosed) == (10, 5)
    assert len(found.per_class) == 5
    assert "5 of 10 classes were looked at, evenly spaced" in found.notes[0]
    assert {one.example.label for one in found.suspects} <= {one.label for one in found.per_class}


def colours(folder, **classes):
    registry = ClassRegistry(folder / "c.fewshot", encoder=FakeEncoder())
    for label, examples in classes.items():
        registry.add(label, examples)
    return registry


def test_without_a_second_example_there_is_no_accuracy_and_the_remedy_is_told(tmp_path):
    with colours(tmp_path, red=[png(RED)], blue=[png(BLUE)]) as registry:
        found = registry.diagnose()
    assert found.accuracy is None
    assert found.plan is None
    assert all(one.too_few and one.accuracy is None for one in found.per_class)
    assert "no class has two images that differ" in found.notes[0]
    assert "add a second example" in found.advice


def test_one_class_has_nothing_to_be_confused_with(tmp_path):
    with colours(tmp_path, red=[png(RED), png((200, 30, 40))]) as registry:
        found = registry.diagnose()
    assert found.accuracy is None
    assert "there is one class, and nothing to confuse it with" in found.notes[0]


def test_copies_alone_are_no_second_example(tmp_path):
    with colours(tmp_path, red=[png(RED), png(RED, 5)], blue=[png(BLUE), png(BLUE, 5)]) as registry:
        found = registry.diagnose()
    assert found.accuracy is None
    assert len(found.duplicates) == 2
    assert {one.label for one in found.one_sided} == {"red", "blue"}


def test_classes_of_one_are_alternatives_and_named(tmp_path):
    reds = [png(RED), png((200, 30, 40)), png((250, 60, 10))]
    with colours(tmp_path, red=reds, green=[png(GREEN), png((40, 180, 50))], blue=[png(BLUE)]) as registry:
        found = registry.diagnose()
    assert found.left_out.n == 5
    assert [one.label for one in found.per_class if one.too_few] == ["blue"]
    assert found.notes == ("1 class has one image only, which cannot be left out: its accuracy is not known",)
    assert all(math.isfinite(one.gain) for one in found.per_class)


def test_an_empty_registry_is_refused_with_the_remedy(tmp_path):
    remedy = r"holds no examples; add some with: fewshot add .*e\.fewshot LABEL FILE"
    with ClassRegistry(tmp_path / "e.fewshot", encoder=FakeEncoder()) as registry:
        with pytest.raises(RegistryError, match=remedy):
            registry.diagnose()


def test_texts_are_diagnosed_by_their_classifier(tmp_path):
    with ClassRegistry(tmp_path / "t.fewshot", encoder=text_encoder()) as registry:
        registry.add("film", [*FILMS, "simmer the onions and leeks slowly"])
        registry.add("soup", SOUPS)
        found = registry.diagnose()
    assert (found.modality, found.classifier) == ("text", "logistic (C=10.0)")
    assert found.suspects[0].example.source == '"simmer the onions and leeks slowly"'
    assert found.suspects[0].closest == "soup"
