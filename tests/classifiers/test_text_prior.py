"""Texts as a prior on class means: by hand, by a loop, and by draws whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from fewshot import PrototypeClassifier, WhitenedPrototypeClassifier
from fewshot.classifiers import TextPrior, towards_texts


def _units(vectors):
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def _drawn(rng, *, n=1, c=10, d=64, said=0.7, noise=1.0):
    """Images of c classes, n of each and 20 queries, around means that the texts tell with correlation ``said``."""
    true = rng.normal(size=(c, d))
    texts = said * true + np.sqrt(1 - said**2) * rng.normal(size=(c, d))
    gap, text_gap = 3 * rng.normal(size=(2, d))
    codes = np.repeat(np.arange(c), n)
    support = true[codes] + gap + noise * 2 * rng.normal(size=(len(codes), d))
    asked = np.repeat(np.arange(c), 20)
    query = true[asked] + gap + noise * 2 * rng.normal(size=(len(asked), d))
    return _units(support), codes, _units(texts + text_gap), _units(query), asked


def _accuracy(support, codes, query, asked, kind=WhitenedPrototypeClassifier):
    return float((kind().fit(support, codes).predict(query) == asked).mean())


def _mean_accuracies(kind=WhitenedPrototypeClassifier, **how):
    found = []
    for seed in range(12):
        support, codes, texts, query, asked = _drawn(np.random.default_rng(seed), **how)
        moved = towards_texts(support, codes, texts)
        found.append([_accuracy(support, codes, query, asked, kind), _accuracy(*moved, query, asked, kind)])
    return np.mean(found, axis=0)


def test_four_classes_by_hand():
    # Means e1 .. e4 with one example each, and texts of the same four directions: m = u = (1, 1, 1, 1) / 4, b = 1.
    axes = np.eye(4, dtype=np.float32)
    prior = TextPrior.of(axes, np.arange(4), axes)
    assert_allclose([prior.slope, prior.spread], 1.0)
    # Nothing is left of the means around the texts: the ratio is its least, 1/8, so that a text counts as 8 examples.
    assert prior.strength == 8.0
    assert_allclose(prior.alpha(np.array([1.0, 2.0, 100.0])), [8.0, 4.0, 0.08])
    moved, codes = towards_texts(2 * axes, np.arange(4), 3 * axes)
    assert_allclose(moved, axes, atol=1e-6)  # they lie where the texts say
    assert_array_equal(codes, np.arange(4))


def test_a_class_is_turned_by_alpha_and_keeps_its_distance_from_the_centre():
    axes = np.eye(4, dtype=np.float32)
    support = axes.copy()
    support[0] = np.sqrt([0.5, 0.5, 0, 0])  # half of it looks like the second class
    prior = TextPrior.of(support, np.arange(4), axes)
    moved, _ = towards_texts(support, np.arange(4), axes)
    before, after, said = support - support.mean(0), moved - support.mean(0), axes - 0.25
    assert prior.slope > 0.5
    assert_allclose(np.linalg.norm(after, axis=1), np.linalg.norm(before, axis=1), rtol=1e-5)
    wanted = before + prior.strength * prior.slope * said
    assert_allclose(_units(after), _units(wanted), atol=1e-5)


def test_a_class_without_examples_lies_where_its_text_says_beside_the_others():
    axes = np.eye(4, dtype=np.float32)
    texts = np.eye(4, dtype=np.float32)[[2, 3, 0, 1]]  # another permutation of axes: a space of its own
    moved, codes = towards_texts(axes[:2], np.arange(2), texts[:3])
    # m = (1, 1, 0, 0) / 2, u = (0, 0, 1, 1) / 2, and both spreads are equal.
    assert_array_equal(codes, [0, 1, 2])
    assert_allclose(moved[2], [1.5, 0.5, -0.5, -0.5])


def test_without_any_example_the_texts_stand_as_they_are():
    axes = np.eye(3, dtype=np.float32)
    moved, codes = towards_texts(np.empty((0, 3), np.float32), np.empty(0, np.int64), 5 * axes)
    assert_array_equal(moved, axes)
    assert_array_equal(codes, [0, 1, 2])


@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("said", [0.0, 0.15, 0.8])
def test_the_objection_is_that_of_a_loop(n, said):
    for seed in range(20):
        support, codes, texts, *_ = _drawn(np.random.default_rng(seed), n=n, c=4, d=8, said=said)
        prior = TextPrior.of(support, codes, texts)
        assert (prior.slope > 0) == _loop(support.astype(float), codes, texts.astype(float), prior.strength)


def _loop(support, codes, texts, k):
    """Whether texts predict examples better, each left out and all estimated again."""

    def fitted(keep):
        classes = np.unique(codes[keep])
        means = np.array([support[keep & (codes == c)].mean(0) for c in classes])
        m, u = means.mean(0), texts[classes].mean(0)
        b = max(0.0, ((means - m) * (texts[classes] - u)).sum() / np.square(texts[classes] - u).sum())
        return m, u, b

    if not fitted(np.ones(len(codes), bool))[2]:
        return False
    errors = np.zeros(2)
    for i, c in enumerate(codes):
        keep = np.arange(len(codes)) != i
        m, u, b = fitted(keep)
        mates = support[keep & (codes == c)]
        for way, slope in enumerate((0.0, b)):
            predicted = (mates.sum(0) + k * (m + slope * (texts[c] - u))) / (len(mates) + k)
            errors[way] += np.square(support[i] - predicted).sum()
    return errors[1] < errors[0]


@pytest.mark.parametrize("kind", [WhitenedPrototypeClassifier, PrototypeClassifier])
def test_true_texts_help_one_example_most_and_many_hardly(kind):
    (plain, helped), (many, still) = _mean_accuracies(kind, n=1), _mean_accuracies(kind, n=20)
    assert helped > plain + 0.15
    assert many - 0.01 < still < many + 0.1


def test_texts_about_something_else_hardly_harm():
    for n in (1, 2, 5):
        plain, with_texts = _mean_accuracies(n=n, said=0.0)
        assert with_texts > plain - 0.02


def test_texts_of_the_wrong_classes_are_objected_to():
    support, codes, texts, *_ = _drawn(np.random.default_rng(0), n=5)
    assert TextPrior.of(support, codes, texts).slope > 0
    assert TextPrior.of(support, codes, np.roll(texts, 1, axis=0)).slope == 0
    assert_allclose(towards_texts(support, codes, np.roll(texts, 1, axis=0))[0], support, atol=1e-6)


def test_one_class_and_texts_that_are_all_the_same_say_nothing():
    support, codes, texts, *_ = _drawn(np.random.default_rng(0), n=2)
    assert_allclose(towards_texts(support[:2], codes[:2], texts[:1])[0], support[:2], atol=1e-6)
    assert TextPrior.of(support, codes, np.repeat(texts[:1], 10, axis=0)).slope == 0
