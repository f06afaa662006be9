"""Learning to be adapted: MAML and ANIL, through learn2learn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fewshot.encoders import learning
from fewshot.errors import MissingExtra
from fewshot.training.objectives import Domain, EpisodePlan, episode_targets
from fewshot.training.recipe import Recipe
from fewshot.training.steps import Lens, shown_pictures
from fewshot.training.workers import Workers


def learn2learn_maml() -> Any:
    """Return learn2learn's ``MAML``.

    Raises
    ------
    MissingExtra : without learn2learn, naming the recipe.
    """
    try:
        from learn2learn.algorithms import MAML
    except ImportError as error:
        raise MissingExtra(
            f"maml and anil need learn2learn ({error}), which plain pip does not build on Python 3.11 and later: "
            "the three commands that do are in the README, under 'Training an encoder of your own'"
        ) from None
    return MAML


class Adaptation(nn.Module):
    """The last layer that episodes adapt, alone (ANIL) or with the whole trunk (MAML).

    References
    ----------
    Finn, Abbeel & Levine 2017, arXiv:1703.03400, algorithm 2 (batch norm, as in their code, over an episode's own
    pictures, the queries' together); Raghu et al. 2020, arXiv:1909.09157, section 4.
    """

    def __init__(self, domains: Sequence[Domain], d: int, recipe: Recipe) -> None:
        super().__init__()
        if len({domain.ways for domain in domains}) > 1:
            raise ValueError(f"{recipe.method} adapts one last layer, so all data need the same --ways")
        self.head = nn.Linear(d, domains[0].ways)
        self.whole = recipe.method == "maml"
        self.shots, self.steps, self.rate = recipe.shots, recipe.inner_steps, recipe.inner_rate

    def answers(self, trunk: nn.Module, x: Tensor, *, learn: bool) -> tuple[Tensor, Tensor]:
        """Adapt to the support of an episode and return the scores (q, c) of its queries, and their classes (q,).

        Parameters
        ----------
        trunk : nn.Module
            In training mode.
        x : Tensor of shape (s + q, 3, h, w)
            Support first, both in the order of the classes.
        learn : bool
            Keep the graph through the adaptation, for the gradients of gradients.
        """
        maml, ways = learn2learn_maml(), self.head.out_features
        s = ways * self.shots
        known = torch.arange(ways, device=x.device).repeat_interleave(self.shots)
        network: Any
        if self.whole:
            network = maml(nn.Sequential(trunk, self.head), lr=self.rate, first_order=not learn).clone()
            support, query = x[:s], x[s:]
        else:
            network = maml(self.head, lr=self.rate, first_order=not learn).clone()
            support, query = trunk(x[:s]), trunk(x[s:])
        for _ in range(self.steps):
            network.adapt(functional.cross_entropy(network(support), known))
        return network(query), episode_targets(ways, len(query), x.device)


class AdaptationStep:
    """Gradients of the queries' loss after adaptation, summed over a step's episodes; workers share the episodes.

    Computed in float32: the gradients of gradients are small numbers.
    """

    def __init__(self, domains: Sequence[Domain], recipe: Recipe, lens: Lens) -> None:
        self._domains, self._seed, self._lens = domains, recipe.seed, lens
        self._episodes = EpisodePlan(domains, recipe)

    def plan(self, epoch: int) -> list[Tensor]:
        """Positions of each domain, (steps, t, s + q)."""
        return self._episodes.draw(epoch)

    def __call__(self, workers: Workers, positions: Sequence[Tensor], number: int, size: int) -> tuple[Tensor, Tensor]:
        """Leave the gradients of one step in the parameters; return its loss and the share of right answers."""
        n = len(workers.twins)
        shares = sum(domain.weight * domain.batch for domain in self._domains) or 1.0

        def learn(learner: Any, worker: int) -> list[tuple[Tensor, Tensor]]:
            sums = []
            for which, (domain, episodes) in enumerate(zip(self._domains, positions, strict=True)):
                loss, right = torch.zeros(()), torch.zeros(())
                for place in range(worker, len(episodes), n):
                    chance = (self._seed, number, which * 1024 + place)
                    with torch.no_grad():
                        x = shown_pictures([domain], [episodes[place]], size, self._lens, chance)
                    scores, target = learner.objective.answers(learner.trunk, x, learn=True)
                    missed = functional.cross_entropy(scores, target)
                    torch.autograd.backward(missed * (domain.weight / shares))
                    loss += (missed.detach() * (domain.weight / shares)).cpu()
                    right += (scores.argmax(1) == target).float().mean().cpu() / len(episodes)
                sums.append((loss, right))
            return sums

        found = workers.map(learn, workers.twins, range(n))
        workers.gather()
        loss = torch.stack([loss for sums in found for loss, _ in sums]).sum()
        right = torch.stack([torch.stack([right for _, right in sums]) for sums in found]).sum(0)
        return loss, right


def settle_norms(trunk: nn.Module, batches: Sequence[Tensor]) -> None:
    """Measure the running statistics of batch norms on normalised pictures: adaptation works on clones and leaves none.

    The trunk is in training mode afterwards.
    """
    norms = [m for m in trunk.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over all the batches
    learning(trunk)
    with torch.no_grad():
        for x in batches:
            trunk(x)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
