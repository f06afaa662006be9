from __future__ import annotations

import json
import sqlite3

import numpy as np
import pytest
from fakes import BLUE, GREEN, RED, FakeEncoder, png
from media_examples import FILMS, SOUPS, text_encoder
from numpy.testing import assert_allclose
from sklearn.base import clone

import fewshot.registry.classifier_choice
from fewshot import (
    ClassRegistry,
    LinearDiscriminantClassifier,
    LogisticRegressionClassifier,
    NearestNeighborClassifier,
    PrototypeClassifier,
    RidgeClassifier,
    SimpleShotClassifier,
    WhitenedPrototypeClassifier,
)
from fewshot.errors import EncoderMismatch, RegistryError


@pytest.fixture
def path(tmp_path):
    return tmp_path / "r.fewshot"


def opened(path, **settings):
    return ClassRegistry(path, encoder=FakeEncoder(), **settings)


def filled(path, **settings):
    registry = opened(path, **settings)
    registry.add("red", [png(RED), png((200, 60, 30)), png((220, 30, 60))])
    registry.add("green", [png(GREEN), png((60, 200, 10))])
    registry.add("blue", [png(BLUE)])
    return registry


QUERY = np.array([[0.6, 0.5, 0.1], [0.1, 0.2, 0.9], [0.3, 0.9, 0.4]], np.float32)


def scores(registry):
    return [dict(one.top) for one in registry.predict_vectors(QUERY, nearest=0)]


def by_hand(registry, classifier):
    examples = registry.export_page(after=0, limit=99)
    classifier.fit(np.stack([e.vector for e in examples]), [e.label for e in examples])
    return [dict(zip(classifier.classes_, map(float, row), strict=True)) for row in classifier.scores(QUERY)]


def assert_answers_as(registry, classifier):
    for ours, theirs in zip(scores(registry), by_hand(registry, classifier), strict=True):
        assert ours.keys() == theirs.keys()
        assert_allclose([ours[label] for label in theirs], list(theirs.values()), rtol=1e-4, atol=1e-5)


def test_whitened_prototypes_answer_unless_another_is_chosen(path):
    with filled(path) as registry:
        assert registry.info().classifier == "whitened"
        assert_answers_as(registry, WhitenedPrototypeClassifier())


@pytest.mark.parametrize(
    ("name", "classifier"),
    [
        ("prototype", PrototypeClassifier()),
        ("nearest", NearestNeighborClassifier()),
        ("ridge", RidgeClassifier()),
        ("discriminant", LinearDiscriminantClassifier()),
    ],
)
def test_a_chosen_classifier_answers_at_once_and_whenever_the_file_is_opened(path, name, classifier):
    with filled(path) as registry, opened(path) as other:
        scores(registry), scores(other)
        embedded = registry.encoder.encoded
        registry.set_classifier(name)
        assert registry.info().classifier == other.info().classifier == name
        assert_answers_as(registry, classifier)
        assert_answers_as(other, classifier)  # another connection, which had another in memory
        assert registry.encoder.encoded == embedded
    with opened(path) as later:
        assert_answers_as(later, classifier)


def test_the_classifier_given_at_opening_is_remembered_with_its_parameters(path):
    with filled(path, classifier=NearestNeighborClassifier(n_neighbors=3, weights="distance")) as registry:
        assert registry.info().classifier == "nearest (n_neighbors=3, weights='distance')"
    with opened(path) as later:
        assert_answers_as(later, NearestNeighborClassifier(n_neighbors=3, weights="distance"))
        before = later.info()
    with opened(path, classifier=NearestNeighborClassifier(n_neighbors=3, weights="distance")) as same:
        assert same.info() == before


def test_a_classifier_with_a_metric_follows_the_registrys(path):
    with filled(path, metric="sqeuclidean") as registry:
        assert registry.info().classifier == "prototype"
        assert_answers_as(registry, PrototypeClassifier(metric="sqeuclidean"))
        registry.set_classifier("nearest")
        assert_answers_as(registry, NearestNeighborClassifier(metric="sqeuclidean"))
        registry.set_classifier("whitened")
        assert_answers_as(registry, WhitenedPrototypeClassifier())


class _InParts(FakeEncoder):
    """An encoder whose embeddings have two parts: red and green, and blue."""

    parts = (2, 1)


def test_whitened_prototypes_of_a_registry_weight_the_parts_of_its_encoder(path):
    with filled(path) as plain:
        whole = scores(plain)
    with filled(path.with_name("parts.fewshot")) as registry:
        registry._encoder = _InParts()  # of the same fingerprint: else no registry would have both
        assert scores(registry) != whole
        assert_answers_as(registry, WhitenedPrototypeClassifier(parts=(2, 1)))
        registry.add("blue", [png((30, 20, 240)), png((10, 40, 200))])
        assert_answers_as(registry, WhitenedPrototypeClassifier(parts=(2, 1)))
        registry.set_classifier("prototype")  # which knows no parts
        assert_answers_as(registry, PrototypeClassifier())


