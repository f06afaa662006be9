"""MAML and ANIL through learn2learn, where it is installed; docs/pages/tutorials/train.md says how."""

from __future__ import annotations

import warnings

import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from torch import nn
from torch.nn import functional
from training_data import digits, log, train, weights

from fewshot import Dataset, TimmEncoder
from fewshot.training.decoded_images import DecodedImages
from fewshot.training.maml import Adaptation, recompute_norm_statistics
from fewshot.training.objectives import TrainingSet
from fewshot.training.recipe import Recipe

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # learn2learn imports gym, which warns of its age
    pytest.importorskip("learn2learn", reason="learn2learn is not installed", exc_type=ImportError)

EPISODES = {"batch_size": (2,), "queries": 3, "inner_steps": 2, "epochs": 1}


@pytest.mark.parametrize("method", ["maml", "anil"])
def test_it_learns_repeats_and_leaves_an_encoder(method, tmp_path, monkeypatch):
    monkeypatch.setattr("fewshot.training.validation_episodes._ADAPTED", 20)
    data = digits(12)
    results = [train(tmp_path / name, data, method=method, **{**EPISODES, "epochs": 3}) for name in ("one", "two")]
    one, two = (log(result.folder) for result in results)
    assert one == two
    assert one[-1]["loss"] < one[0]["loss"]
    for name, value in weights(tmp_path / "one").items():
        assert_array_equal(weights(tmp_path / "two")[name], value)
    measures = [found["measure"] for found in results[0].validation]
    assert measures == ["3-way 1-shot, adapted in 2 steps", "3-way 1-shot, cosine prototypes"]
    assert results[0].validation[0]["accuracy"] > 0.44  # chance is 1 in 3, its deviation 0.035
    vectors = TimmEncoder(f"local-dir:{tmp_path / 'one'}").encode(data.images[:3])
    assert vectors.shape == (3, 64)


def adaptation(method, rate=0.3):
    noise = DecodedImages(
        "noise", torch.zeros(6, 3, 4, 4, dtype=torch.uint8), torch.tensor([0, 0, 0, 1, 1, 1]), ("a", "b"), None
    )
    some = TrainingSet(noise, "none", False, 1, 2, 1.0, 0.0)
    torch.manual_seed(0)
    return Adaptation([some], 3, Recipe(method=method, inner_steps=1, inner_rate=rate, ways=(2,)))


class Linear(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.weight = nn.Parameter(torch.randn(3, 5))

    def forward(self, x):
        return x @ self.weight.T


@pytest.mark.parametrize("method", ["maml", "anil"])
def test_one_step_of_adaptation_is_the_papers_and_so_is_the_gradient_through_it(method):
    """By hand: w' = w - a dL_support/dw, for the last layer and (MAML) the trunk; then the queries' gradient."""
    objective, trunk = adaptation(method), Linear()
    x = torch.randn(2 + 4, 5, generator=torch.Generator().manual_seed(2))
    scores, target = objective.query_scores(trunk, x, second_order=True)
    assert target.tolist() == [0, 0, 1, 1]
    functional.cross_entropy(scores, target).backward()
    found = [trunk.weight.grad, objective.head.weight.grad]

    w, v, b = (p.detach().clone().requires_grad_() for p in (trunk.weight, objective.head.weight, objective.head.bias))
    support = functional.cross_entropy(x[:2] @ w.T @ v.T + b, torch.tensor([0, 1]))
    dw, dv, db = torch.autograd.grad(support, (w, v, b), create_graph=True)
    adapted = w - 0.3 * dw if method == "maml" else w
    by_hand = x[2:] @ adapted.T @ (v - 0.3 * dv).T + (b - 0.3 * db)
    assert_allclose(scores.detach(), by_hand.detach(), rtol=1e-4, atol=1e-5)
    functional.cross_entropy(by_hand, target).backward()
    for one, other in zip(found, (w.grad, v.grad), strict=True):
        assert_allclose(one, other, rtol=1e-3, atol=1e-5)


def test_noise_is_answered_by_chance(tmp_path, monkeypatch):
    """No label of a query leaks into its answer."""
    monkeypatch.setattr("fewshot.training.validation_episodes._ADAPTED", 60)
    noise = torch.randint(
        0, 256, (120, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    ).numpy()
    data = Dataset("noise", tuple(noise), tuple(str(i // 12) for i in range(120)))
    found = train(tmp_path / "out", data, method="maml", **EPISODES).validation[0]
    assert abs(found["accuracy"] - 1 / 3) < 3 * found["ci95"] / 1.96 + 0.02


def test_running_statistics_are_measured_anew():
    norm = nn.BatchNorm2d(2)
    x = torch.randn(50, 2, 3, 3, generator=torch.Generator().manual_seed(0)) * 3 + 7
    recompute_norm_statistics(norm, list(x.split(10)))
    assert_allclose(norm.running_mean, x.mean((0, 2, 3)), rtol=1e-4)
    assert norm.momentum == 0.1


def test_data_of_differing_ways_are_refused(tmp_path):
    with pytest.raises(ValueError, match="maml adapts one last layer, so all data need the same --ways"):
        train(tmp_path / "out", digits(12), digits(12, name="more"), method="maml", ways=(2, 3), **EPISODES)
