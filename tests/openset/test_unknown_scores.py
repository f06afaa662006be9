"""None of these: scores by their formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from unknown_data import AXES, BETWEEN, known_of

from fewshot.openset.background import Background
from fewshot.openset.center import Center
from fewshot.openset.unknown_scores import DEFAULT, SCORES
from fewshot.openset.whitening import Whitening


def score(name, query, known):
    return float(SCORES[name](known, torch.tensor(query))[0, 0])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("softmax", 1 - 1 / (1 + np.exp(-2))),
        ("cosine", -0.8),
        ("margin", 0.6 - 0.8),
        ("energy", -np.log(np.exp(8) + np.exp(6)) / 10),
        ("implicit", np.exp(-7) / (np.exp(8) + np.exp(6) + np.exp(-7))),
        ("nearest", -0.8),
    ],
)
def test_scores_without_a_background_are_their_formulas_by_hand(name, expected):
    assert_allclose(score(name, BETWEEN, known_of(AXES, [[0, 1]])), expected, rtol=1e-5)


QUERY, FIRST, SECOND = np.array([0.8, 0.6, 0.0]), np.array([1.0, 0, 0]), np.array([0, 1.0, 0])


def about(centre, prototype):
    a, b = QUERY - centre, prototype - centre
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


def energy_about(first, second):
    """By hand, of the first class around one centre and of the second around another."""
    scale = 40.0
    return -np.log(np.exp(scale * about(first, FIRST)) + np.exp(scale * about(second, SECOND))) / scale


def test_without_a_background_the_other_classes_are_the_centre():
    expected = energy_about(SECOND, FIRST)
    assert_allclose(score("centered", BETWEEN, known_of(AXES, [[0, 1]])), expected, rtol=1e-5)


def test_an_encoders_centre_counts_as_classes_beside_the_others():
    at = np.array([0.3, 0.3, 0.2])
    # The classes' variance is 1 and their mean (0.5, 0.5, 0): 0.12 away, where 0.5 is expected by chance. So the centre
    # counts as all of the 7 classes that it was made of.
    center = Center(torch.tensor(at, dtype=torch.float32), 7)
    expected = energy_about((SECOND + 7 * at) / 8, (FIRST + 7 * at) / 8)
    assert_allclose(score("centered", BETWEEN, known_of(AXES, [[0, 1]], None, center)), expected, rtol=1e-5)
    one_class = known_of([AXES[0][:1]], [[0]], None, center)
    assert_allclose(score("centered", BETWEEN, one_class), -about(at, FIRST), rtol=1e-5)


def test_a_background_knows_more_than_a_centre():
    background = Background.of(np.eye(3, dtype=np.float32))
    both = known_of(AXES, [[0, 1]], background, Center(torch.ones(3), 5))
    assert score("centered", BETWEEN, both) == score("centered", BETWEEN, known_of(AXES, [[0, 1]], background))


def test_with_a_background_its_mean_is_the_centre():
    # The background's mean is (0, 0, 1); from there the class goes along (1, 0, -1), the query along (0, 1, -1).
    background = Background.of(np.array([[0, 0, 5.0], [0, 0, 1.0]], np.float32))
    known = known_of([[[7.0, 0.0, 0.0]]], [[0]], background)
    assert_allclose(score("centered", [[[0.0, 2.0, 0.0]]], known), -0.5, rtol=1e-5)


def energy_of(cosines):
    return -np.log(np.exp(40 * cosines).sum()) / 40


@pytest.mark.parametrize("n", [64, 300, 63])
def test_a_background_of_sixty_four_vectors_whitens_and_one_of_sixty_three_only_centres(n):
    rng = np.random.default_rng(6)
    B = (rng.normal(size=(n, 4)) * [3, 1, 1, 0.3]).astype(np.float32)
    unit = B / np.linalg.norm(B, axis=1, keepdims=True)
    residuals = unit - unit.mean(0)
    strength = 64 if n >= 64 else 0
    precision = np.linalg.inv(np.eye(4) + strength / (residuals**2).sum() * residuals.T @ residuals)
    classes, query = np.array([[1.0, 0, 0, 0], [0, 0.6, 0.8, 0]]), np.array([0.6, 0, 0, 0.8])
    q, p = query - unit.mean(0), classes - unit.mean(0)
    cosines = p @ precision @ q / np.sqrt((q @ precision @ q) * np.einsum("kd,de,ke->k", p, precision, p))
    known = known_of([classes.astype(np.float32).tolist()], [[0, 1]], Background.of(B))
    assert_allclose(score("centered", [[query.tolist()]], known), energy_of(cosines), rtol=1e-4)


def test_without_a_background_sixty_four_examples_whiten_and_sixty_three_do_not():
    rng = np.random.default_rng(7)
    X, labels = rng.normal(size=(64, 6)) * [3, 1, 1, 1, 1, 0.3], np.arange(64) % 4
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    residuals = unit - unit.mean(0)
    precision = np.linalg.inv(np.eye(6) + 64 / (residuals**2).sum() * residuals.T @ residuals)
    p = np.stack([unit[labels == k].mean(0) for k in range(4)])
    q = np.eye(6)[5]
    cosines = []
    for k in range(4):
        centre = np.delete(p, k, 0).mean(0)
        a, b = q - centre, p[k] - centre
        cosines.append(a @ precision @ b / np.sqrt((a @ precision @ a) * (b @ precision @ b)))
    known = known_of(X[None].astype(np.float32).tolist(), labels[None])
    assert_allclose(score("centered", [[q.tolist()]], known), energy_of(np.array(cosines)), rtol=1e-4)
    assert known_of(X[None, 1:].astype(np.float32).tolist(), labels[None, 1:]).whitening is None


def test_a_whitening_of_many_vectors_is_that_of_few_in_other_axes():
    """Products are the same by a Cholesky factor (257 vectors and more) as by the vectors' own directions."""
    rng = np.random.default_rng(8)
    few = torch.tensor(rng.normal(size=(200, 5)), dtype=torch.float32)
    many = torch.cat([few, few[:100], few[:100]])
    x, weights = few[:7], torch.ones(400)
    weights[200:] = 0
    assert many.shape[0] == 400
    first = Whitening.of(few, 9.0)(x)
    second = Whitening.of(many, 9.0, real=weights)(x)
    assert_allclose(second @ second.mT, first @ first.mT, rtol=1e-4, atol=1e-5)


