"""Candidates by compressed vectors, against brute force."""

from __future__ import annotations

import numpy as np
import pytest

from fewshot.vectors import CompressedVectors


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("d", [7, 64, 200])
def test_the_closest_vector_is_among_the_candidates(d):
    rng = np.random.default_rng(d)
    vectors = unit(rng.normal(size=(4000, d)) * rng.uniform(0.2, 2.0, d))  # directions vary unequally
    query = unit(vectors[::20] + 0.5 * rng.normal(size=(200, d)) / np.sqrt(d))
    found = CompressedVectors(d)
    found.add(vectors[:3000])
    found.add(vectors[3000:])
    assert len(found) == 4000
    best = (query @ vectors.T).argmax(axis=1)
    candidates = found.search(query, 100)
    assert candidates.shape == (200, 100)
    assert (candidates == best[:, None]).any(axis=1).mean() >= 0.995


def test_of_fewer_vectors_all_are_candidates():
    vectors = unit(np.random.default_rng(0).normal(size=(50, 12)))
    found = CompressedVectors(12)
    found.add(vectors)
    assert np.sort(found.search(vectors[:2], 100), axis=1).tolist() == [list(range(50))] * 2


def test_the_same_vectors_give_the_same_candidates():
    vectors = unit(np.random.default_rng(0).normal(size=(500, 12)))
    one, other = CompressedVectors(12), CompressedVectors(12)
    one.add(vectors)
    other.add(vectors)
    assert np.array_equal(one.search(vectors, 5), other.search(vectors, 5))