def test_the_comparison_reads_another_encoders_parts(path):
    with filled(path) as registry:
        of = {one.name: one.accuracy for one in registry.compare_classifiers(_InParts())}
        plain = {one.name: one.accuracy for one in registry.compare_classifiers()}
    assert {name for name in of if of[name] != plain[name]} <= {"whitened"}


def test_nothing_is_compared_in_a_registry_without_examples(path):
    with opened(path) as registry, pytest.raises(ValueError, match="has two examples, so that none can be left out"):
        registry.compare_classifiers()


class _Own(PrototypeClassifier):
    """A user's type."""


@pytest.mark.parametrize("own", [_Own(), SimpleShotClassifier(center=np.array([0.2, 0.2, 0.2], np.float32))])
def test_an_estimator_that_the_file_cannot_hold_serves_its_opener_alone(path, own):
    with filled(path, classifier=own) as registry, opened(path) as other:
        assert_answers_as(registry, own)
        assert type(registry.classifier) is type(own)
        assert registry.classifier is not own
        assert_answers_as(other, WhitenedPrototypeClassifier())
        with pytest.raises(ValueError, match=r"cannot be remembered in .*r\.fewshot: .* ClassRegistry\(\.\.\., "):
            other.set_classifier(own)
        with pytest.raises(ValueError, match=r"was opened with a classifier of its own, .*open it again without one"):
            registry.set_classifier("ridge")


@pytest.mark.parametrize("wrong", [RidgeClassifier(penalty=-1), PrototypeClassifier(metric="nonsense")])
def test_parameters_that_a_fit_refuses_are_not_remembered(path, wrong):
    with filled(path) as registry:
        with pytest.raises(ValueError, match="must be"):
            registry.set_classifier(wrong)
        assert registry.info().classifier == "whitened"
        assert_answers_as(registry, WhitenedPrototypeClassifier())


