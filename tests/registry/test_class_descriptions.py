"""Classes described in words: recognised without examples, and a prior beside few."""

from __future__ import annotations

import io
import json
import shutil
import sqlite3
from contextlib import closing

import numpy as np
import pytest
from fakes import BLACK, BLUE, GREEN, RED
from numpy.testing import assert_allclose
from PIL import Image

from fewshot import ClassRegistry, EmbeddingCache, PrototypeClassifier, RegistryError
from fewshot.errors import NoClasses
from fewshot.media import open_image
from fewshot.registry import repair_registry

YELLOW = (255, 255, 0)
COLOURS = {"red": RED, "green": GREEN, "blue": BLUE, "yellow": YELLOW, "black": BLACK, "azure": (0, 120, 255)}


class Towers:
    """Images are embedded as (r, g, b, 1, 0), texts as the colour that they name and (0, 1): apart, but parallel."""

    def __init__(self, *, reads: bool = True, name: str | None = None, turn: bool = False) -> None:
        self.turn = turn
        self.dim, self.fingerprint = 5, "towers" if name is None else name
        self.read: list[str] = []
        if name is not None:
            self.spec = {"name": name}
        if reads:
            self.encode_texts = self._encode_texts

    def encode(self, images):
        return self._vectors([np.asarray(open_image(image)).mean(axis=(0, 1)) for image in images], 3)

    def _encode_texts(self, texts):
        self.read += texts
        return self._vectors([COLOURS.get(text.split()[-1], (127, 127, 127)) for text in texts], 4)

    def _vectors(self, colours, axis):
        vectors = np.zeros((len(colours), 5), np.float32)
        vectors[:, :3] = np.reshape(colours, (-1, 3)) / 255
        vectors[:, axis] = 1
        return vectors[:, ::-1].copy() if self.turn else vectors


class OwnPrototypes(PrototypeClassifier):
    """A classifier that the file cannot hold."""


def png(colour, n=0) -> bytes:
    """A photograph of a colour, the ``n``-th: none is like another."""
    noise = np.random.default_rng(n).normal(0, 12, 3) if n else 0
    out = io.BytesIO()
    Image.new("RGB", (4, 4), tuple(np.clip(np.array(colour) + noise, 0, 255).astype(int).tolist())).save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def encoder():
    return Towers()


@pytest.fixture
def registry(tmp_path, encoder):
    with ClassRegistry(tmp_path / "r.fewshot", encoder=encoder) as opened:
        yield opened


def _labels(registry, *images, **how):
    return [answer.label for answer in registry.predict(list(images), **how)]


def _describe_colours(registry):
    for label, text in {"tomato": "red", "leaf": "green", "sky": "blue"}.items():
        registry.describe(label, text)


def test_without_any_example_an_image_is_of_the_class_whose_text_is_closest(registry, encoder):
    _describe_colours(registry)
    assert registry.classes() == {"tomato": 0, "leaf": 0, "sky": 0}
    assert (len(registry), registry.info().classes, registry.is_empty) == (3, 3, False)
    answers = registry.predict([png(RED), png(GREEN), png(BLUE)])
    assert [answer.label for answer in answers] == ["tomato", "leaf", "sky"]
    image, texts = encoder.encode([png(RED)])[0], encoder.encode_texts(["red", "green", "blue"])
    cosines = texts @ image / np.linalg.norm(texts, axis=1) / np.linalg.norm(image)
    assert_allclose([dict(answers[0].top)[label] for label in ("tomato", "leaf", "sky")], cosines, atol=1e-6)
    assert answers[0].probability is None
    assert answers[0].note == "no probability: the classes have descriptions and no examples; add examples"
    assert answers[0].nearest == ()


def test_a_limit_on_false_accepts_needs_examples(registry):
    _describe_colours(registry)
    assert _labels(registry, png(RED), max_false_accept=1.0) == ["tomato"]
    with pytest.raises(NoClasses, match="no classes with examples; add some first"):
        registry.predict([png(RED)], max_false_accept=0.1)


def test_a_class_without_examples_is_recognised_beside_others_that_have_some(registry):
    registry.add("tomato", png(RED))
    registry.add("leaf", png(GREEN))
    assert _labels(registry, png(BLUE))[0] != "sky"
    _describe_colours(registry)
    assert _labels(registry, png(RED), png(GREEN), png(BLUE)) == ["tomato", "leaf", "sky"]
    assert registry.classes() == {"tomato": 1, "leaf": 1, "sky": 0}
    answer = registry.predict([png(BLUE)])[0]
    assert [near.label for near in answer.nearest] in (["tomato", "leaf"], ["leaf", "tomato"])
    assert 0 < answer.probability < 1


