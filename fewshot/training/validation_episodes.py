"""How well a trunk does on classes that it does not learn from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from fewshot.benchmark import run_benchmark
from fewshot.classifiers import PrototypeClassifier
from fewshot.datasets import Dataset
from fewshot.encoders import learning
from fewshot.episodes import EpisodeSampler
from fewshot.training.augmentation import resized
from fewshot.training.decoded_images import Pictures
from fewshot.training.maml import Adaptation
from fewshot.training.recipe import Recipe
from fewshot.training.steps import Lens, embedded
from fewshot.training.workers import Workers

_EPISODES = 600
_ADAPTED = 100


@dataclass(frozen=True)
class Watch:
    """Pictures to validate on, and the episodes drawn from them, of any classes or each within a group."""

    pictures: Pictures
    sampler: EpisodeSampler
    within: bool = False

    def episodes(self, shots: int) -> str:
        """Say what kind of episodes these are."""
        return f"{self.sampler.n_way}-way {shots}-shot{' within groups' if self.within else ''}"


def within_groups(dataset: Dataset, ways: int) -> bool:
    """Whether episodes can lie within groups, which is harder: some group has the classes, and each class one group."""
    pairs = set(zip(dataset.groups or (), dataset.labels, strict=False))
    sizes = Counter(group for group, _ in pairs)
    return len(pairs) == len(dataset.classes) and max(sizes.values()) >= ways


def sampler_for(dataset: Dataset, ways: int, recipe: Recipe) -> EpisodeSampler:
    """Draw the validation episodes of a data set, the same after every epoch; within groups where that can be.

    Raises
    ------
    ValueError : if it cannot serve them, naming it, the class and its number of pictures.
    """
    label, smallest = min(Counter(dataset.labels).items(), key=lambda item: item[1])
    if smallest <= recipe.shots:
        raise ValueError(
            f"class {label!r} of {dataset.name}, to validate on, has {smallest} of the pictures that an episode needs, "
            f"{recipe.shots + 1} of each class: shots, and one to ask. Add pictures, remove the class, or lower --shots"
        )
    if len(dataset.classes) < ways:
        raise ValueError(
            f"{dataset.name} has {len(dataset.classes)} classes to validate on, too few for --ways {ways}: lower it"
        )
    return EpisodeSampler(
        dataset.labels,
        n_way=ways,
        n_shot=recipe.shots,
        n_query=min(recipe.queries, smallest - recipe.shots),
        n_episodes=_EPISODES,
        groups=dataset.groups if within_groups(dataset, ways) else None,
        random_state=recipe.seed,
    )


def watched(
    watches: Sequence[Watch], trunk: nn.Module, recipe: Recipe, size: int, lens: Lens, workers: Workers
) -> list[dict[str, Any]]:
    """Accuracy of prototypes on each set's episodes: data, measure, accuracy and the half-width of its interval."""
    found = []
    for watch in watches:
        vectors = embedded(trunk, watch.pictures.pixels, size, lens, workers)
        classifier = PrototypeClassifier(metric=recipe.metric)
        result = run_benchmark({"prototype": classifier}, vectors.numpy(), watch.sampler, device="cpu")["prototype"]
        measure = f"{watch.episodes(recipe.shots)}, {recipe.metric} prototypes"
        found.append(_line(watch, measure, result.accuracy, result.ci95))
    return found


def watched_adapting(
    watches: Sequence[Watch], trunk: nn.Module, objective: Adaptation, size: int, lens: Lens, workers: Workers
) -> list[dict[str, Any]]:
    """Accuracy after adaptation on the first of each set's episodes; leaves the trunk in training mode."""
    learning(trunk)
    found = []
    for watch in watches:

        def answer(rows: Tensor, watch: Watch = watch) -> float:
            x = lens(resized(watch.pictures.pixels[rows].to(lens.device), size))
            scores, target = objective.answers(trunk, x, learn=False)
            return float((scores.argmax(1) == target).float().mean())

        episodes = (
            row
            for some in watch.sampler
            for row in torch.cat([torch.from_numpy(some.support), torch.from_numpy(some.query)], 1)
        )
        shares = torch.tensor(workers.map(answer, islice(episodes, _ADAPTED)), dtype=torch.float64)
        measure = f"{watch.episodes(objective.shots)}, adapted in {objective.steps} steps"
        found.append(_line(watch, measure, float(shares.mean()), float(1.96 * shares.std() / len(shares) ** 0.5)))
    return found


def _line(watch: Watch, measure: str, accuracy: float, ci95: float) -> dict[str, Any]:
    return {
        "data": watch.pictures.name,
        "measure": measure,
        "accuracy": round(accuracy, 5),
        "ci95": round(ci95, 5),
    }
