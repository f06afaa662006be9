"""What a step shows to the trunk, and what its features are asked for: class heads, or prototypes of episodes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from fewshot.episodes import EpisodeSampler
from fewshot.training.decoded_images import Pictures
from fewshot.training.recipe import Augmentation, Recipe
from fewshot.validation import Metric
from fewshot.vectors import closeness

_SMOOTHING = 0.1
_SCALE = 16.0
_EPISODE_SCALE = 10.0
_TURNS = 4


@dataclass(frozen=True)
class Domain:
    """A data set to learn from.

    A position below ``len(pictures)`` is a picture; with turns, position ``t * len(pictures) + i`` is picture i turned
    by t quarters, and each turn of a class is a class.
    """

    pictures: Pictures
    augment: Augmentation
    turned: bool
    batch: int
    ways: int
    weight: float
    contrastive: float

    @property
    def positions(self) -> int:
        """How many pictures there are, the turned ones counted too."""
        return len(self.pictures) * (_TURNS if self.turned else 1)

    def labels(self) -> Tensor:
        """The class of each position."""
        labels = self.pictures.labels
        if not self.turned:
            return labels
        return torch.cat([labels + turn * len(self.pictures.classes) for turn in range(_TURNS)])

    def show(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels and quarter turns of positions."""
        n = len(self.pictures)
        device = self.pictures.pixels.device
        return self.pictures.pixels[(positions % n).to(device)], (positions // n).to(device)


class Objective(Protocol):
    """What is learned beside the trunk, and how a step's features are judged."""

    def plan(self, epoch: int) -> list[Tensor]:
        """Positions of each domain to show, (steps, pictures)."""
        ...

    def __call__(self, features: Sequence[Tensor], positions: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return the loss of a step's features (n, d), and the share of right answers, of each domain."""
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
    """Finds each picture's partners, those of its class, among all the others of the batch.

    References
    ----------
    Khosla et al. 2020, arXiv:2004.11362, eq. 2, with a learned scale in place of the temperature; it departs in that
    two pictures of a class are compared, not two views of a picture.
    """

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(_SCALE))

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """Mean over the features (n, d) that have a partner."""
        unit = functional.normalize(x)
        itself = torch.eye(len(x), dtype=torch.bool, device=x.device)
        log_shares = (self.scale * unit @ unit.T).masked_fill(itself, -math.inf).log_softmax(1)
        partners = (labels[:, None] == labels) & ~itself
        count = partners.sum(1)
        found = log_shares.masked_fill(~partners, 0.0).sum(1) / count.clamp(min=1)
        return -found[count > 0].mean()


class Classical(nn.Module):
    """Cross-entropy with a cosine head for each domain, all on one trunk, and a contrastive loss where asked for."""

    def __init__(self, domains: Sequence[Domain], d: int, recipe: Recipe) -> None:
        super().__init__()
        self._domains, self._seed = domains, recipe.seed
        self._labels = [domain.labels() for domain in domains]
        self.heads = nn.ModuleList(CosineHead(d, int(labels.max()) + 1) for labels in self._labels)
        self.contrasts = nn.ModuleList(ContrastiveLoss() for _ in domains)
        if sum(domain.batch for domain in domains) < 2:
            raise ValueError("a batch of one picture cannot be normalised: raise --batch-size")
        for domain in domains:
            if domain.batch > domain.positions:
                raise ValueError(
                    f"{domain.pictures.name} has {domain.positions} pictures to learn from, too few for a batch of "
                    f"{domain.batch}: lower --batch-size"
                )
            if len(domain.pictures.classes) < 2 and not domain.turned:
                raise ValueError(
                    f"{domain.pictures.name} has 1 class to learn from, where 2 at least must be told apart"
                )
            if domain.contrastive:
                refuse_small(domain.pictures, 2, "the contrastive loss compares two pictures of each class", "")

    def plan(self, epoch: int) -> list[Tensor]:
        """Draw the epoch: every picture of the first domain once, others as many as their batches hold."""
        generator = torch.Generator().manual_seed(1_000_003 * self._seed + epoch)
        steps = self._domains[0].positions // self._domains[0].batch
        return [
            _pairs(labels, steps, domain.batch, generator)
            if domain.contrastive
            else _passes(len(labels), steps * domain.batch, generator).view(steps, domain.batch)
            for domain, labels in zip(self._domains, self._labels, strict=True)
        ]

    def forward(self, features: Sequence[Tensor], positions: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return the weighted loss of features (n, d) of each domain, and the share each head classifies rightly."""
        total = features[0].new_zeros(())
        right = []
        parts = zip(self._domains, self._labels, self.heads, self.contrasts, features, positions, strict=True)
        for domain, labels, head, contrast, x, shown in parts:
            target = labels[shown].to(x.device)
            scores = head(x)
            loss = functional.cross_entropy(scores, target, label_smoothing=_SMOOTHING)
            if domain.contrastive:
                loss = loss + domain.contrastive * contrast(x, target)
            total = total + domain.weight * loss
            right.append((scores.argmax(1) == target).float().mean())
        return total, torch.stack(right).detach()


class Prototypical(nn.Module):
    """Each query of an episode is to be closest to the mean of its class's support.

    References
    ----------
    Snell, Swersky & Zemel 2017, arXiv:1703.05175, eq. 1-2 and algorithm 1 ("sqeuclidean"); Hu et al. 2022,
    arXiv:2204.07305, section 3.2 ("cosine", with a learned scale).
    """

    def __init__(self, domains: Sequence[Domain], d: int, recipe: Recipe) -> None:
        super().__init__()
        self._domains, self._shots = domains, recipe.shots
        self._metric: Metric = recipe.metric
        self._episodes = EpisodePlan(domains, recipe)
        if self._metric == "cosine":
            self.scale = nn.Parameter(torch.tensor(_EPISODE_SCALE))

    def plan(self, epoch: int) -> list[Tensor]:
        """Draw the epoch's episodes: support first, then queries, both in the order of the classes."""
        return [episodes.flatten(1) for episodes in self._episodes.draw(epoch)]

    def forward(self, features: Sequence[Tensor], positions: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return the weighted loss of features (t * (s + q), d) of each domain's t episodes, and the share of right."""
        total = features[0].new_zeros(())
        right = []
        for domain, x in zip(self._domains, features, strict=True):
            ways, t = domain.ways, domain.batch
            episodes = x.view(t, -1, x.shape[1])
            support, query = episodes[:, : ways * self._shots], episodes[:, ways * self._shots :]
            prototypes = support.reshape(t, ways, self._shots, -1).mean(2)
            scores = closeness(query, prototypes, self._metric)
            if self._metric == "cosine":
                scores = self.scale * scores
            target = episode_targets(ways, query.shape[1], x.device).expand(t, -1)
            total = total + domain.weight * functional.cross_entropy(scores.flatten(0, 1), target.flatten())
            right.append((scores.argmax(-1) == target).float().mean())
        return total, torch.stack(right).detach()


class EpisodePlan:
    """Draws the episodes of an epoch by ``EpisodeSampler``.

    Raises
    ------
    ValueError : if a domain cannot serve them, naming it, the class and its number of pictures.
    """

    def __init__(self, domains: Sequence[Domain], recipe: Recipe) -> None:
        self._domains, self._recipe = domains, recipe
        self._labels = [domain.labels().numpy() for domain in domains]
        first = domains[0]
        pictures = first.batch * first.ways * (recipe.shots + self._queries(0))
        self.steps = max(1, first.positions // pictures)
        self._sampler(0, 0)

    def draw(self, epoch: int) -> list[Tensor]:
        """Positions (steps, t, s + q) of each domain."""
        drawn = []
        for which, domain in enumerate(self._domains):
            chunks = [
                torch.cat([torch.from_numpy(some.support), torch.from_numpy(some.query)], 1)
                for some in self._sampler(which, epoch)
            ]
            drawn.append(torch.cat(chunks).view(self.steps, domain.batch, -1))
        return drawn

    def _queries(self, which: int) -> int:
        smallest = int(torch.bincount(self._domains[which].pictures.labels).min())
        return max(1, min(self._recipe.queries, smallest - self._recipe.shots))

    def _sampler(self, which: int, epoch: int) -> EpisodeSampler:
        domain = self._domains[which]
        least = self._recipe.shots + 1
        refuse_small(
            domain.pictures,
            least,
            f"an episode needs {least} of each class: shots, and one to ask",
            ", or lower --shots",
        )
        if len(set(self._labels[which].tolist())) < domain.ways:
            raise ValueError(
                f"{domain.pictures.name} has {len(set(self._labels[which].tolist()))} classes to learn from, too few "
                f"for --ways {domain.ways}: lower --ways"
            )
        return EpisodeSampler(
            self._labels[which],
            n_way=domain.ways,
            n_shot=self._recipe.shots,
            n_query=self._queries(which),
            n_episodes=self.steps * domain.batch,
            random_state=1_000_003 * self._recipe.seed + 1000 * which + epoch,
        )


def refuse_small(pictures: Pictures, least: int, why: str, else_do: str) -> None:
    """Refuse pictures that have a class of too few.

    Raises
    ------
    ValueError : naming the class and its count.
    """
    for label, count in zip(pictures.classes, pictures.labels.bincount().tolist(), strict=True):
        if count < least:
            raise ValueError(
                f"class {label!r} of {pictures.name} has {count} picture{'s' if count != 1 else ''}, but {why}. Add "
                f"pictures, or remove the class{else_do}"
            )


def episode_targets(ways: int, queries: int, device: torch.device) -> Tensor:
    """The class within its episode of each of so many queries, in the sampler's order."""
    return torch.arange(ways, device=device).repeat_interleave(queries // ways)


def _passes(n: int, wanted: int, generator: torch.Generator) -> Tensor:
    """Passes over n things in random orders, cut after as many as wanted."""
    return torch.cat([torch.randperm(n, generator=generator) for _ in range(-(-wanted // n))])[:wanted]


def _pairs(labels: Tensor, steps: int, batch: int, generator: torch.Generator) -> Tensor:
    """Positions (steps, batch) in which classes take turns, two pictures of each: first ones, then second ones."""
    pairs = max(1, batch // 2)
    order, sizes = labels.argsort(stable=True), labels.bincount()
    starts = sizes.cumsum(0) - sizes
    classes = _passes(len(sizes), steps * pairs, generator)
    size = sizes[classes]
    first = (torch.rand(len(classes), generator=generator) * size).long()
    other = (first + 1 + (torch.rand(len(classes), generator=generator) * (size - 1)).long()) % size
    both = torch.stack([order[starts[classes] + place] for place in (first, other)])
    return both.view(2, steps, pairs).transpose(0, 1).reshape(steps, 2 * pairs)