@pytest.mark.parametrize(("n", "with_text"), [(1, "tomato"), (60, "sun")])
def test_a_text_corrects_one_misleading_example_and_many_override_it(registry, n, with_text):
    # The photographs of tomatoes are purple. Beside one of them "red" is believed, beside sixty it is not.
    for label, colour in {"leaf": GREEN, "sky": BLUE, "coal": BLACK, "sun": YELLOW}.items():
        registry.add(label, [png(colour, shade) for shade in (1, 2)])
    registry.add("tomato", [png((110, 0, 150), shade) for shade in range(1, n + 1)])
    red, purple = png((240, 90, 30)), png((110, 0, 150))
    assert _labels(registry, red, purple) == ["sun", "tomato"]
    for label, text in {"leaf": "green", "sky": "blue", "coal": "black", "sun": "yellow", "tomato": "red"}.items():
        registry.describe(label, text)
    assert _labels(registry, red, purple)[0] == with_text
    assert n == 1 or _labels(registry, purple) == ["tomato"]


def test_descriptions_that_examples_contradict_change_nothing(registry):
    colours = {"tomato": RED, "leaf": GREEN, "sky": BLUE, "sun": YELLOW}
    for label, colour in colours.items():
        registry.add(label, [png(colour, shade) for shade in range(3)])
    before = registry.predict([png((200, 60, 50), 7)])[0]
    for label, text in {"tomato": "green", "leaf": "blue", "sky": "yellow", "sun": "red"}.items():
        registry.describe(label, text)
    after = registry.predict([png((200, 60, 50), 7)])[0]
    assert_allclose([score for _, score in after.top], [score for _, score in before.top], atol=1e-5)
    assert after.label == before.label == "tomato"


def test_the_name_is_the_text_of_a_class_that_has_no_description(registry, encoder):
    for label, colour in {"red": RED, "green": GREEN}.items():
        registry.add(label, png(colour))
    assert registry.describe("blue") == "a photo of a blue"
    assert registry.descriptions() == {"blue": "a photo of a blue"}
    assert _labels(registry, png(BLUE), png(RED)) == ["blue", "red"]
    assert sorted(encoder.read) == ["a photo of a blue", "a photo of a green", "a photo of a red"]
    _labels(registry, png(BLUE))
    registry.add("red", png(RED, 3))
    assert _labels(registry, png(BLUE)) == ["blue"]
    assert len(encoder.read) == 3  # names are read once


def test_without_descriptions_answers_are_the_same_bit_for_bit_as_with_an_encoder_that_reads_none(tmp_path, registry):
    with ClassRegistry(tmp_path / "other.fewshot", encoder=Towers(reads=False)) as other:
        for opened in (other, registry):
            for label, colour in {"tomato": RED, "leaf": GREEN}.items():
                opened.add(label, png(colour))
        registry.describe("sky", "blue")
        registry.forget_description("sky")
        assert registry.predict([png(BLUE)]) == other.predict([png(BLUE)])


def test_examples_added_later_and_other_texts_count_at_once(registry):
    _describe_colours(registry)
    assert _labels(registry, png(RED)) == ["tomato"]
    registry.add("coal", png(BLACK))
    registry.add("tomato", png(RED))
    assert registry.classes() == {"coal": 1, "tomato": 1, "leaf": 0, "sky": 0}
    assert _labels(registry, png(RED), png(GREEN), png(BLACK)) == ["tomato", "leaf", "coal"]
    registry.describe("leaf", "blue")
    registry.describe("sky", "green")
    assert _labels(registry, png(GREEN)) == ["sky"]


def test_another_process_sees_descriptions(registry, tmp_path):
    with ClassRegistry(tmp_path / "r.fewshot", encoder=Towers()) as other:
        _describe_colours(other)
        assert _labels(registry, png(GREEN)) == ["leaf"]
        other.forget_description("leaf")
        assert _labels(registry, png(GREEN)) != ["leaf"]


