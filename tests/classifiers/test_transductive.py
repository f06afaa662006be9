"""Transductive methods: each formula derived again, and no collapse where the queries are few or of unequal classes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import softmax
from sklearn.datasets import load_digits
from torch.nn.functional import cosine_similarity, cross_entropy, normalize

import fewshot.classifiers
from fewshot import TimmEncoder
from fewshot.classifiers.bd_cspn import BDCSPNClassifier
from fewshot.classifiers.laplacian_shot import LaplacianShotClassifier
from fewshot.classifiers.prototype import PrototypeClassifier
from fewshot.classifiers.pt_map import PTMAPClassifier
from fewshot.classifiers.simple_shot import SimpleShotClassifier
from fewshot.classifiers.soft_kmeans import SoftKMeansClassifier
from fewshot.classifiers.tim import AlphaTIMClassifier, TIMClassifier, TransductiveFineTuningClassifier

METHODS = [
    kind()
    for name in fewshot.classifiers.__all__
    if getattr(kind := getattr(fewshot.classifiers, name), "transductive", False)
]
every_method = pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.fixture
def task():
    """Three uneven classes and 20 queries of unequal proportions, float64."""
    rng = np.random.default_rng(0)
    y, asked = np.repeat([0, 1, 2], [1, 3, 2]), np.repeat([0, 1, 2], [3, 5, 12])
    means = 0.5 + rng.normal(size=(3, 24))
    x, q = (means[labels] + 0.9 * rng.normal(size=(len(labels), 24)) for labels in (y, asked))
    return x.astype(np.float32).astype(float), y, q.astype(np.float32).astype(float)


@pytest.fixture(scope="module")
def episodes():
    """Draw 5-way one-shot episodes of real handwritten digits, embedded by the bundled encoder."""
    pixels, digits = (part[:900] for part in load_digits(return_X_y=True))
    scans = 255 - pixels.reshape(-1, 8, 8) * (255 / 16)
    vectors = torch.from_numpy(TimmEncoder("pocket").encode(list(scans.round().astype(np.uint8))))

    def draw(proportions, e=30):
        rng = np.random.default_rng(0)
        support, query = [], []
        for _ in range(e):
            deck = [rng.permutation(np.flatnonzero(digits == digit)) for digit in rng.permutation(10)[:5]]
            support.append(np.array([cards[0] for cards in deck]))
            query.append(np.concatenate([cards[1 : 1 + n] for cards, n in zip(deck, proportions, strict=True)]))
        truth = torch.from_numpy(np.repeat(np.arange(5), proportions))
        return vectors[np.stack(support)], torch.arange(5).expand(e, -1), vectors[np.stack(query)], truth

    return draw


def accuracy(method, support, labels, query, truth):
    return float((method.episode_scores(support, labels, query).argmax(-1) == truth).float().mean())


def test_all_seven_are_tested():
    assert len(METHODS) == 7


@every_method
def test_a_single_query_is_answered_by_the_closest_class_mean(method, task):
    x, y, q = task
    method = method.fit(x, y)
    alone = np.concatenate([method.predict(q[i : i + 1]) for i in range(len(q))])
    power = getattr(method, "power", 1.0)
    placed, asked = (unit(np.sign(part) * np.abs(part) ** power) for part in (x, q))
    assert_array_equal(alone, PrototypeClassifier().fit(placed, y).predict(asked))


@every_method
def test_asking_again_or_in_another_order_gives_the_same(method, task):
    x, y, q = task
    method = method.fit(x, y)
    first = method.scores(q)
    assert_array_equal(method.scores(q), first)
    order = np.random.default_rng(1).permutation(len(q))
    assert_allclose(method.scores(q[order]), first[order], rtol=1e-3, atol=1e-3)


@every_method
def test_queries_that_come_together_are_answered_no_worse_than_by_prototypes(method, episodes):
    balanced = episodes([15] * 5)
    alone = accuracy(PrototypeClassifier(), *balanced)
    # Few small steps change little: of 2,250 queries some two or three.
    gain = -0.002 if isinstance(method, TransductiveFineTuningClassifier) else 0.03
    assert accuracy(method, *balanced) >= alone + gain


@every_method
@pytest.mark.parametrize(
    ("proportions", "share"),
    [([75, 0, 0, 0, 0], 0.35), ([55, 5, 5, 5, 5], 0.55), ([1, 1, 0, 0, 0], 0.85)],
    ids=["one class", "one class mostly", "two queries"],
)
def test_unequal_classes_do_not_make_a_method_collapse(method, proportions, share, episodes):
    some = episodes(proportions)
    alone = accuracy(PrototypeClassifier(), *some)
    assert alone > 0.85
    assert accuracy(method, *some) > share * alone > 0.3  # chance is 0.2


@pytest.mark.parametrize("kind", [BDCSPNClassifier, PTMAPClassifier, TIMClassifier], ids=lambda kind: kind.__name__)
def test_the_estimated_prior_saves_what_the_papers_uniform_one_loses(kind, episodes):
    one, balanced = episodes([75, 0, 0, 0, 0]), episodes([15] * 5)
    assert accuracy(kind(), *one) > accuracy(kind(prior="uniform"), *one) + 0.08
    assert accuracy(kind(), *balanced) > accuracy(kind(prior="uniform"), *balanced) - 0.01


def test_soft_kmeans_is_its_loop(task):
    x, y, q = task
    x, q = unit(x), unit(q)
    means = start = np.stack([x[y == c].mean(0) for c in range(3)])
    counts = np.bincount(y)
    for _ in range(4):
        assigned = softmax(-5 * ((q[:, None] - means) ** 2).sum(-1), axis=1)
        means = np.stack(
            [(counts[c] * start[c] + assigned[:, c] @ q) / (counts[c] + assigned[:, c].sum()) for c in range(3)]
        )
    wanted = -5 * ((q[:, None] - means) ** 2).sum(-1)
    assert_allclose(SoftKMeansClassifier(n_iter=4).fit(x, y).scores(q), wanted, atol=1e-4)


def rectified(x, y, q, epsilon):
    """Shift the queries onto the mean of the class means (uniform prior); weigh by the softmax over classes."""
    means = np.stack([x[y == c].mean(0) for c in range(3)])
    q = unit(q + means.mean(0) - q.mean(0))
    of_x, of_q = (softmax(epsilon * part @ unit(means).T, axis=1) for part in (x, q))
    pseudo = of_q.argmax(1)
    prototypes = []
    for c in range(3):
        weight_x, weight_q = of_x[y == c, c], of_q[pseudo == c, c]
        total = weight_x.sum() + weight_q.sum()
        prototypes.append((weight_x @ x[y == c] + weight_q @ q[pseudo == c]) / total)
    return q, np.stack(prototypes)


CENTER = np.random.default_rng(3).normal(0.3, 0.2, 24)


@pytest.mark.parametrize("center", [None, CENTER], ids=["raw", "centred"])
def test_bd_cspn_is_its_loop(task, center):
    x, y, q = task
    origin = 0.0 if center is None else center
    shifted, prototypes = rectified(unit(x - origin), y, unit(q - origin), 20.0)
    found = BDCSPNClassifier(prior="uniform", center=center).fit(x, y).scores(q)
    assert_allclose(found, 10 * shifted @ unit(prototypes).T, atol=1e-4)


@pytest.mark.parametrize("center", [None, CENTER], ids=["raw", "centred"])
@pytest.mark.parametrize("k", [1, 2, 5])
def test_laplacian_shot_is_its_loop(task, k, center):
    x, y, q = task
    origin = 0.0 if center is None else center
    shifted, prototypes = rectified(unit(x - origin), y, unit(q - origin), 20.0)
    unary = -((shifted[:, None] - prototypes) ** 2).sum(-1)
    distance = ((shifted[:, None] - shifted) ** 2).sum(-1)
    np.fill_diagonal(distance, np.inf)
    neighbours = np.zeros_like(distance)
    for i, row in enumerate(distance):
        neighbours[i, np.argsort(row)[:k]] = 1 / k
    logits = unary
    for _ in range(6):
        logits = unary + 0.8 * neighbours @ softmax(logits, axis=1)
    method = LaplacianShotClassifier(weight=0.8, n_neighbors=k, n_iter=6, prior="uniform", center=center)
    assert_allclose(method.fit(x, y).scores(q), logits, atol=1e-4)


def test_an_example_weighs_what_the_softmax_over_classes_gives_it():
    """(.8, .6) is shifted by (-.2, -.2) onto (3, 2) / sqrt(13), whose cosines to the classes are 1 / sqrt(13) apart."""
    epsilon = np.sqrt(13) * np.log(3)  # so that a query weighs 3 / (3 + 1), an example 3^sqrt(13) / (3^sqrt(13) + 1)
    example, query = 1 / (1 + 3 ** -np.sqrt(13)), 3 / 4
    along, across = example + query * 3 / np.sqrt(13), query * 2 / np.sqrt(13)
    own = 10 * (3 * along + 2 * across) / np.sqrt(13) / np.hypot(along, across)
    other = 10 * (3 * across + 2 * along) / np.sqrt(13) / np.hypot(along, across)
    method = BDCSPNClassifier(epsilon=epsilon, prior="uniform").fit([[1, 0], [0, 1]], [0, 1])
    assert_allclose(method.scores([[0.8, 0.6], [0.6, 0.8]]), [[own, other], [other, own]], rtol=1e-5)


@pytest.mark.parametrize("k", [1, 2, 5, 40])
def test_the_laplacian_term_of_equal_queries_is_the_same_for_any_number_of_neighbours(k):
    def scores(**params):
        return LaplacianShotClassifier(prior="uniform", **params).fit([[1, 0], [0, 1]], [0, 1]).scores([[0.9, 0.4]] * 6)

    alone = scores(weight=0.0)
    assert_allclose(scores(weight=2.0, n_neighbors=k, n_iter=1), alone + 2.0 * softmax(alone, axis=1), rtol=1e-5)


def test_a_query_is_no_neighbour_of_its_own():
    method = LaplacianShotClassifier(prior="uniform", n_neighbors=3, n_iter=1).fit([[1, 0], [0, 1]], [0, 1])
    query = [[0.9, 0.4], [0.3, 0.8]]
    alone, found = (method.set_params(weight=weight).scores(query) for weight in (0.0, 1.0))
    assert_allclose(found, alone + softmax(alone, axis=1)[::-1], rtol=1e-5)


@pytest.mark.parametrize("kind", [BDCSPNClassifier, LaplacianShotClassifier], ids=lambda kind: kind.__name__)
def test_a_centre_of_another_size_is_refused_with_both(kind, task):
    x, y, _ = task
    with pytest.raises(ValueError, match=r"center has shape \(3,\), but the embeddings need \(24,\)"):
        kind(center=np.zeros(3)).fit(x, y)


@pytest.mark.parametrize("kind", [BDCSPNClassifier, LaplacianShotClassifier], ids=lambda kind: kind.__name__)
def test_a_single_query_is_answered_by_the_closest_centred_class_mean(kind, task):
    x, y, q = task
    plain, method = SimpleShotClassifier(center=CENTER).fit(x, y), kind(center=CENTER).fit(x, y)
    means = unit(np.stack([plain.prepare(torch.from_numpy(x[y == c])).numpy().mean(0) for c in range(3)]))
    placed = plain.prepare(torch.from_numpy(q)).numpy()
    assert_allclose([method.scores(one[None])[0] for one in q], 10 * placed @ means.T, atol=1e-4)
    assert method.calibration_params(n_queries=1) == plain.calibration_params()


def entropy(p, alpha):
    if alpha is None:
        return -(p * p.log()).sum(-1)
    return (1 - (p**alpha).sum(-1)) / (alpha - 1)


@pytest.mark.parametrize(
    ("method", "weights", "alpha"),
    [
        (TIMClassifier(prior="uniform", steps=12, learning_rate=0.01), (1.0, 1.0, 0.75), None),
        (AlphaTIMClassifier(alpha=3.0, steps=12, learning_rate=0.01), (1.0, 1.0, 1.0), 3.0),
        (TransductiveFineTuningClassifier(scale=10.0, steps=12, learning_rate=0.01), (1.0, 0.0, 1.0), None),
    ],
    ids=["TIM", "alpha-TIM", "transductive fine-tuning"],
)
def test_the_gradients_and_adam_are_those_of_torch(task, method, weights, alpha):
    x, y, q = (torch.from_numpy(part) for part in task)
    x, q = normalize(x, dim=1), normalize(q, dim=1)
    weight = torch.stack([x[y == c].mean(0) for c in range(3)]).requires_grad_()
    optimizer = torch.optim.Adam([weight], lr=0.01)
    for _ in range(12):
        answers = (10 * cosine_similarity(q.unsqueeze(1), weight, dim=-1)).softmax(-1)
        loss = weights[0] * cross_entropy(10 * cosine_similarity(x.unsqueeze(1), weight, dim=-1), y)
        loss = loss - weights[1] * entropy(answers.mean(0), alpha) + weights[2] * entropy(answers, alpha).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    wanted = 10 * cosine_similarity(q.unsqueeze(1), weight.detach(), dim=-1)
    found = method.fit(task[0], task[1]).scores(task[2])
    assert_allclose(found, wanted, atol=2e-3)
    start = PrototypeClassifier().fit(x, y).scores(q)
    assert np.abs(found / 10 - start).max() > 0.02  # else the steps did nothing worth comparing


def test_pt_map_is_its_loop(task):
    x, y, q = (np.abs(part) if part.dtype == float else part for part in task)  # non-negative, as the paper's
    x, q, y = unit(np.sqrt(x)), unit(np.sqrt(q)), task[1]
    centre = np.mean([x[y == c].mean(0) for c in range(3)], axis=0)
    x, q = unit(x - centre), unit(q - centre)
    start = means = np.stack([x[y == c].mean(0) for c in range(3)])
    counts = np.bincount(y)

    def transport(means):
        plan = np.exp(-10 * ((q[:, None] - means) ** 2).sum(-1))
        for _ in range(500):
            plan *= len(q) / 3 / plan.sum(0)
            plan /= plan.sum(1, keepdims=True)
        return plan

    for _ in range(5):
        plan = transport(means)
        estimate = np.stack(
            [(counts[c] * start[c] + plan[:, c] @ q) / (counts[c] + plan[:, c].sum()) for c in range(3)]
        )
        means = means + 0.2 * (estimate - means)
    method = PTMAPClassifier(prior="uniform", n_iter=5).fit(np.abs(task[0]), y)
    assert_allclose(np.exp(method.scores(np.abs(task[2]))), transport(means), atol=2e-3)


def test_what_all_embeddings_share_does_not_blunt_pt_map(task):
    x, y, q = (np.abs(part) for part in task)

    def sureness(shared):
        method = PTMAPClassifier(prior="uniform").fit(x + shared, y.astype(int))
        return np.exp(method.scores(q + shared)).max(axis=1).mean()  # scores are logarithms of assignments

    assert sureness(0.0) > 0.9
    assert sureness(20.0) > 0.9  # cosines above 0.99: the uncentred transform's assignments are nearly uniform


def test_the_power_transform_keeps_the_negative_half(task):
    x, y, q = task
    flip = np.where(np.arange(x.shape[1]) % 2 == 0, 1.0, -1.0)
    plain, flipped = PTMAPClassifier().fit(x, y).scores(q), PTMAPClassifier().fit(x * flip, y).scores(q * flip)
    assert_allclose(flipped, plain, atol=1e-4)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (PTMAPClassifier(prior="balanced"), "prior must be one of 'estimated', 'uniform', not 'balanced'"),
        (BDCSPNClassifier(prior=None), "prior must be one of 'estimated', 'uniform', not None"),
        (TIMClassifier(prior="x"), "prior must be one of"),
        (AlphaTIMClassifier(alpha=1.0), r"alpha must be above 1, not 1\.0; for 1 take TIMClassifier"),
        (LaplacianShotClassifier(n_neighbors=0), "n_neighbors must be a whole number of at least 1, not 0"),
        (SoftKMeansClassifier(n_iter=-1), "n_iter must be a whole number of at least 0, not -1"),
    ],
)
def test_a_wrong_setting_is_refused_with_its_value(method, message, task):
    x, y, q = task
    with pytest.raises(ValueError, match=message):
        method.fit(x, y).predict(q)
