"""The classifier on the untouched encoder's embeddings: its head, and flip test-time augmentation where it helps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize, one_hot

from fewshot.classifiers import LogisticRegressionClassifier, Membership, PrototypeClassifier, Weights
from fewshot.finetuning.top_trainer import SCALE

if TYPE_CHECKING:
    from fewshot.classifiers import FewShotClassifier

HEADS = ("logistic", "prototypes")
# Held-out scores are evaluated at the best of these multiples: to be sharper alone is no gain.
_MULTIPLES = (0.5, 1.0, 2.0, 4.0)
_C = 3.0
# By how many standard errors the held-out loss must rise for what gains on average not to be taken.
_AGAINST = 1.0


class SpreadLogisticClassifier(LogisticRegressionClassifier):
    """Logistic regression on directions scaled to unit spread, with all classes equally likely.

    The penalty then means the same for encoders whose directions lie close together and far apart, and a class of many
    examples is not preferred to one of few.

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
        centred = (support - (support * real).sum(1, keepdim=True) / n) * real
        spread = (centred.square().sum((1, 2), keepdim=True) / n).sqrt().clamp_min(1e-6)
        found = self.solve(support / spread, targets)
        share = targets.sum(1, keepdim=True).clamp_min(1.0) / n
        return Weights(found.weight / spread, found.bias - share.log(), found.steps)


@dataclass(frozen=True)
class FrozenBaseline:
    """How the untouched encoder's embeddings are classified.

    Attributes
    ----------
    head : {"logistic", "prototypes"}
    tta : bool
        Whether an embedding is the sum of the directions of the image and of its flipped centre.
    prototype_scores, scores : tuple of Tensor of shape (m, c)
        Of what each fold holds out: by prototypes of the images alone, and by this classifier. Empty without folds.
    support : Tensor of shape (s, d)
        The support's embeddings for this classifier.
    """

    head: str
    tta: bool
    prototype_scores: tuple[Tensor, ...]
    scores: tuple[Tensor, ...]
    support: Tensor


def fit_baseline(
    vectors: Tensor,
    labels: Tensor,
    splits: Sequence[tuple[Tensor, Tensor]],
    *,
    head: str | None,
    tta: bool | None,
) -> FrozenBaseline:
    """Choose the head and test-time augmentation of an untouched encoder.

    Both logistic regression and, where flipped images stay closest to their own class, test-time augmentation are taken
    unless what is held out speaks against them by more than chance: a few examples cannot show a gain of one or two
    points of accuracy, and both gain on average.

    Parameters
    ----------
    vectors : Tensor of shape (s, 2, d)
        Of the images and of their flipped centres; (s, 1, d) where ``tta`` is False.
    labels : Tensor of shape (s,), int64
        0 to c - 1.
    splits : sequence of (train, held out)
        Positions in the support.
    head : {"logistic", "prototypes"} or None
    tta : bool or None
        None, of either: choose.
    """
    directions = normalize(vectors, dim=-1)
    n_classes = int(labels.max()) + 1
    wanted = [labels[held] for _, held in splits]

    def embeddings(tta: bool) -> Tensor:
        return directions.sum(1) if tta else directions[:, 0]

    def held_out(head: str, tta: bool) -> tuple[Tensor, ...]:
        x = embeddings(tta)
        return tuple(_scores(head, x[train], labels[train], n_classes, x[held]) for train, held in splits)

    plain = held_out("prototypes", False)
    chosen = bool(tta)
    if tta is None and flips_stay(directions, labels, n_classes):
        chosen = not worse(held_out("prototypes", True), plain, wanted)
    if head is None:
        logistic, prototypes = (held_out(each, chosen) for each in HEADS)
        head = "prototypes" if worse(logistic, prototypes, wanted) else "logistic"
    return FrozenBaseline(head, chosen, plain, held_out(head, chosen), embeddings(chosen))


def head_classifier(head: str) -> FewShotClassifier:
    """Return the classifier of a head's name, not fitted."""
    return SpreadLogisticClassifier() if head == "logistic" else PrototypeClassifier()


def flips_stay(directions: Tensor, labels: Tensor, n_classes: int) -> bool:
    """Whether of each class most flipped images are closest to an image of their own class.

    Parameters
    ----------
    directions : Tensor of shape (s, 2, d)
        Of unit length: of images and of their flipped centres.
    labels : Tensor of shape (s,), int64
    n_classes : int
    """
    nearest = (directions[:, 1] @ directions[:, 0].mT).argmax(1)
    stays = (labels[nearest] == labels).float()
    own = one_hot(labels, n_classes).float()
    return bool((stays @ own > 0.5 * own.sum(0)).all())


def worse(scores: Sequence[Tensor], others: Sequence[Tensor], labels: Sequence[Tensor]) -> bool:
    """Whether the held-out loss exceeds that of other scores by more than one standard error of the difference.

    Without anything held out it does not.
    """
    if not scores:
        return False
    rise = evaluate(scores, labels)[0] - evaluate(others, labels)[0]
    error = float(rise.std()) / math.sqrt(len(rise)) if len(rise) > 1 else math.inf
    return float(rise.mean()) > _AGAINST * error


def evaluate(scores: Sequence[Tensor], labels: Sequence[Tensor]) -> tuple[Tensor, float]:
    """Return the loss of each held-out example of the folds that have scores, and the accuracy."""
    together = torch.cat(list(scores))
    wanted = torch.cat(list(labels[: len(scores)]))
    losses = [cross_entropy(together * multiple, wanted, reduction="none") for multiple in _MULTIPLES]
    best = min(losses, key=lambda each: float(each.mean()))
    return best, float((together.argmax(1) == wanted).float().mean())


def _scores(head: str, support: Tensor, labels: Tensor, n_classes: int, query: Tensor) -> Tensor:
    found = head_classifier(head).episode_scores(support[None], labels[None], query[None], n_classes=n_classes)[0]
    return found if head == "logistic" else SCALE * found