def test_rename_merge_and_remove_carry_descriptions(registry):
    _describe_colours(registry)
    registry.add("tomato", png(RED))
    registry.rename("tomato", "cherry")
    registry.rename("leaf", "grass")
    assert registry.descriptions() == {"cherry": "red", "grass": "green", "sky": "blue"}
    assert _labels(registry, png(RED), png(GREEN)) == ["cherry", "grass"]
    with pytest.raises(ValueError, match="there is a class 'sky' already"):
        registry.rename("grass", "sky")
    assert registry.merge(["cherry", "grass"], "thing") == 1
    assert registry.descriptions() == {"thing": "red", "sky": "blue"}
    assert registry.merge(["sky"], "air") == 0
    assert registry.classes() == {"thing": 1, "air": 0}
    assert registry.remove("air") == 0
    assert registry.remove("thing") == 1
    assert (registry.descriptions(), registry.classes(), registry.is_empty) == ({}, {}, True)
    assert registry.check() == []


def test_the_last_example_of_a_described_class_may_go(registry):
    _describe_colours(registry)
    registry.add("tomato", png(RED))
    ((example, _),) = registry.examples("tomato")
    registry.remove_example(example)
    assert registry.classes() == {"tomato": 0, "leaf": 0, "sky": 0}
    assert registry.examples("tomato") == registry.list_examples("tomato") == []
    assert _labels(registry, png(RED)) == ["tomato"]


def test_forgetting_a_description_that_is_not_there_says_so(registry):
    registry.add("leaf", png(GREEN))
    with pytest.raises(KeyError, match=r"class 'leaf' of .* has no description"):
        registry.forget_description("leaf")
    with pytest.raises(KeyError, match=r"no class 'loaf' .* did you mean 'leaf'\?"):
        registry.forget_description("loaf")
    registry.describe("sky", "blue")
    with pytest.raises(KeyError, match=r"no class 'skye' .* did you mean 'sky'\?"):
        registry.remove("skye")


def test_classifiers_are_compared_with_the_descriptions_that_count_in_predictions(registry):
    # Of tomatoes one photograph is purple: what is left out is recognised by the text alone.
    for label, colour in {"leaf": GREEN, "sky": BLUE, "coal": BLACK, "sun": YELLOW}.items():
        registry.add(label, [png(colour, shade) for shade in (1, 2, 3)])
    registry.add("tomato", [png((110, 0, 150)), png((240, 90, 30), 5)])

    def accuracy(encoder=None):
        return {one.name: (one.accuracy, one.n) for one in registry.compare_classifiers(encoder)}

    before = accuracy()
    for label, text in {"leaf": "green", "sky": "blue", "coal": "black", "sun": "yellow", "tomato": "red"}.items():
        registry.describe(label, text)
    registry.describe("azure")  # without examples, an alternative
    after = accuracy()
    vectors = registry.encoder.encode([png((240, 90, 30), 5)])
    assert before["prototype"][1] == after["prototype"][1] == 14
    assert after["prototype"][0] > before["prototype"][0]
    assert accuracy(Towers(name="same")) == after
    assert accuracy(Towers(reads=False)) == before
    assert registry.predict_vectors(vectors)[0].label == "tomato"


@pytest.mark.parametrize("suffix", ["npz", "parquet"])
def test_export_and_import_carry_descriptions(registry, tmp_path, suffix):
    if suffix == "parquet":
        pytest.importorskip("pyarrow", reason="needs the extra parquet")
    _describe_colours(registry)
    registry.add("tomato", png(RED))
    registry.export(tmp_path / f"e.{suffix}")
    with ClassRegistry(tmp_path / "copy.fewshot", encoder=Towers()) as copy:
        copy.describe("sky", "azure")
        copy.import_examples(tmp_path / f"e.{suffix}")
        assert copy.descriptions() == {"sky": "azure", "tomato": "red", "leaf": "green"}
        assert _labels(copy, png(GREEN)) == ["leaf"]