def test_an_unknown_name_is_refused_with_those_there_are_and_makes_no_file(path):
    with pytest.raises(ValueError, match="no classifier is called 'svm'; there are whitened, prototype, nearest, rid"):
        ClassRegistry(path, classifier="svm")
    assert not path.exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonsense", "is damaged: its settings say classifier is 'nonsense'"),
        (
            json.dumps({"type": "ForestClassifier", "params": {}}),
            "a classifier that this version does not know: .*Fore",
        ),
        (
            json.dumps({"type": "RidgeClassifier", "params": {"bend": 1}}),
            "a classifier that this version does not know",
        ),
        (json.dumps({"type": "Membership", "params": {}}), "a classifier that this version does not know"),
    ],
)
def test_a_file_that_names_no_classifier_of_ours_is_refused(path, text, message):
    filled(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("INSERT INTO meta VALUES ('classifier', ?)", (text,))
    with pytest.raises(RegistryError, match=message), opened(path) as registry:
        registry.predict_vectors(QUERY)


@pytest.mark.parametrize("text", ["{", "[]", '{"type": "RidgeClassifier"}'])
@pytest.mark.parametrize("ask", ["info", "compare_classifiers", "predict"])
def test_settings_damaged_while_a_registry_is_open_are_named_with_the_remedy(path, text, ask):
    with filled(path) as registry:
        scores(registry)
        with sqlite3.connect(path) as connection:
            connection.execute("INSERT INTO meta VALUES ('classifier', ?)", (text,))
            connection.execute("UPDATE meta SET value = value + 1 WHERE key = 'revision'")
        with pytest.raises(RegistryError, match=r"is damaged: its settings say classifier is .*fewshot repair"):
            scores(registry) if ask == "predict" else getattr(registry, ask)()


def test_numpy_numbers_among_the_parameters_are_remembered(path):
    chosen = NearestNeighborClassifier(n_neighbors=np.int64(2), weights=np.str_("distance"))
    with filled(path, classifier=chosen) as registry:
        assert registry.info().classifier == "nearest (n_neighbors=2, weights='distance')"
        registry.set_classifier(RidgeClassifier(penalty=np.float32(0.5)))
    with opened(path) as later:
        assert later.info().classifier == "ridge (penalty=0.5)"
        assert_answers_as(later, RidgeClassifier(penalty=0.5))


@pytest.mark.parametrize(
    "own", [WhitenedPrototypeClassifier(parts=(2, 1)), SimpleShotClassifier(center=[0.1, 0.0, 0.2])], ids=type
)
def test_a_parameter_with_a_number_for_each_dimension_is_remembered(path, own):
    with filled(path, classifier=own) as registry:
        assert_answers_as(registry, clone(own))
    with opened(path) as registry:
        assert type(registry.classifier) is type(own)
        assert_answers_as(registry, clone(own))


@pytest.mark.parametrize("kind", [NearestNeighborClassifier, PrototypeClassifier])
def test_a_classifier_of_another_metric_is_refused_by_choosing_as_by_opening(path, kind):
    with filled(path) as registry:
        with pytest.raises(EncoderMismatch) as chosen:
            registry.set_classifier(kind(metric="sqeuclidean"))
        assert registry.info().classifier == "whitened"
    with pytest.raises(EncoderMismatch, match="made for the metric 'cosine', not 'sqeuclidean'") as at_opening:
        opened(path, classifier=kind(metric="sqeuclidean"))
    assert str(chosen.value) == str(at_opening.value)


def test_the_comparison_is_leave_one_out_by_hand(path):
    with filled(path) as registry:
        examples = registry.export_page(after=0, limit=99)
        X, y = np.stack([e.vector for e in examples]), np.array([e.label for e in examples])
        folds = [[0, 3], [1, 4], [2]]  # blue has one example: never left out
        right = []
        for out in folds:
            rest = np.setdiff1d(np.arange(len(y)), out)
            right += (RidgeClassifier().fit(X[rest], y[rest]).predict(X[out]) == y[out]).tolist()
        found = registry.compare_classifiers()
        ridge = next(one for one in found if one.name == "ridge")
        assert (ridge.n, ridge.classes, ridge.accuracy) == (5, 3, pytest.approx(np.mean(right)))
        assert [one.accuracy for one in found] == sorted((one.accuracy for one in found), reverse=True)
        assert [one.name for one in found if one.chosen] == ["whitened"]
        assert {one.name for one in found} == set(fewshot.registry.classifier_choice.CLASSIFIERS)
        registry.set_classifier(NearestNeighborClassifier(n_neighbors=2))
        assert [one.name for one in registry.compare_classifiers() if one.chosen] == ["nearest (n_neighbors=2)"]


def test_the_comparison_with_another_encoder_embeds_the_images_and_keeps_the_registry(path):
    with filled(path) as registry:
        before = registry.info()
        other = FakeEncoder(more=2)
        found = registry.compare_classifiers(other)
        assert (found[0].n, other.encoded, registry.info()) == (5, 6, before)


def test_of_many_classes_every_nth_is_compared(path, monkeypatch):
    monkeypatch.setattr(fewshot.registry.classifier_choice, "_MOST_CLASSES", 2)
    with filled(path) as registry:
        assert {(one.classes, one.n) for one in registry.compare_classifiers()} == {(2, 3)}


def test_a_comparison_needs_a_class_of_two_examples(path):
    with opened(path) as registry:
        registry.add("red", [png(RED)])
        registry.add("blue", [png(BLUE)])
        with pytest.raises(ValueError, match=r"no class of .*r\.fewshot has two examples"):
            registry.compare_classifiers()


def test_few_texts_are_answered_by_logistic_regression_and_many_by_whitened_prototypes(tmp_path, monkeypatch):
    monkeypatch.setattr(fewshot.registry.classifier_choice, "MOST_TEXTS", 6)
    encoder = text_encoder()
    with ClassRegistry(tmp_path / "texts.fewshot", encoder=encoder) as registry:
        registry.add("film", FILMS[:3])
        registry.add("soup", SOUPS[:3])
        assert registry.info().classifier == "logistic (C=10.0)"
        labels = ["film"] * 3 + ["soup"] * 3
        asked = encoder.encode([FILMS[3], SOUPS[3]])
        alone = LogisticRegressionClassifier(C=10.0).fit(encoder.encode([*FILMS[:3], *SOUPS[:3]]), labels)
        scores = [one.score for one in registry.predict([FILMS[3], SOUPS[3]])]
        assert scores == pytest.approx(alone.scores(asked).max(axis=1), abs=1e-5)

        registry.add("soup", SOUPS[3])
        assert registry.info().classifier == "whitened"
        vectors = encoder.encode([*FILMS[:3], *SOUPS[:4]])
        alone = WhitenedPrototypeClassifier().fit(vectors, [*labels, "soup"])
        scores = [one.score for one in registry.predict([FILMS[3], SOUPS[3]])]
        assert scores == pytest.approx(alone.scores(asked).max(axis=1), abs=1e-5)
        assert isinstance(registry.classifier, WhitenedPrototypeClassifier)

        registry.set_classifier("logistic")
        assert registry.info().classifier == "logistic"


def test_an_encoder_of_another_size_than_the_classifiers_parameters_is_refused_before_anything_is_embedded(path):
    with filled(path, classifier=SimpleShotClassifier(center=[0.0] * FakeEncoder().dim)) as registry:
        before = registry.info()
        with pytest.raises(RegistryError, match=r"center of 3 dimensions, .* have 5: .*fewshot classifier .* whitened"):
            registry.reindex(FakeEncoder(more=2))
        assert registry.info() == before
        registry.set_classifier("whitened")
        assert registry.reindex(FakeEncoder(more=2)) == 6
