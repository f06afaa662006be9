"""The losses of training against the papers' formulas, and what a batch holds."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from training_data import training_set

from fewshot.training.objectives import Classical, ContrastiveLoss, Prototypical
from fewshot.training.recipe import Recipe


def test_the_contrastive_loss_is_the_papers():
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    labels = [0, 1, 0, 2, 1, 1]  # 2 has no partner
    unit = x / x.norm(dim=1, keepdim=True)
    losses = []
    for i in range(6):
        partners = [p for p in range(6) if p != i and labels[p] == labels[i]]
        below = sum(math.exp(16 * float(unit[i] @ unit[a])) for a in range(6) if a != i)
        terms = [-math.log(math.exp(16 * float(unit[i] @ unit[p])) / below) for p in partners]
        losses += [sum(terms) / len(terms)] if terms else []
    found = ContrastiveLoss()(x, torch.tensor(labels))
    assert_allclose(float(found.detach()), np.mean(losses), rtol=1e-5)


@pytest.mark.parametrize("metric", ["cosine", "sqeuclidean"])
def test_the_prototypical_loss_is_the_papers(metric):
    recipe = Recipe(method="prototypical", metric=metric, shots=2, queries=3, batch_size=(2,))
    some = training_set((6, 6, 6), batch=2, ways=3)
    objective = Prototypical([some], 4, recipe)
    (plan,) = objective.plan(0)
    assert plan.shape == (1, 2 * 3 * (2 + 3))
    x = torch.randn(plan.shape[1], 4, generator=torch.Generator().manual_seed(0))
    loss, right = objective([x.requires_grad_()], [plan[0]])
    losses, hits = [], []
    labels = some.labels()[plan[0]]
    for episode in range(2):
        rows = range(episode * 15, episode * 15 + 15)
        support, query = rows[:6], rows[6:]
        means = {int(labels[r]): x[[i for i in support if labels[i] == labels[r]]].mean(0) for r in support}
        assert len(means) == 3
        for q in query:
            if metric == "cosine":
                scores = {c: 10 * torch.cosine_similarity(x[q], m, dim=0) for c, m in means.items()}
            else:
                scores = {c: -((x[q] - m) ** 2).sum() for c, m in means.items()}
            log_sum = torch.logsumexp(torch.stack(list(scores.values())), 0)
            losses.append(float((log_sum - scores[int(labels[q])]).detach()))
            hits.append(max(scores, key=lambda c: scores[c]) == int(labels[q]))
    assert_allclose(float(loss.detach()), np.mean(losses), rtol=1e-4)
    assert_allclose(float(right[0]), np.mean(hits), atol=1e-6)
    loss.backward()
    assert torch.isfinite(x.grad).all()


def test_an_epoch_shows_every_picture_of_the_first_set_once():
    first, second = training_set((7, 5), batch=4), training_set((3, 2), batch=2)
    plans = Classical([first, second], 4, Recipe()).plan(0)
    assert [tuple(plan.shape) for plan in plans] == [(3, 4), (3, 2)]
    assert sorted(plans[0].flatten().tolist()) == list(range(12))
    assert len(set(plans[1].flatten()[:5].tolist())) == 5


def test_contrastive_batches_hold_two_different_pictures_of_each_class():
    some = training_set((3, 2, 5, 4), batch=4, contrastive=1.0)
    (plan,) = Classical([some], 4, Recipe(contrastive=(1.0,))).plan(0)
    assert plan.shape == (3, 4)
    for batch in plan:
        assert len(set(batch.tolist())) == 4
        assert sorted(Counter(some.labels()[batch].tolist()).values()) == [2, 2]
        assert some.labels()[batch[:2]].tolist() == some.labels()[batch[2:]].tolist()