def test_backup_and_repair_carry_descriptions_and_a_changed_byte_is_noticed(registry, tmp_path):
    _describe_colours(registry)
    registry.add("tomato", png(RED))
    registry.backup(tmp_path / "copy.fewshot")
    repaired = repair_registry(tmp_path / "copy.fewshot", tmp_path / "new.fewshot")
    assert repaired.lost == ()
    with ClassRegistry(tmp_path / "new.fewshot", encoder=Towers()) as new:
        assert new.descriptions() == registry.descriptions()
        assert _labels(new, png(GREEN)) == ["leaf"]
    shutil.copy(tmp_path / "copy.fewshot", tmp_path / "damaged.fewshot")
    with closing(sqlite3.connect(tmp_path / "damaged.fewshot")) as raw:
        raw.execute("UPDATE descriptions SET text = 'bleu' WHERE label = 'sky'")
        raw.commit()
    with ClassRegistry(tmp_path / "damaged.fewshot", encoder=Towers()) as damaged:
        assert damaged.check() == ["the description of 'sky' is not what was stored"]
        with pytest.raises(RegistryError, match=r"damaged: the description of 'sky' is not what was stored.*repair"):
            damaged.predict([png(RED)])
    repaired = repair_registry(tmp_path / "damaged.fewshot", tmp_path / "mended.fewshot")
    assert repaired.lost == ("some of the descriptions of classes",)


def test_reindex_embeds_descriptions_anew_or_refuses_an_encoder_that_reads_no_texts(registry):
    _describe_colours(registry)
    registry.add("tomato", png(RED))
    with pytest.raises(ValueError, match=r"reads no texts, .* embed the 3 descriptions of .*describe .* --remove"):
        registry.reindex(Towers(reads=False, name="blind"))
    assert _labels(registry, png(GREEN)) == ["leaf"]  # as it was
    turned = Towers(name="turned", turn=True)
    registry.reindex(turned)
    assert registry.descriptions() == {"tomato": "red", "leaf": "green", "sky": "blue"}
    assert _labels(registry, png(GREEN), png(BLUE)) == ["leaf", "sky"]


def test_an_encoder_without_texts_another_metric_and_empty_texts_are_refused(tmp_path, registry):
    with ClassRegistry(tmp_path / "blind.fewshot", encoder=Towers(reads=False)) as blind:
        with pytest.raises(ValueError, match=r"reads no texts, and images and texts are needed .*clip:ViT-B-32"):
            blind.describe("sky", "blue")
        assert blind.is_empty
    with ClassRegistry(tmp_path / "far.fewshot", encoder=Towers(), metric="sqeuclidean") as far:
        with pytest.raises(ValueError, match=r"compares by sqeuclidean, and texts can be compared .* by cosine only"):
            far.describe("sky", "blue")
    with pytest.raises(ValueError, match="the description of 'sky' is empty"):
        registry.describe("sky", " ")


def test_a_cache_of_embeddings_reads_texts_as_its_encoder_does(tmp_path):
    with ClassRegistry(tmp_path / "r.fewshot", encoder=EmbeddingCache(Towers(), tmp_path / "cache")) as cached:
        _describe_colours(cached)
        assert _labels(cached, png(GREEN)) == ["leaf"]
    assert not hasattr(EmbeddingCache(Towers(reads=False), tmp_path / "cache"), "encode_texts")


@pytest.mark.parametrize("name", ["prototype", "nearest", "ridge", "logistic", "discriminant"])
def test_any_classifier_takes_descriptions(registry, name):
    for label, colour in {"tomato": RED, "leaf": GREEN}.items():
        registry.add(label, [png(colour, shade) for shade in range(2)])
    registry.set_classifier(name)
    _describe_colours(registry)
    assert _labels(registry, png(RED), png(GREEN), png(BLUE)) == ["tomato", "leaf", "sky"]


def test_a_classifier_of_ones_own_takes_descriptions(tmp_path):
    own = OwnPrototypes()
    with ClassRegistry(tmp_path / "r.fewshot", encoder=Towers(), classifier=own) as registry:
        registry.add("tomato", png(RED))
        _describe_colours(registry)
        assert _labels(registry, png(BLUE)) == ["sky"]


def _four_colours(registry, shades=3):
    for label, colour in {"tomato": RED, "leaf": GREEN, "sun": YELLOW, "coal": BLACK}.items():
        registry.add(label, [png(colour, shade) for shade in range(1, shades + 1)])


