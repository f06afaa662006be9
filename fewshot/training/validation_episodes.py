"""Validation: accuracy in episodes of classes held out of training."""

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
from fewshot.encoders import set_train_mode
from fewshot.episodes import EpisodeSampler
from fewshot.training.augmentation import resized
from fewshot.training.decoded_images import DecodedImages
from fewshot.training.maml import Adaptation
from fewshot.training.recipe import Recipe
from fewshot.training.steps import Preprocessor, embedded
from fewshot.training.workers import Workers

_EPISODES = 600
_ADAPTED = 100


@dataclass(frozen=True)
class ValidationSet:
    """The images of validation classes, and the sampler of their episodes; ``within``: each within one group."""

    images: DecodedImages
    sampler: EpisodeSampler
    within: bool = False

    def episodes(self, shots: int) -> str:
        """Return a description of the episodes, such as "5-way 1-shot within groups"."""
        return f"{self.sampler.n_way}-way {shots}-shot{' within groups' if self.within else ''}"


def within_groups(dataset: Dataset, ways: int) -> bool:
    """Whether episodes can be drawn within groups: each class has one group, and some group has enough classes."""
    pairs = set(zip(dataset.groups or (), dataset.labels, strict=False))
    sizes = Counter(group for group, _ in pairs)
    return len(pairs) == len(dataset.classes) and max(sizes.values()) >= ways


def sampler_for(dataset: Dataset, ways: int, recipe: Recipe) -> EpisodeSampler:
    """Return the sampler of a data set's validation episodes, the same after every epoch; within groups if possible.

    Raises
    ------
    ValueError : if the data set is too small, naming it, the class and its number of images.
    """
    label, smallest = min(Counter(dataset.labels).items(), key=lambda item: item[1])
    if smallest <= recipe.shots:
        raise ValueError(
            f"class {label!r} of {dataset.name}, for validation, has {smallest} of the images that an episode needs, "
            f"{recipe.shots + 1} of each class: the shots and a query. Add images, remove the class, or lower --shots"
        )
    if len(dataset.classes) < ways:
        raise ValueError(
            f"{dataset.name} has {len(dataset.classes)} classes for validation, too few for --ways {ways}: lower it"
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


def prototype_accuracy(
    validation_sets: Sequence[ValidationSet],
    trunk: nn.Module,
    recipe: Recipe,
    size: int,
    preprocess: Preprocessor,
    workers: Workers,
) -> list[dict[str, Any]]:
    """Return prototype accuracy on each set's episodes: data, measure, accuracy and ci95."""
    found = []
    for validation_set in validation_sets:
        vectors = embedded(trunk, validation_set.images.pixels, size, preprocess, workers)
        classifier = PrototypeClassifier(metric=recipe.metric)
        result = run_benchmark({"prototype": classifier}, vectors.numpy(), validation_set.sampler, device="cpu")[
            "prototype"
        ]
        measure = f"{validation_set.episodes(recipe.shots)}, {recipe.metric} prototypes"
        found.append(_entry(validation_set, measure, result.accuracy, result.ci95))
    return found


def adapted_accuracy(
    validation_sets: Sequence[ValidationSet],
    trunk: nn.Module,
    objective: Adaptation,
    size: int,
    preprocess: Preprocessor,
    workers: Workers,
) -> list[dict[str, Any]]:
    """Return accuracy after adaptation on the first of each set's episodes; leaves the trunk in training mode."""
    set_train_mode(trunk)
    found = []
    for validation_set in validation_sets:

        def accuracy_of(rows: Tensor, validation_set: ValidationSet = validation_set) -> float:
            x = preprocess(resized(validation_set.images.pixels[rows].to(preprocess.device), size))
            scores, target = objective.query_scores(trunk, x, second_order=False)
            return float((scores.argmax(1) == target).float().mean())

        episodes = (
            row
            for some in validation_set.sampler
            for row in torch.cat([torch.from_numpy(some.support), torch.from_numpy(some.query)], 1)
        )
        shares = torch.tensor(workers.map(accuracy_of, islice(episodes, _ADAPTED)), dtype=torch.float64)
        measure = f"{validation_set.episodes(objective.shots)}, adapted in {objective.steps} steps"
        found.append(
            _entry(validation_set, measure, float(shares.mean()), float(1.96 * shares.std() / len(shares) ** 0.5))
        )
    return found


def _entry(validation_set: ValidationSet, measure: str, accuracy: float, ci95: float) -> dict[str, Any]:
    return {
        "data": validation_set.images.name,
        "measure": measure,
        "accuracy": round(accuracy, 5),
        "ci95": round(ci95, 5),
    }
