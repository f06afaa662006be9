"""The answer of an encoder that stays untouched: a head on its vectors, and mirror images where they help."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from fewshot.classifiers import LogisticRegressionClassifier, Membership, PrototypeClassifier, Weights
from fewshot.finetuning.walk import SCALE

if TYPE_CHECKING:
    from fewshot.classifiers import FewShotClassifier

HEADS = ("logistic", "prototypes")
# Held-out answers are judged at the best of these multiples of their scores: to be sharper alone is no gain.
_SHARPNESS = (0.5, 1.0, 2.0, 4.0)
# For vectors of unit spread. From 1 to 5, photographs (pocket, 5-way) and characters (mobilenetv2, 20-way) gain alike.
_C = 3.0
# By how many standard errors the held-out loss must rise for what gains on average not to be taken.
_AGAINST = 1.0


class SpreadLogisticClassifier(LogisticRegressionClassifier):
    """Logistic regression on directions scaled to unit spread, with all classes equally likely.

    The penalty then means the same for encoders whose directions lie close together and far apart, and a class of many
    pictures is not preferred to one of few.

    References
    ----------
    Tian et al. 2020, arXiv:2003.11539, section 3.2 (RFS: logistic regression on normalised embeddings). Menon et al.
    2021, arXiv:2007.07314, section 4.1 (the logarithms of the classes' shares are subtracted after the fit).
    """

    def __init__(self, *, C: float = _C, max_iter: int = 2000, tol: float = 1e-3) -> None:
        super().__init__(C=C, max_iter=max_iter, tol=tol)

    def _learn(self, support: Tensor, membership: Membership) -> Weights:
        targets = membership.one_hot()
        real = targets.sum(-1, keepdim=True)
        n = real.sum(1, keepdim=True)
        apart = (support - (support * real).sum(1, keepdim=True) / n) * real
        spread = (apart.square().sum((1, 2), keepdim=True) / n).sqrt().clamp_min(1e-6)
        found = self._solve(support / spread, targets)
        share = targets.sum(1, keepdim=True).clamp_min(1.0) / n
        return Weights(found.weight / spread, found.bias - share.log(), found.steps)


@dataclass(frozen=True)
class Answer:
    """How the untouched encoder answers.

    Attributes
    ----------
    head : {"logistic", "prototypes"}
    mirror : bool
        Whether a picture's direction is the sum of its own and its mirrored middle's.
    plain, scores : tuple of Tensor of shape (m, c)
        Of what each fold holds out: by prototypes of pictures as they are, and by this answer. Empty without folds.
    support : Tensor of shape (s, d)
        The support's directions, as this answer reads them.
    """

    head: str
    mirror: bool
    plain: tuple[Tensor, ...]
    scores: tuple[Tensor, ...]
    support: Tensor


def answer(
    looks: Tensor,
    labels: Tensor,
    n_classes: int,
    parts: Sequence[tuple[Tensor, Tensor]],
    *,
    head: str | None,
    mirror: bool | None,
) -> Answer:
    """Choose how an untouched encoder answers.

    Mirror images are taken where they stay with their classes, and logistic regression, unless what is held out speaks
    against it by more than chance: a few pictures do not show a gain of one or two points of 100, but both have gained
    on average wherever they were tried.

    Parameters
    ----------
    looks : Tensor of shape (s, 2, d)
        Vectors of the pictures and of their mirrored middles; (s, 1, d) where ``mirror`` is False.
    labels : Tensor of shape (s,), int64
        0 to c - 1.
    n_classes : int
    parts : sequence of (learned from, held out)
        Positions in the support.
    head : {"logistic", "prototypes"} or None
    mirror : bool or None
        None, of either: choose.
    """
    ways = normalize(looks, dim=-1)
    wanted = [labels[held] for _, held in parts]

    def read(mirrored: bool) -> Tensor:
        return ways.sum(1) if mirrored else ways[:, 0]

    def held_out(head: str, mirrored: bool) -> tuple[Tensor, ...]:
        x = read(mirrored)
        return tuple(_scores(head, x[learn], labels[learn], n_classes, x[held]) for learn, held in parts)

    plain = held_out("prototypes", False)
    mirrored = bool(mirror)
    if mirror is None and mirror_stays(ways, labels, n_classes):
        mirrored = not worse(held_out("prototypes", True), plain, wanted)
    if head is None:
        fitted, means = (held_out(each, mirrored) for each in HEADS)
        head = "prototypes" if worse(fitted, means, wanted) else "logistic"
    return Answer(head, mirrored, plain, held_out(head, mirrored), read(mirrored))


def classifier_of(head: str) -> FewShotClassifier:
    """Return the classifier of directions that a head stands for, not fitted."""
    return SpreadLogisticClassifier() if head == "logistic" else PrototypeClassifier()


def mirror_stays(ways: Tensor, labels: Tensor, n_classes: int) -> bool:
    """Whether of each class most mirror images are closer to a picture of their class than to any other.

    Parameters
    ----------
    ways : Tensor of shape (s, 2, d)
        Of unit length: pictures, mirror images of their middles.
    labels : Tensor of shape (s,), int64
    n_classes : int
    """
    nearest = (ways[:, 1] @ ways[:, 0].mT).argmax(1)
    stays = (labels[nearest] == labels).float()
    own = torch.nn.functional.one_hot(labels, n_classes).float()
    return bool((stays @ own > 0.5 * own.sum(0)).all())


def worse(scores: Sequence[Tensor], others: Sequence[Tensor], wanted: Sequence[Tensor]) -> bool:
    """Whether the held-out loss is higher than that of other scores by more than one standard error of the difference.

    Without anything held out it is not.
    """
    if not scores:
        return False
    rise = judged(scores, wanted)[0] - judged(others, wanted)[0]
    error = float(rise.std()) / math.sqrt(len(rise)) if len(rise) > 1 else math.inf
    return float(rise.mean()) > _AGAINST * error


def judged(scores: Sequence[Tensor], wanted: Sequence[Tensor]) -> tuple[Tensor, float]:
    """The loss of each held-out picture of the folds that have scores, and the accuracy."""
    together = torch.cat(list(scores))
    labels = torch.cat(list(wanted[: len(scores)]))
    losses = [cross_entropy(together * sharp, labels, reduction="none") for sharp in _SHARPNESS]
    best = min(losses, key=lambda each: float(each.mean()))
    return best, float((together.argmax(1) == labels).float().mean())


def _scores(head: str, support: Tensor, labels: Tensor, n_classes: int, query: Tensor) -> Tensor:
    found = classifier_of(head).episode_scores(support[None], labels[None], query[None], n_classes=n_classes)[0]
    return found if head == "logistic" else SCALE * found
