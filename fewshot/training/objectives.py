"""Training objectives on features: classification heads, or prototypes of episodes; and the batches they need."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from fewshot.episodes import EpisodeSampler
from fewshot.training.decoded_images import DecodedImages
from fewshot.training.recipe import Augmentation, Recipe
from fewshot.validation import Metric
from fewshot.vectors import closeness

_SMOOTHING = 0.1
_SCALE = 16.0
_EPISODE_SCALE = 10.0
_TURNS = 4


@dataclass(frozen=True)
class TrainingSet:
    """A data set for training, with its settings.

    An index below ``len(images)`` is an image. With rotations, index ``t * len(images) + i`` is image i rotated by t
    quarter turns, and each rotation of a class is a class.
    """

    images: DecodedImages
    augment: Augmentation
    rotated: bool
    batch: int
    ways: int
    weight: float
    contrastive: float

    @property
    def size(self) -> int:
        """The number of images, rotated ones counted too."""
        return len(self.images) * (_TURNS if self.rotated else 1)

    def labels(self) -> Tensor:
        """Return the class of each index."""
        labels = self.images.labels
        if not self.rotated:
            return labels
        return torch.cat([labels + turn * len(self.images.classes) for turn in range(_TURNS)])

    def pixels_of(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return the unrotated pixels of indices, and their quarter turns."""
        n = len(self.images)
        device = self.images.pixels.device
        return self.images.pixels[(positions % n).to(device)], (positions // n).to(device)


class Objective(Protocol):
    """The loss on a step's features, with its own parameters, and the batches it is computed on."""

    def plan(self, epoch: int) -> list[Tensor]:
        """Return the indices of each training set in each step, (steps, images)."""
        ...

    def __call__(self, features: Sequence[Tensor], positions: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return the loss of each training set's features (n, d) in a step, and each set's accuracy."""
        ...


class CosineHead(nn.Module):
    """Scores (n, c) as scaled cosines between features (n, d) and one learned direction a class.

    References
    ----------
    Gidaris & Komodakis 2018, arXiv:1804.09458, eq. 3-4; Chen et al. 2019, arXiv:1904.04232, section 3.2.
    """

    def __init__(self, d: int, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(classes, d) / math.sqrt(d))
        self.scale = nn.Parameter(torch.tensor(_SCALE))

    def forward(self, x: Tensor) -> Tensor:
        """Scores (n, c) of features (n, d)."""
        return self.scale * functional.normalize(x) @ functional.normalize(self.weight).T


class ContrastiveLoss(nn.Module):
    """Supervised contrastive loss: images of one class are positives, all others of the batch negatives.

    References
    ----------
    Khosla et al. 2020, arXiv:2004.11362, eq. 2, with a learned scale in place of the temperature; it departs in that
    two images of a class are compared, not two views of an image.
    """

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(_SCALE))

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss over the features (n, d) that have a positive."""
        unit = functional.normalize(x)
        itself = torch.eye(len(x), dtype=torch.bool, device=x.device)
        log_shares = (self.scale * unit @ unit.T).masked_fill(itself, -math.inf).log_softmax(1)
        positives = (labels[:, None] == labels) & ~itself
        count = positives.sum(1)
        found = log_shares.masked_fill(~positives, 0.0).sum(1) / count.clamp(min=1)
        return -found[count > 0].mean()


class Classical(nn.Module):
    """Cross-entropy with a cosine head for each training set, and optionally a contrastive loss."""

    def __init__(self, training_sets: Sequence[TrainingSet], d: int, recipe: Recipe) -> None:
        super().__init__()
        self._training_sets, self._seed = training_sets, recipe.seed
        self._labels = [training_set.labels() for training_set in training_sets]
        self.heads = nn.ModuleList(CosineHead(d, int(labels.max()) + 1) for labels in self._labels)
        self.contrasts = nn.ModuleList(ContrastiveLoss() for _ in training_sets)
        if sum(training_set.batch for training_set in training_sets) < 2:
            raise ValueError("a batch of one image cannot be normalised: raise --batch-size")
        for training_set in training_sets:
            if training_set.batch > training_set.size:
                raise ValueError(
                    f"{training_set.images.name} has {training_set.size} images for training, too few for a batch of "
                    f"{training_set.batch}: lower --batch-size"
                )
            if len(training_set.images.classes) < 2 and not training_set.rotated:
                raise ValueError(f"{training_set.images.name} has 1 class for training, where 2 are needed")
            if training_set.contrastive:
                check_class_sizes(training_set.images, 2, "the contrastive loss compares two images of each class", "")

    def plan(self, epoch: int) -> list[Tensor]:
        """Draw an epoch: every image of the first training set once, others as many as their batches hold."""
        generator = torch.Generator().manual_seed(1_000_003 * self._seed + epoch)
        steps = self._training_sets[0].size // self._training_sets[0].batch
        return [
            _paired_batches(labels, steps, training_set.batch, generator)
            if training_set.contrastive
            else _shuffled_passes(len(labels), steps * training_set.batch, generator).view(steps, training_set.batch)
            for training_set, labels in zip(self._training_sets, self._labels, strict=True)
        ]

    def forward(self, features: Sequence[Tensor], positions: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return the weighted loss of each training set's features (n, d), and each head's accuracy."""
        total = features[0].new_zeros(())
        accuracies = []
        parts = zip(self._training_sets, self._labels, self.heads, self.contrasts, features, positions, strict=True)
        for training_set, labels, head, contrast, x, chosen in parts:
            target = labels[chosen].to(x.device)
            scores = head(x)
            loss = functional.cross_entropy(scores, target, label_smoothing=_SMOOTHING)
            if training_set.contrastive:
                loss = loss + training_set.contrastive * contrast(x, target)
            total = total + training_set.weight * loss
            accuracies.append((scores.argmax(1) == target).float().mean())
        return total, torch.stack(accuracies).detach()


class Prototypical(nn.Module):
    """Prototypical networks: cross-entropy over the closeness of each query to the class means of its episode.

    References
    ----------
    Snell, Swersky & Zemel 2017, arXiv:1703.05175, eq. 1-2 and algorithm 1 ("sqeuclidean"); Hu et al. 2022,
    arXiv:2204.07305, section 3.2 ("cosine", with a learned scale).
    """

    def __init__(self, training_sets: Sequence[TrainingSet], d: int, recipe: Recipe) -> None:
        super().__init__()
        self._training_sets, self._shots = training_sets, recipe.shots
        self._metric: Metric = recipe.metric
        self._episodes = EpisodePlan(training_sets, recipe)
        if self._metric == "cosine":
            self.scale = nn.Parameter(torch.tensor(_EPISODE_SCALE))

    def plan(self, epoch: int) -> list[Tensor]:
        """Draw an epoch of episodes: support first, then queries, both in the order of the classes."""
        return [episodes.flatten(1) for episodes in self._episodes.draw(epoch)]

    def forward(self, features: Sequence[Tensor], positions: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return the weighted loss of each training set's features (t (s + q), d) of t episodes, and the accuracies."""
        total = features[0].new_zeros(())
        accuracies = []
        for training_set, x in zip(self._training_sets, features, strict=True):
            ways, t = training_set.ways, training_set.batch
            episodes = x.view(t, -1, x.shape[1])
            support, query = episodes[:, : ways * self._shots], episodes[:, ways * self._shots :]
            prototypes = support.reshape(t, ways, self._shots, -1).mean(2)
            scores = closeness(query, prototypes, self._metric)
            if self._metric == "cosine":
                scores = self.scale * scores
            target = episode_targets(ways, query.shape[1], x.device).expand(t, -1)
            total = total + training_set.weight * functional.cross_entropy(scores.flatten(0, 1), target.flatten())
            accuracies.append((scores.argmax(-1) == target).float().mean())
        return total, torch.stack(accuracies).detach()


class EpisodePlan:
    """Draws the episodes of an epoch by ``EpisodeSampler``.

    Raises
    ------
    ValueError : if a training set is too small, naming it, the class and its number of images.
    """

    def __init__(self, training_sets: Sequence[TrainingSet], recipe: Recipe) -> None:
        self._training_sets, self._recipe = training_sets, recipe
        self._labels = [training_set.labels().numpy() for training_set in training_sets]
        first = training_sets[0]
        n = first.batch * first.ways * (recipe.shots + self._queries(0))
        self.steps = max(1, first.size // n)
        self._sampler(0, 0)

    def draw(self, epoch: int) -> list[Tensor]:
        """Return the indices (steps, t, s + q) of each training set."""
        drawn = []
        for which, training_set in enumerate(self._training_sets):
            chunks = [
                torch.cat([torch.from_numpy(some.support), torch.from_numpy(some.query)], 1)
                for some in self._sampler(which, epoch)
            ]
            drawn.append(torch.cat(chunks).view(self.steps, training_set.batch, -1))
        return drawn

    def _queries(self, which: int) -> int:
        smallest = int(torch.bincount(self._training_sets[which].images.labels).min())
        return max(1, min(self._recipe.queries, smallest - self._recipe.shots))

    def _sampler(self, which: int, epoch: int) -> EpisodeSampler:
        training_set = self._training_sets[which]
        least = self._recipe.shots + 1
        check_class_sizes(
            training_set.images,
            least,
            f"an episode needs {least} of each class: the shots and a query",
            ", or lower --shots",
        )
        classes = len(set(self._labels[which].tolist()))
        if classes < training_set.ways:
            raise ValueError(
                f"{training_set.images.name} has {classes} classes for training, too few for --ways "
                f"{training_set.ways}: lower --ways"
            )
        return EpisodeSampler(
            self._labels[which],
            n_way=training_set.ways,
            n_shot=self._recipe.shots,
            n_query=self._queries(which),
            n_episodes=self.steps * training_set.batch,
            random_state=1_000_003 * self._recipe.seed + 1000 * which + epoch,
        )


def check_class_sizes(images: DecodedImages, least: int, why: str, else_do: str) -> None:
    """Refuse a class of too few images.

    Raises
    ------
    ValueError : naming the class and its count.
    """
    for label, count in zip(images.classes, images.labels.bincount().tolist(), strict=True):
        if count < least:
            raise ValueError(
                f"class {label!r} of {images.name} has {count} image{'s' if count != 1 else ''}, but {why}. Add "
                f"images, or remove the class{else_do}"
            )


def episode_targets(ways: int, queries: int, device: torch.device) -> Tensor:
    """Return the class, 0 to ways - 1, of each of an episode's queries, in the sampler's order."""
    return torch.arange(ways, device=device).repeat_interleave(queries // ways)


def _shuffled_passes(n: int, wanted: int, generator: torch.Generator) -> Tensor:
    """Return ``wanted`` indices below n: random permutations, one after the other."""
    return torch.cat([torch.randperm(n, generator=generator) for _ in range(-(-wanted // n))])[:wanted]


def _paired_batches(labels: Tensor, steps: int, batch: int, generator: torch.Generator) -> Tensor:
    """Return indices (steps, batch) of two images a class: the first of each class, then the second of each."""
    pairs = max(1, batch // 2)
    order, sizes = labels.argsort(stable=True), labels.bincount()
    starts = sizes.cumsum(0) - sizes
    classes = _shuffled_passes(len(sizes), steps * pairs, generator)
    size = sizes[classes]
    first = (torch.rand(len(classes), generator=generator) * size).long()
    other = (first + 1 + (torch.rand(len(classes), generator=generator) * (size - 1)).long()) % size
    both = torch.stack([order[starts[classes] + place] for place in (first, other)])
    return both.view(2, steps, pairs).transpose(0, 1).reshape(steps, 2 * pairs)