def test_mahalanobis_is_the_relative_distance_by_matrices():
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(6), 10)
    B = rng.normal(size=(6, 4))[y] + 0.5 * rng.normal(size=(60, 4))
    unit = B / np.linalg.norm(B, axis=1, keepdims=True)
    means = np.stack([unit[y == c].mean(0) for c in range(6)])

    def precision(residuals, freedom):
        covariance = residuals.T @ residuals / freedom
        return np.linalg.inv(0.5 * covariance + 0.5 * np.trace(covariance) / 4 * np.eye(4))

    within, overall = precision(unit - means[y], 54), precision(unit - unit.mean(0), 60)
    classes, query = np.array([[1.0, 0, 0, 0], [0, 0.6, 0.8, 0]]), np.array([0.6, 0, 0, 0.8])
    distances = [(query - p) @ within @ (query - p) for p in classes]
    expected = min(distances) - (query - unit.mean(0)) @ overall @ (query - unit.mean(0))
    known = known_of(
        [classes.astype(np.float32).tolist()], [[0, 1]], Background.of(B.astype(np.float32), y.astype(str))
    )
    assert_allclose(score("mahalanobis", [[query.tolist()]], known), expected, rtol=1e-4)


@pytest.fixture(scope="module")
def episodes():
    """Five episodes of unequal classes, padded, and a background."""
    rng = np.random.default_rng(1)
    labels = np.array(
        [[0, 0, 0, 1, 2, 2], [0, 1, 1, 1, 2, 2], [0, 1, 2, -1, -1, -1], [2, 1, 0, 0, -1, -1], [0, 1, 2, 2, 2, -1]]
    )
    support, query = rng.normal(size=(5, 6, 8)), rng.normal(size=(5, 7, 8))
    return support.astype(np.float32), labels, query.astype(np.float32), rng.normal(size=(40, 8)).astype(np.float32)


@pytest.mark.parametrize("name", [*SCORES, "centered, with a centre"])
def test_many_episodes_at_once_score_as_a_loop_without_their_padding(name, episodes):
    support, labels, query, others = episodes
    to_go_by = (Background.of(others), None)
    if name not in SCORES:
        name, to_go_by = DEFAULT, (None, Center(torch.tensor(others.mean(0)), 40))
    many = SCORES[name](known_of(support, labels, *to_go_by), torch.tensor(query))
    for e, real in enumerate(labels >= 0):
        alone = known_of(support[e, real][None], labels[e, real][None], *to_go_by)
        one = SCORES[name](alone, torch.tensor(query[e][None]))
        assert_allclose(many[e], one[0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", SCORES)
def test_the_lengths_of_vectors_change_no_score(name, episodes):
    support, labels, query, others = episodes
    plain = SCORES[name](known_of(support, labels, Background.of(others)), torch.tensor(query))
    longer = SCORES[name](known_of(5 * support, labels, Background.of(3 * others)), torch.tensor(0.1 * query))
    assert_allclose(longer, plain, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", SCORES)
def test_a_picture_far_from_every_class_is_more_surely_unknown(name):
    others = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    known = known_of(AXES, [[0, 1]], Background.of(others))
    assert score(name, [[[-1.0, -1.0, 1.0]]], known) > score(name, [[[1.0, 0.1, 0.0]]], known)


def test_what_needs_a_background_says_so():
    with pytest.raises(ValueError, match="'mahalanobis' compares with a background: give vectors of other classes"):
        score("mahalanobis", BETWEEN, known_of(AXES, [[0, 1]]))


@pytest.mark.parametrize(
    ("vectors", "labels", "message"),
    [
        (np.empty((0, 3)), None, "the background has no vectors"),
        (np.ones((2, 3)), ["a"], "2 vectors but 1 labels"),
        ([[1.0, np.nan]], None, "vector 0 of 1 holds NaN"),
    ],
)
def test_a_background_that_is_none_is_refused(vectors, labels, message):
    with pytest.raises(ValueError, match=message):
        Background.of(vectors, labels)


# The line
