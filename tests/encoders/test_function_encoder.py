"""A function of one's own as an encoder."""

from __future__ import annotations

import numpy as np
import pytest
from fakes import BLUE, GREEN, RED, png
from numpy.testing import assert_array_equal

from fewshot import ClassRegistry, EmbeddingCache, Encoder, FunctionEncoder


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
