"""The search for steps and learning rate on held-out folds of the support; no steps is a candidate, too."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from fewshot.finetuning.frozen_baseline import FrozenBaseline, evaluate
from fewshot.finetuning.support_maps import SupportMaps
from fewshot.finetuning.top_trainer import Fold
from fewshot.progress import Progress

S_contra = TypeVar("S_contra", contravariant=True)
# Examples to hold out in all folds together, where the classes have so many.
_HELD_OUT = 40
# By how many standard errors the held-out loss must fall: of other images, and of other views of the same images, which
# tell less of new images.
_MARGIN_EXAMPLES, _MARGIN_VIEWS = 1.0, 2.0
# And by how much at least; an in-domain encoder mostly has less than this to lose.
_LEAST_GAIN = 0.02
_VIEWS_HELD_OUT = 2


@dataclass(frozen=True)
class Candidate:
    """Steps and learning rate, with what was held out to evaluate them; the first half of a ``Choice``."""

    steps: int
    learning_rate: float
    held_out: str | None
    accuracy_before: float | None
    accuracy_after: float | None


@dataclass(frozen=True)
class Choice(Candidate):
    """What was chosen for a support set, and by which held-out accuracy.

    Attributes
    ----------
    steps : int
        Of gradient descent; 0 where no fine-tuned encoder is better than the untouched one by more than chance.
    learning_rate : float
        Of the last block; 0.0 without steps.
    held_out : {"examples", "views"} or None
        What candidates were evaluated on: examples that they were not trained on, or, where too few classes have two
        examples, augmented views of the same images; None where steps and learning rate were given, or where nothing
        trains and too few classes have two.
    accuracy_before, accuracy_after : float or None
        On what was held out, of the untouched encoder and of what was chosen, by the head that answers.
    tta : bool
        Whether an embedding is the sum of the directions of the image and of its flipped centre.
    parameters : int
        How many train, or would have.
    seconds : float
        That ``fit`` took.
    """

    tta: bool
    parameters: int
    seconds: float


@dataclass
class Trial:
    """Held-out scores at one learning rate, a dict of stop to scores (m, c) per fold trained so far."""

    learning_rate: float
    scores: list[dict[int, Tensor]]

    def at_stops(self) -> dict[int, list[Tensor]]:
        """Return the scores of each fold at the stops that all folds have reached."""
        common = sorted(set.intersection(*map(set, self.scores)))
        return {stop: [of_fold[stop] for of_fold in self.scores] for stop in common}

    def lowest_loss(self, labels: Sequence[Tensor]) -> float:
        """Return the loss at the best stop."""
        losses = (float(evaluate(scores, labels)[0].mean()) for scores in self.at_stops().values())
        return min(losses, default=math.inf)


def untouched(baseline: FrozenBaseline, labels: Tensor, splits: Sequence[tuple[Tensor, Tensor]]) -> Candidate:
    """Return the candidate without steps, where nothing trains; ``splits`` are those of the baseline."""
    if not splits:
        return Candidate(0, 0.0, None, None, None)
    accuracy = evaluate(baseline.scores, [labels[held] for _, held in splits])[1]
    return Candidate(0, 0.0, "examples", accuracy, accuracy)


def hold_out(labels: Tensor, n_classes: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    """Split a support into (train, held out) positions, in several ways.

    Each holds out one example of each class that has two or more; there are as many as give some 40 examples, none
    twice. There are no splits where only one class, or less than half of them, has two.

    Parameters
    ----------
    labels : Tensor of shape (s,), int64
        0 to c - 1.
    n_classes : int
    seed : int
    """
    sizes = torch.bincount(labels, minlength=n_classes)
    several = int((sizes > 1).sum())
    if several < 2 or 2 * several < n_classes:  # all of one class would reward predicting that class alone
        return []
    generator = torch.Generator().manual_seed(seed)
    rank = torch.empty_like(labels)
    for number in range(n_classes):
        of_class = (labels == number).nonzero().squeeze(1)
        rank[of_class] = torch.randperm(len(of_class), generator=generator)
    found = []
    for number in range(min(int(sizes.max()), max(2, math.ceil(_HELD_OUT / several)))):
        out = (rank == number) & (sizes[labels] > 1)
        found.append(((~out).nonzero().squeeze(1), out.nonzero().squeeze(1)))
    return found


def make_folds(support: SupportMaps, seed: int) -> tuple[str, list[Fold]]:
    """Return what is held out, "examples" or "views", and the folds.

    Examples are held out as ``hold_out`` splits them; where it does not, the last two views of each image are.
    """
    labels, views = support.labels, torch.arange(len(support.views[0]))
    splits = hold_out(labels, support.n_classes, seed)
    if splits:
        return "examples", [
            Fold(train, views, tuple(maps[held] for maps in support.plain), labels[held]) for train, held in splits
        ]
    train, held = views[:-_VIEWS_HELD_OUT], views[-_VIEWS_HELD_OUT:]
    if not len(train):
        train = views
    maps = tuple(each[held].flatten(0, 1) for each in support.views)
    return "views", [Fold(torch.arange(len(labels)), train, maps, labels.repeat(len(held)))]


class Trainer(Protocol[S_contra]):
    """Trains from the same start each time, and scores what a fold holds out, as ``TopTrainer.fit``."""

    def fit(
        self, support: S_contra, fold: Fold, learning_rate: float, stops: Sequence[int], bar: Progress
    ) -> dict[int, Tensor]:
        """Return held-out scores (m, c) by the number of steps."""
        ...


def search(
    trainer: Trainer[S_contra],
    support: S_contra,
    folds: Sequence[Fold],
    held_out: str,
    learning_rates: Sequence[float],
    stops: Sequence[int],
    baseline: FrozenBaseline | None,
    bar: Progress,
) -> Candidate:
    """Train on folds, and take the number of steps and learning rate of the lowest held-out loss, or no steps.

    The first fold is trained at each learning rate. The rate of the lowest loss is then trained on the other folds, as
    long as one of its stops is ahead of the untouched encoder. A stop is taken only if its loss over all folds is lower
    than that of the untouched encoder, ``baseline``, by 0.02 and by more than chance (one standard error of the paired
    differences; two with views held out), and its accuracy is not lower. Nothing is trained where the untouched
    encoder's loss is below 0.02. Both are judged by the head that will answer.
    """
    labels = [fold.labels for fold in folds]
    if baseline is not None and held_out == "examples":
        scores_before = baseline.scores
    else:
        scores_before = tuple(trainer.fit(support, fold, 0.0, (0,), bar)[0] for fold in folds)
    losses_before, accuracy_before = evaluate(scores_before, labels)
    best = Candidate(0, 0.0, held_out, accuracy_before, accuracy_before)
    lowest = float(losses_before.mean())
    if lowest < _LEAST_GAIN:
        return best

    trials = [Trial(rate, [trainer.fit(support, folds[0], rate, stops, bar)]) for rate in learning_rates]
    trial = min(trials, key=lambda each: each.lowest_loss(labels))
    for number, fold in enumerate(folds):
        if number:
            trial.scores.append(trainer.fit(support, fold, trial.learning_rate, stops, bar))
        so_far = evaluate(scores_before[: number + 1], labels)[0]
        if trial.lowest_loss(labels) >= float(so_far.mean()):
            return best

    margin = _MARGIN_EXAMPLES if held_out == "examples" else _MARGIN_VIEWS
    for steps, scores in trial.at_stops().items():
        losses, accuracy = evaluate(scores, labels)
        gain = losses_before - losses
        error = float(gain.std()) / math.sqrt(len(gain)) if len(gain) > 1 else math.inf
        enough = float(gain.mean()) > max(margin * error, _LEAST_GAIN) and accuracy >= accuracy_before
        if enough and float(losses.mean()) < lowest:
            lowest = float(losses.mean())
            best = Candidate(steps, trial.learning_rate, held_out, accuracy_before, accuracy)
    return best
