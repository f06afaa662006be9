"""Workers that share a batch."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from numpy.testing import assert_allclose
from torch import nn
from training_data import training_set

from fewshot.encoders import thread_count
from fewshot.training.objectives import Classical
from fewshot.training.recipe import Recipe
from fewshot.training.steps import FeatureStep, Preprocessor
from fewshot.training.workers import Workers, worker_count

CPU = torch.device("cpu")


class Plain(nn.Module):
    """A trunk without batch norm: its gradients do not depend on how a batch is shared."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.conv(x).mean((2, 3))


@pytest.mark.parametrize("n", [2, 3])
def test_gradients_of_shares_add_up_to_those_of_the_whole_batch(n):
    training_sets = [training_set(batch=7), training_set((3, 3), batch=4, weight=0.5)]
    found = []
    for workers in (1, n):
        trunk = Plain()
        torch.manual_seed(1)
        objective = Classical(training_sets, 4, Recipe())
        step = FeatureStep(training_sets, objective, Preprocessor((0.5,) * 3, (0.25,) * 3, CPU, "float32"), 0)
        with Workers(trunk, workers) as pool:
            positions = [plan[0] for plan in step.plan(0)]
            loss, right = step(pool, positions, 0, 8)
        found.append(
            [loss, right, *(p.grad for p in trunk.parameters()), *(p.grad for p in objective.heads.parameters())]
        )
    for one, other in zip(*found, strict=True):
        assert_allclose(one, other, rtol=1e-5, atol=1e-4)
    assert found[0][2].abs().max() > 1e-3


def test_an_update_of_the_network_is_its_replicas_too():
    trunk = Plain()
    workers = Workers(trunk, 2)
    with torch.no_grad():
        trunk.conv.weight.zero_()
    assert workers.replicas[1].conv.weight.abs().max() == 0
    assert workers.replicas[1].conv.weight is not trunk.conv.weight


def test_workers_compute_on_one_core_each_and_other_threads_are_unaffected():
    def new_thread_has():
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(thread_count).result()

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with Workers(Plain(), 2) as workers:
            assert workers.map(lambda _: torch.get_num_threads(), range(2)) == [1, 1]
            assert torch.get_num_threads() == 1
            assert new_thread_has() == 2
        assert torch.get_num_threads() == new_thread_has() == 2
    finally:
        torch.set_num_threads(before)


def test_workers_follow_torchs_threads_but_leave_each_a_share(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    assert worker_count(CPU, 192, least=16) == 8
    assert worker_count(CPU, 40, least=16) == 2
    assert worker_count(CPU, 3, least=16) == 1
    assert worker_count(torch.device("cuda"), 192, least=16) == 1
