"""The head on the untouched encoder's embeddings, with flip test-time augmentation where it helps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize, one_hot

if TYPE_CHECKING:
    from fewshot.classifiers import FewShotClassifier

# Held-out scores are evaluated at the best of these multiples: to be sharper alone is no gain. Cosines count at most by
# what training multiplies them by, else few confident errors of a fine-tuned network outweigh all that it gains; logits
# and distances need the small ones.
_MULTIPLES = tuple(10.0 * 2.0**-k for k in range(8))
# By how many standard errors, and by how much, the held-out loss must rise for what gains on average not to be taken.
_AGAINST, _LEAST_RISE = 1.0, 0.01


@dataclass(frozen=True)
class FrozenBaseline:
    """How the untouched encoder's embeddings are classified.

    Attributes
    ----------
    tta : bool
        Whether an embedding is the sum of the directions of the image and of its flipped centre.
    scores : tuple of Tensor of shape (m, c)
        Of what each fold holds out. Empty without folds.
    support : Tensor of shape (s, d)
        The support's embeddings.
    """

    tta: bool
    scores: tuple[Tensor, ...]
    support: Tensor


def fit_baseline(
    vectors: Tensor,
    labels: Tensor,
    splits: Sequence[tuple[Tensor, Tensor]],
    head: FewShotClassifier,
    *,
    tta: bool | None,
) -> FrozenBaseline:
    """Evaluate a head on an untouched encoder, and choose test-time augmentation.

    Where flipped images stay closest to their own class, test-time augmentation is taken unless what is held out speaks
    against it by more than chance: a few examples cannot show a gain of one or two points of accuracy, and it gains on
    average.

    Parameters
    ----------
    vectors : Tensor of shape (s, 2, d)
        Of the images and of their flipped centres; (s, 1, d) where ``tta`` is False.
    labels : Tensor of shape (s,), int64
        0 to c - 1.
    splits : sequence of (train, held out)
        Positions in the support.
    head : FewShotClassifier
        Not changed.
    tta : bool or None
        None: choose.
    """
    n_classes = int(labels.max()) + 1
    wanted = [labels[held] for _, held in splits]

    def held_out(x: Tensor) -> tuple[Tensor, ...]:
        return tuple(head_scores(head, x[train], labels[train], x[held], n_classes) for train, held in splits)

    plain, both = vectors[:, 0], combined(vectors)
    if tta is None:
        stay = flips_stay(normalize(vectors, dim=-1), labels, n_classes)
        tta = stay and not worse(held_out(both), held_out(plain), wanted)
    support = both if tta else plain
    return FrozenBaseline(bool(tta), held_out(support), support)


def combined(vectors: Tensor) -> Tensor:
    """Return the embeddings (n, d) of vectors (n, v, d): themselves where v is 1, else the sum of v directions."""
    return vectors[:, 0] if vectors.shape[1] == 1 else normalize(vectors, dim=-1).sum(1)


def head_scores(head: FewShotClassifier, support: Tensor, labels: Tensor, query: Tensor, n_classes: int) -> Tensor:
    """Scores (q, c) of queries (q, d) by a head that learned from a support (s, d), on the CPU."""
    labels = labels.to(support.device)
    return head.episode_scores(support[None], labels[None], query[None], n_classes=n_classes)[0].cpu()


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
    """Whether the held-out loss exceeds that of other scores by 0.01 and by one standard error of the difference.

    Without anything held out it does not.
    """
    if not scores:
        return False
    rise = evaluate(scores, labels)[0] - evaluate(others, labels)[0]
    error = float(rise.std()) / math.sqrt(len(rise)) if len(rise) > 1 else math.inf
    return float(rise.mean()) > max(_AGAINST * error, _LEAST_RISE)


def evaluate(scores: Sequence[Tensor], labels: Sequence[Tensor]) -> tuple[Tensor, float]:
    """Return the loss of each held-out example of the folds that have scores, and the accuracy."""
    together = torch.cat(list(scores))
    wanted = torch.cat(list(labels[: len(scores)]))
    losses = [cross_entropy(together * multiple, wanted, reduction="none") for multiple in _MULTIPLES]
    best = min(losses, key=lambda each: float(each.mean()))
    return best, float((together.argmax(1) == wanted).float().mean())
