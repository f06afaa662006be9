"""MAML and ANIL, through learn2learn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fewshot.encoders import set_train_mode
from fewshot.errors import MissingExtra
from fewshot.training.objectives import EpisodePlan, TrainingSet, episode_targets
from fewshot.training.recipe import Recipe
from fewshot.training.steps import Preprocessor, augmented_batch
from fewshot.training.workers import Workers


def learn2learn_maml() -> Any:
    """Return learn2learn's ``MAML``.

    Raises
    ------
    MissingExtra : without learn2learn, naming how to install it.
    """
    try:
        from learn2learn.algorithms import MAML
    except ImportError as error:
        raise MissingExtra(
            f"maml and anil need learn2learn ({error}), which plain pip does not build on Python 3.11 and later: "
            "the three commands that do are in docs/pages/tutorials/train.md"
        ) from None
    return MAML


class Adaptation(nn.Module):
    """The last layer, adapted to each episode alone (ANIL) or with the whole trunk (MAML).

    References
    ----------
    Finn, Abbeel & Levine 2017, arXiv:1703.03400, algorithm 2 (batch norm, as in their code, over an episode's own
    images, the queries' together); Raghu et al. 2020, arXiv:1909.09157, section 4.
    """

    def __init__(self, training_sets: Sequence[TrainingSet], d: int, recipe: Recipe) -> None:
        super().__init__()
        if len({training_set.ways for training_set in training_sets}) > 1:
            raise ValueError(f"{recipe.method} adapts one last layer, so all data need the same --ways")
        self.head = nn.Linear(d, training_sets[0].ways)
        self.whole = recipe.method == "maml"
        self.shots, self.steps, self.rate = recipe.shots, recipe.inner_steps, recipe.inner_rate

    def query_scores(self, trunk: nn.Module, x: Tensor, *, second_order: bool) -> tuple[Tensor, Tensor]:
        """Adapt to the support of an episode and return the scores (q, c) of its queries, and their classes (q,).

        Parameters
        ----------
        trunk : nn.Module
            In training mode.
        x : Tensor of shape (s + q, 3, h, w)
            Support first, both in the order of the classes.
        second_order : bool
            Keep the graph through the adaptation, to backpropagate through it.
        """
        maml, ways = learn2learn_maml(), self.head.out_features
        s = ways * self.shots
        target = torch.arange(ways, device=x.device).repeat_interleave(self.shots)
        network: Any
        if self.whole:
            network = maml(nn.Sequential(trunk, self.head), lr=self.rate, first_order=not second_order).clone()
            support, query = x[:s], x[s:]
        else:
            network = maml(self.head, lr=self.rate, first_order=not second_order).clone()
            support, query = trunk(x[:s]), trunk(x[s:])
        for _ in range(self.steps):
            network.adapt(functional.cross_entropy(network(support), target))
        return network(query), episode_targets(ways, len(query), x.device)


class AdaptationStep:
    """The gradients of the query loss after adaptation, summed over a step's episodes; workers share the episodes.

    Computed in float32: second-order gradients are small numbers.
    """

    def __init__(self, training_sets: Sequence[TrainingSet], recipe: Recipe, preprocess: Preprocessor) -> None:
        self._training_sets, self._seed, self._preprocess = training_sets, recipe.seed, preprocess
        self._episodes = EpisodePlan(training_sets, recipe)

    def plan(self, epoch: int) -> list[Tensor]:
        """Return the indices of each training set, (steps, t, s + q)."""
        return self._episodes.draw(epoch)

    def __call__(self, workers: Workers, positions: Sequence[Tensor], number: int, size: int) -> tuple[Tensor, Tensor]:
        """Leave the gradients of one step in the parameters; return its loss and each training set's accuracy."""
        n = len(workers.replicas)
        shares = sum(training_set.weight * training_set.batch for training_set in self._training_sets) or 1.0

        def learn(learner: Any, worker: int) -> list[tuple[Tensor, Tensor]]:
            sums = []
            for which, (training_set, episodes) in enumerate(zip(self._training_sets, positions, strict=True)):
                loss, accuracy = torch.zeros(()), torch.zeros(())
                for place in range(worker, len(episodes), n):
                    random_key = (self._seed, number, which * 1024 + place)
                    with torch.no_grad():
                        x = augmented_batch([training_set], [episodes[place]], size, self._preprocess, random_key)
                    scores, target = learner.objective.query_scores(learner.trunk, x, second_order=True)
                    query_loss = functional.cross_entropy(scores, target)
                    torch.autograd.backward(query_loss * (training_set.weight / shares))
                    loss += (query_loss.detach() * (training_set.weight / shares)).cpu()
                    accuracy += (scores.argmax(1) == target).float().mean().cpu() / len(episodes)
                sums.append((loss, accuracy))
            return sums

        found = workers.map(learn, workers.replicas, range(n))
        workers.gather()
        loss = torch.stack([loss for sums in found for loss, _ in sums]).sum()
        accuracies = torch.stack([torch.stack([accuracy for _, accuracy in sums]) for sums in found]).sum(0)
        return loss, accuracies


def recompute_norm_statistics(trunk: nn.Module, batches: Sequence[Tensor]) -> None:
    """Recompute the running statistics of batch norms on normalised images, as adaptation works on clones.

    The trunk is in training mode afterwards.
    """
    norms = [m for m in trunk.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over all the batches
    set_train_mode(trunk)
    with torch.no_grad():
        for x in batches:
            trunk(x)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