def test_a_limit_follows_the_descriptions(registry):
    _four_colours(registry)
    registry.rejection.set(0.4)
    before, asked = registry.rejection.threshold(), [png(BLUE, 3), png(BLUE, 4)]
    assert [one.label for one in registry.predict(asked)] == [None, None]
    registry.describe("sky", "blue")
    for label, text in {"tomato": "red", "leaf": "green", "sun": "yellow", "coal": "black"}.items():
        registry.describe(label, text)
    after = registry.rejection.threshold()
    assert after.value != before.value
    assert [one.label for one in registry.predict(asked)] == ["sky", "sky"]
    with ClassRegistry(registry.path, encoder=Towers()) as again:
        assert again.rejection.threshold() == after  # read from the file
        for label in again.descriptions():
            again.forget_description(label)
        assert_allclose(again.rejection.threshold().value, before.value, atol=1e-6)


def test_with_descriptions_that_examples_contradict_the_limit_is_the_one_without(registry):
    # Two ways to one number: what is left out corrected in products, and everything made anew without it.
    _four_colours(registry)
    before = registry.rejection.set(0.3), registry.predict([png(BLUE), png(RED, 9)])
    for label, text in {"tomato": "green", "leaf": "yellow", "sun": "black", "coal": "red"}.items():
        registry.describe(label, text)
    after = registry.rejection.threshold(), registry.predict([png(BLUE), png(RED, 9)])
    assert_allclose([one.unknown_score for one in after[1]], [one.unknown_score for one in before[1]], atol=1e-5)
    assert_allclose(after[0].value, before[0].value, atol=1e-4)
    assert after[0].n_unknown == before[0].n_unknown == 4


def test_negatives_and_backgrounds_serve_beside_descriptions(registry, encoder):
    _four_colours(registry)
    registry.describe("sky", "blue")
    background = encoder.encode([png((200, shade, 200), shade) for shade in range(30, 60)])
    assert registry.rejection.set(0.2, background=background).source == "background"
    registry.rejection.set(None)
    registry.rejection.add_negatives([png((200, 0, 200), shade) for shade in range(30)])
    assert registry.rejection.set(0.05).source == "negatives"
    assert registry.predict([png((200, 0, 200), 99)])[0].label is None
    assert registry.predict([png(BLUE)])[0].top[0][0] == "sky"


def test_a_registry_from_before_descriptions_is_brought_up_to_date(tmp_path):
    path = tmp_path / "r.fewshot"
    with ClassRegistry(path, encoder=Towers()) as registry:
        registry.add("tomato", png(RED))
    with closing(sqlite3.connect(path)) as raw:
        raw.execute("DROP TABLE descriptions")
        raw.execute("PRAGMA user_version = 10")
        raw.commit()
    with ClassRegistry(path, encoder=Towers()) as registry:
        registry.describe("sky", "blue")
        assert json.dumps(registry.descriptions()) == '{"sky": "blue"}'


def test_beside_too_many_classes_descriptions_are_refused_and_said_to_be_left_out(registry, monkeypatch):
    for label, colour in {"tomato": RED, "leaf": GREEN}.items():
        registry.add(label, png(colour))
    before = registry.predict([png(BLUE)])
    registry.describe("sky", "blue")
    monkeypatch.setattr("fewshot.registry.class_descriptions.MOST_DESCRIBED", 1)
    with pytest.raises(ValueError, match=r"has 3 classes, and descriptions are a prior beside at most 1: it answers"):
        registry.describe("coal", "black")
    with pytest.warns(UserWarning, match="has 2 classes, and descriptions are a prior beside at most 1"):
        assert registry.predict([png(BLUE)]) == before
    assert registry.predict([png(BLUE)]) == before  # said once: warnings are errors here


@pytest.mark.parametrize(
    ("descriptions", "says"),
    [
        ("[]", r"descriptions are an object from labels to texts and vectors, not '\[\]'"),
        ('{"sky": 5}', "the description of 'sky' cannot be read"),
        ('{"sky": ["blue", "AAAA"]}', "the description of 'sky' cannot be read"),
    ],
)
def test_descriptions_of_an_exported_file_that_are_none_are_refused(registry, tmp_path, descriptions, says):
    _describe_colours(registry)
    registry.add("tomato", png(RED))
    registry.export(tmp_path / "e.npz")
    with np.load(tmp_path / "e.npz") as held:
        arrays = dict(held)
    np.savez(tmp_path / "bad.npz", **{**arrays, "descriptions": np.array(descriptions)})
    with (
        ClassRegistry(tmp_path / "copy.fewshot", encoder=Towers()) as copy,
        pytest.raises(ValueError, match=f"bad.npz is not an export of a registry: {says}"),
    ):
        copy.import_examples(tmp_path / "bad.npz")
