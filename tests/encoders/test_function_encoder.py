"""A function of one's own as an encoder."""

from __future__ import annotations

import numpy as np
import pytest
from fakes import BLUE, GREEN, RED, FakeEncoder, png
from numpy.testing import assert_array_equal

from fewshot import ClassRegistry, EmbeddingCache, Encoder, FunctionEncoder
from fewshot.encoders import encode_valid, modality_of
from fewshot.errors import SoundError, TextError
from fewshot.media import Sound, wav_bytes


def mean_colour(images):
    return [np.asarray(image).mean(axis=(0, 1)) for image in images]


def test_a_function_of_opened_pictures_is_called_in_batches_and_is_an_encoder():
    sizes = []

    def function(images):
        sizes.append([image.size[0] for image in images])
        assert {image.mode for image in images} == {"RGB"}
        return mean_colour(images)

    encoder = FunctionEncoder(function, 3, "mean colour", batch_size=2)
    assert isinstance(encoder, Encoder)
    assert_array_equal(
        encoder.encode([png(RED, 4), png(GREEN, 5), png(BLUE, 6)]), [[255, 0, 0], [0, 255, 0], [0, 0, 255]]
    )
    assert sizes == [[4, 5], [6]]
    assert encoder.encode([]).shape == (0, 3)


def test_in_a_batch_a_bad_picture_is_listed_and_the_others_go_on():
    found = FunctionEncoder(mean_colour, 3, "mean colour", batch_size=2).encode_valid([b"no", b"picture", png(BLUE)])
    assert found.kept.tolist() == [2]
    assert_array_equal(found.vectors, [[0, 0, 255]])
    assert [position for position, _ in found.failed] == [0, 1]


def test_a_registry_and_a_cache_work_with_it(tmp_path):
    cached = EmbeddingCache(FunctionEncoder(mean_colour, 3, "mean colour"), tmp_path / "cache.db")
    with ClassRegistry(tmp_path / "r.fewshot", encoder=cached) as registry:
        registry.add("red", [png(RED)])
        registry.add("blue", [png(BLUE)])
        assert registry.predict([png((250, 10, 10))])[0].label == "red"


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda images: np.ones((len(images), 2)), r"expected vectors of shape \(n, 3\), got \(2, 2\)"),
        (lambda images: np.ones((1, 3)), "expected one vector for each of 2 images, got 1"),
        (lambda images: np.full((len(images), 3), np.nan), "vector 0 of 2 holds NaN or infinity"),
    ],
)
def test_what_is_no_vector_an_image_is_refused(function, message):
    with pytest.raises(ValueError, match=message):
        FunctionEncoder(function, 3, "x").encode([png(RED), png(BLUE)])


def vowels(texts: list[str]) -> np.ndarray:
    return np.array([[text.count(letter) for letter in "aeiou"] for text in texts], np.float32)


def energy(sounds: list[Sound]) -> np.ndarray:
    return np.array([[np.square(sound.samples()).mean(), sound.seconds] for sound in sounds], np.float32)


def test_a_function_of_texts_reads_str_files_and_bytes(tmp_path):
    encoder = FunctionEncoder(vowels, 5, "vowels 1", modality="text")
    (tmp_path / "a.txt").write_text("banana\n", encoding="utf-8")

    vectors = encoder.encode(["banana", tmp_path / "a.txt", b" banana "])

    np.testing.assert_array_equal(vectors, [[3, 0, 0, 0, 0]] * 3)
    assert modality_of(encoder) == "text"


def test_a_function_of_sounds_reads_samples_and_files():
    encoder = FunctionEncoder(energy, 2, "energy 1", modality="audio")
    samples = np.tile(np.float32([0.5, -0.5]), 4000)

    np.testing.assert_allclose(encoder.encode([(samples, 8000), wav_bytes(samples, 8000)]), [[0.25, 1.0]] * 2)


def test_texts_and_sounds_that_cannot_be_read_are_listed_as_such():
    texts = FunctionEncoder(vowels, 5, "vowels 1", modality="text").encode_valid(["a", "", "b", b"\xff"])
    assert texts.kept.tolist() == [0, 2]
    assert [(n, type(error)) for n, error in texts.failed] == [(1, TextError), (3, TextError)]
    with pytest.raises(SoundError, match=r"is silent: its 0.0 s hold one value only \(sound 0 of 1\)"):
        FunctionEncoder(energy, 2, "energy 1", modality="audio").encode([(np.zeros(9), 8000)])


def test_one_text_alone_is_no_sequence_of_texts():
    with pytest.raises(TypeError, match=r"encode takes a sequence of texts; for one, give \[text\], not str"):
        FunctionEncoder(vowels, 5, "vowels 1", modality="text").encode("a fine film")


def test_another_modality_is_refused():
    with pytest.raises(ValueError, match="modality"):
        FunctionEncoder(vowels, 5, "vowels 1", modality="video").encode(["a"])


def test_a_custom_encoder_that_says_what_it_embeds_gets_that_and_else_images():
    class Vowels:
        dim, fingerprint, modality = 5, "vowels 1", "text"

        def encode(self, texts):
            return vowels(texts)

    assert encode_valid(Vowels(), ["banana", ""]).vectors.tolist() == [[3, 0, 0, 0, 0]]
    assert modality_of(FakeEncoder()) == "image"


@pytest.mark.parametrize("modality", ["text", "audio"])
def test_a_cache_has_its_encoders_modality_and_asks_it_once(modality, tmp_path):
    calls = []

    def count(examples):
        calls.append(len(examples))
        return np.ones((len(examples), 2))

    given = {"text": ["cafe\u0301", " caf\u00e9", ""], "audio": [(np.arange(9.0), 8000)] * 2 + [b""]}[modality]
    cache = EmbeddingCache(FunctionEncoder(count, 2, "ones", modality=modality), tmp_path / "cache.sqlite")

    encoded = cache.encode_valid(given)

    assert modality_of(cache) == modality
    assert calls == [1]  # of the same content
    assert encoded.kept.tolist() == [0, 1]
    assert "empty" in encoded.failed[0][1].reason
