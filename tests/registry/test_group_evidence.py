"""How much the members of a group tell together."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose

from fewshot.registry import group_evidence
from fewshot.registry.group_evidence import GroupCombiner, GroupEvidence, class_scatter
from fewshot.registry.snapshot import Snapshot

AXES = np.eye(4, dtype=np.float32)


def snapshot(vectors, codes):
    vectors, codes = np.asarray(vectors, np.float32), np.asarray(codes)
    n, c = len(vectors), int(codes.max()) + 1
    lengths = np.linalg.norm(vectors, axis=1).astype(np.float32)
    ids = np.arange(1, n + 1)
    settings = {"revision": 1, "rewrites": 0}
    return Snapshot(settings, ids, vectors, lengths, ids, codes, [str(k) for k in range(c)], np.arange(1, c + 1))


def mean_squared_distance(unit, pairs):
    return np.mean([np.square(unit[i] - unit[j]).sum() for i, j in pairs])


def test_scatter_is_the_mean_squared_distance_within_classes_beside_the_usual_share_of_that_of_any_two():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(12, 5)) * rng.uniform(1, 9, size=(12, 1))  # lengths say nothing
    codes = np.repeat(np.arange(3), 4)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    pairs = [(i, j) for i in range(12) for j in range(i)]
    within = mean_squared_distance(unit, [(i, j) for i, j in pairs if codes[i] == codes[j]])
    share = group_evidence._WITHIN_SHARE * mean_squared_distance(unit, pairs)

    # 3 classes of 4 have 9 differences within; the usual share counts as 8
    assert class_scatter(snapshot(vectors, codes)) == pytest.approx((8 * share + 9 * within) / 17, rel=1e-5)
    # one example each: nothing but the usual share
    some = unit[::4]
    share = group_evidence._WITHIN_SHARE * mean_squared_distance(some, [(0, 1), (0, 2), (1, 2)])
    assert class_scatter(snapshot(some, [0, 1, 2])) == pytest.approx(share, rel=1e-5)


def test_one_class_gives_its_own_scatter_and_one_example_one_that_divides():
    assert class_scatter(snapshot(AXES[:2], [0, 0])) == pytest.approx(2.0)
    assert class_scatter(snapshot(AXES[:1], [0])) == 1.0
    assert class_scatter(snapshot(AXES[[0, 0]], [0, 1])) == 1.0  # no two differ


def test_thousands_of_examples_are_sampled_to_about_the_same_scatter(monkeypatch):
    rng = np.random.default_rng(1)
    codes = np.repeat(np.arange(400), 3)
    vectors = rng.normal(size=(400, 16))[codes] + 0.5 * rng.normal(size=(1200, 16))
    exact = class_scatter(snapshot(vectors, codes))
    monkeypatch.setattr(group_evidence, "_MOST_EXAMPLES", 400)

    assert class_scatter(snapshot(vectors, codes)) == pytest.approx(exact, rel=0.05)
    assert class_scatter(snapshot(vectors, np.repeat([0, 1], 600))) > 0  # two classes of more than are compared


def test_copies_share_one_weight_and_different_ones_have_one_each():
    evidence = GroupEvidence.of(np.stack([AXES[0], 3 * AXES[0], AXES[0], AXES[1], AXES[2]]), scatter=1.0)

    assert_allclose(evidence.weights, np.array([1 / 3, 1 / 3, 1 / 3, 1, 1]) / 3, atol=1e-6)
    assert evidence.concentration == pytest.approx(1 / 3)


def test_likeness_falls_with_the_squared_distance_as_by_hand():
    cosine = 0.75  # squared distance 0.5
    pair = np.array([[1.0, 0.0], [cosine, math.sqrt(1 - cosine**2)]], np.float32)

    assert GroupEvidence.of(pair, scatter=2.0).concentration == pytest.approx((1 + 0.75) / 2)
    assert GroupEvidence.of(pair, scatter=0.5).concentration == pytest.approx(0.5)


def test_effective_size_is_one_for_copies_and_below_the_number_of_different_ones():
    copies = GroupEvidence.of(AXES[[0, 0, 0]], 1.0)
    different = GroupEvidence.of(AXES, 1.0)

    assert copies.effective_size(1) == pytest.approx(1.0)
    assert different.effective_size(1) == pytest.approx(4 / (1 + 3 * 0.32))  # Kish: n / (1 + (n - 1) rho)
    assert 1 < different.effective_size(1) < different.effective_size(5) < 4
    assert GroupEvidence.of(AXES[:1], 1.0).effective_size(5) == pytest.approx(1.0)


def test_a_groups_threshold_lies_closer_to_the_mean_the_more_different_its_members_are():
    copies, different = GroupEvidence.of(AXES[[0, 0, 0]], 1.0), GroupEvidence.of(AXES, 1.0)

    assert copies.threshold(-0.6, mean=-0.2) == pytest.approx(-0.6)
    assert different.threshold(-0.6, mean=-0.2) == pytest.approx(-0.2 - 0.4 * math.sqrt(0.5 + 0.5 / 4))


def test_rows_are_compared_in_parts_with_the_same_weights(monkeypatch):
    vectors = np.random.default_rng(2).normal(size=(9, 3)).astype(np.float32)
    whole = GroupEvidence.of(vectors, 1.5)
    monkeypatch.setattr(group_evidence, "_ROWS_AT_ONCE", 2)
    parts = GroupEvidence.of(vectors, 1.5)

    assert_allclose(parts.weights, whole.weights, rtol=1e-6)
    assert parts.concentration == pytest.approx(whole.concentration)


def test_log_probabilities_are_added_as_often_as_members_count_wherever_the_parts_end():
    groups = [GroupEvidence.of(AXES, 1.0), GroupEvidence.of(AXES[:1], 1.0), GroupEvidence.of(AXES[[0, 1]], 1.0)]
    p = np.random.default_rng(3).dirichlet(np.ones(3), size=7).astype(np.float32)
    expected = []
    for rows, evidence in zip((p[:4], p[4:5], p[5:]), groups, strict=True):
        product = np.prod(rows.astype(float) ** (evidence.effective_size(2) / len(rows)), axis=0)
        expected.append(np.sort(product / product.sum())[::-1])

    for size in (1, 2, 3, 7):
        combiner = GroupCombiner(groups, 2, 3)
        for start in range(0, 7, size):
            combiner.take(p[start : start + size])
        assert_allclose([found for _, found in combiner.ranked], expected, rtol=1e-5)
    assert combiner.ranked[1][0][0] == p[4].argmax()


def test_a_probability_of_zero_leaves_numbers():
    combiner = GroupCombiner([GroupEvidence.of(AXES[:2], 1.0)], 1, 2)
    combiner.take(np.array([[1.0, 0.0], [0.0, 1.0]], np.float32))

    assert_allclose(combiner.ranked[0][1], [0.5, 0.5])
