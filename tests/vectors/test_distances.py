"""Closeness against numbers by hand and brute force in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from fewshot.validation import METRICS
from fewshot.vectors.distances import closeness, key_lengths


def brute_force(query, keys, metric):
    query, keys = np.asarray(query, float), np.asarray(keys, float)
    if metric == "sqeuclidean":
        return -((query[:, None] - keys[None]) ** 2).sum(-1)
    if metric == "cosine":
        query = query / np.linalg.norm(query, axis=1, keepdims=True)
        keys = keys / np.linalg.norm(keys, axis=1, keepdims=True)
    return query @ keys.T


def test_closeness_by_hand():
    query, keys = torch.tensor([[3.0, 4.0]]), torch.tensor([[3.0, 4.0], [4.0, -3.0], [0.0, 2.0]])
    assert_allclose(closeness(query, keys, "cosine"), [[1.0, 0.0, 0.8]], atol=1e-6)
    assert_allclose(closeness(query, keys, "sqeuclidean"), [[0.0, -50.0, -13.0]], atol=1e-5)
    assert_allclose(closeness(query, keys, "inner_product"), [[25.0, 0.0, 8.0]])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("mean", [0.0, 1000.0])
def test_closeness_equals_brute_force_also_far_from_the_origin(metric, mean):
    rng = np.random.default_rng(0)
    query, keys = (rng.normal(mean, 1.0, (n, 24)).astype(np.float32) for n in (5, 7))
    expected = brute_force(query, keys, metric)
    found = closeness(torch.from_numpy(query), torch.from_numpy(keys), metric)
    assert_allclose(found, expected, rtol=1e-5, atol=1e-6 if metric == "cosine" else 1e-3)


def test_without_the_shift_squared_distances_far_from_the_origin_are_lost():
    rng = np.random.default_rng(0)
    query, keys = (torch.from_numpy(rng.normal(1000.0, 1.0, (n, 24)).astype(np.float32)) for n in (5, 7))
    naive = 2 * query @ keys.T - query.square().sum(-1)[:, None] - keys.square().sum(-1)
    assert np.abs(naive.numpy() - brute_force(query, keys, "sqeuclidean")).max() > 0.1


@pytest.mark.parametrize("metric", METRICS)
def test_each_episode_of_a_batch_has_its_own_closeness(metric):
    rng = torch.Generator().manual_seed(0)
    query, keys = torch.randn(4, 3, 6, generator=rng), torch.randn(4, 5, 6, generator=rng)
    together = closeness(query, keys, metric)
    assert together.shape == (4, 3, 5)
    for number in range(4):
        assert_allclose(together[number], closeness(query[number], keys[number], metric), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("metric", METRICS)
def test_keys_measured_once_give_the_same_closeness(metric):
    rng = torch.Generator().manual_seed(0)
    query, keys = torch.randn(3, 6, generator=rng), torch.randn(5, 6, generator=rng)
    assert_allclose(closeness(query, keys, metric, lengths=key_lengths(keys)), closeness(query, keys, metric), rtol=0)


def test_a_zero_vector_has_cosine_zero_to_everything():
    assert closeness(torch.zeros(1, 3), torch.eye(3), "cosine").tolist() == [[0.0, 0.0, 0.0]]


def test_cosines_and_squared_distances_never_leave_their_range():
    vectors = torch.randn(200, 7, generator=torch.Generator().manual_seed(0)) * 50
    assert closeness(vectors, vectors, "cosine").abs().max() <= 1.0
    assert closeness(vectors, vectors, "sqeuclidean").max() <= 0.0


def test_an_unknown_metric_is_refused_naming_the_known():
    with pytest.raises(ValueError, match="metric must be one of 'cosine', 'sqeuclidean', 'inner_product', not 'l2'"):
        closeness(torch.zeros(1, 2), torch.zeros(1, 2), "l2")
