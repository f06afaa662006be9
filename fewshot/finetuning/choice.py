"""How many steps, and how large: chosen from the support alone, with the untouched encoder among the candidates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from fewshot.finetuning.tuning import Support, Tuner, class_scores
from fewshot.progress import Progress

# Pictures to hold out in all folds together, where the classes have so many.
_HELD_OUT = 40
# By how many standard errors the held-out loss must fall: of other pictures, and of other views of the same pictures,
# which tell less of new pictures.
_MARGIN_EXAMPLES, _MARGIN_VIEWS = 1.0, 2.0
# And by how much at least. An encoder at home tells views apart so surely that it has less than this to lose: of 5
# one-shot photographs 0.000, of 20 characters 0.06 to 0.47 (4 episodes each, validation classes).
_LEAST_GAIN = 0.02
_VIEWS_HELD = 2
# Sharper cosines alone are no gain: each candidate is judged at the best of these multiples of its scores.
_SHARPNESS = (0.5, 1.0, 2.0, 4.0)


@dataclass(frozen=True)
class Verdict:
    """Which candidate was taken, and on what grounds; the first half of a ``Choice``."""

    steps: int
    learning_rate: float
    held_out: str | None
    accuracy_before: float | None
    accuracy_after: float | None


@dataclass(frozen=True)
class Choice(Verdict):
    """What was chosen for a support set, and on what grounds.

    Attributes
    ----------
    steps : int
        Of gradient descent; 0 where the untouched encoder is not worse than all others by more than chance.
    learning_rate : float
        Of the last block; 0.0 without steps.
    held_out : {"examples", "views"} or None
        What candidates were judged on: pictures that they did not learn from, or, where too few classes have two
        pictures, views of the same pictures; None where steps and learning rate were given.
    accuracy_before, accuracy_after : float or None
        On what was held out, of the untouched encoder and of the chosen one.
    parameters : int
        Numbers that train.
    seconds : float
        That ``fit`` took.
    """

    parameters: int
    seconds: float


@dataclass(frozen=True)
class Fold:
    """What to learn from, and what to judge by.

    Attributes
    ----------
    learn : Tensor of shape (n,)
        Positions in the support.
    views : Tensor
        Numbers of the views to learn from.
    held : tuple of Tensor of shape (m, ...)
        Maps to judge by.
    labels : Tensor of shape (m,)
    """

    learn: Tensor
    views: Tensor
    held: tuple[Tensor, ...]
    labels: Tensor


def folds(support: Support, seed: int) -> tuple[str, list[Fold]]:
    """Part a support into what is learned from and what is held out, and say whether that is "examples" or "views".

    Examples: fold f holds out one picture of each class that has two or more, as many folds as give some 40 pictures,
    no picture twice. Views: where less than half of the classes have two pictures, the last two views are held out.
    """
    labels, views = support.labels, torch.arange(len(support.views[0]))
    sizes = torch.bincount(labels, minlength=support.n_classes)
    several = int((sizes > 1).sum())
    if 2 * several < support.n_classes:
        learn, held = views[:-_VIEWS_HELD], views[-_VIEWS_HELD:]
        if not len(learn):
            learn = views
        maps = tuple(each[held].flatten(0, 1) for each in support.views)
        return "views", [Fold(torch.arange(len(labels)), learn, maps, labels.repeat(len(held)))]
    generator = torch.Generator().manual_seed(seed)
    rank = torch.empty_like(labels)
    for number in range(support.n_classes):
        of_class = (labels == number).nonzero().squeeze(1)
        rank[of_class] = torch.randperm(len(of_class), generator=generator)
    found = []
    for number in range(min(int(sizes.max()), max(2, math.ceil(_HELD_OUT / several)))):
        out = (rank == number) & (sizes[labels] > 1)
        learn, held = (~out).nonzero().squeeze(1), out.nonzero().squeeze(1)
        found.append(Fold(learn, views, tuple(each[held] for each in support.plain), labels[held]))
    return "examples", found


def choose(
    tuner: Tuner, support: Support, kind: str, parts: Sequence[Fold], rates: Sequence[float], stops: Sequence[int],
    bar: Progress,
) -> Verdict:  # fmt: skip
    """Tune on folds, and judge each path at its stops on what the fold holds out.

    The first fold is tuned at each rate; the rate whose path has the lowest loss there goes on to the other folds, as
    long as one of its stops is ahead of the untouched encoder. A stop wins with the lowest loss of those whose loss
    over all folds is lower than the untouched encoder's by 0.02 and by more than chance (one standard error of the
    paired differences; two where views are held out), and whose accuracy is not lower; without such, steps are 0. Where
    the untouched encoder's loss is less than 0.02, nothing is tried.
    """
    labels = [fold.labels for fold in parts]
    untouched = [_held_out(tuner, support, fold, 0.0, (0,), bar)[0] for fold in parts]
    losses, before = _judged(untouched, labels)
    best, lowest = Verdict(0, 0.0, kind, before, before), math.inf
    if float(losses.mean()) < _LEAST_GAIN:
        return best
    tried = {rate: [_held_out(tuner, support, parts[0], rate, stops, bar)] for rate in rates}
    rate = min(rates, key=lambda each: _lowest(tried[each], labels))
    paths = tried[rate]
    for done, fold in enumerate(parts):
        if done:
            paths.append(_held_out(tuner, support, fold, rate, stops, bar))
        if _lowest(paths, labels) >= float(_judged(untouched[: done + 1], labels)[0].mean()):
            return best
    margin = _MARGIN_EXAMPLES if kind == "examples" else _MARGIN_VIEWS
    for step, scores in _common(paths).items():
        other, accuracy = _judged(scores, labels)
        gain = losses - other
        error = float(gain.std()) / math.sqrt(len(gain)) if len(gain) > 1 else math.inf
        enough = float(gain.mean()) > max(margin * error, _LEAST_GAIN) and accuracy >= before
        if enough and float(other.mean()) < lowest:
            lowest = float(other.mean())
            best = Verdict(step, rate, kind, before, accuracy)
    return best


def _held_out(
    tuner: Tuner, support: Support, fold: Fold, rate: float, stops: Sequence[int], bar: Progress
) -> dict[int, Tensor]:
    """Scores (m, c) of what a fold holds out, at each stop of a path."""
    path = tuner.path(support, fold.learn, fold.views, rate, stops, bar)
    return {step: class_scores(tuner.embed(fold.held), directions).cpu() for step, directions in path}


def _common(paths: Sequence[dict[int, Tensor]]) -> dict[int, list[Tensor]]:
    """Scores of each fold, at the stops that the paths of all of them have reached."""
    return {step: [path[step] for path in paths] for step in sorted(set.intersection(*map(set, paths)))}


def _lowest(paths: Sequence[dict[int, Tensor]], labels: Sequence[Tensor]) -> float:
    """The loss at the best stop, over the folds that have paths."""
    losses = (float(_judged(scores, labels)[0].mean()) for scores in _common(paths).values())
    return min(losses, default=math.inf)


def _judged(scores: Sequence[Tensor], labels: Sequence[Tensor]) -> tuple[Tensor, float]:
    """The loss of each held-out picture of the folds that have scores, and the accuracy."""
    together = torch.cat(list(scores))
    wanted = torch.cat(list(labels[: len(scores)]))
    losses = [functional.cross_entropy(together * sharp, wanted, reduction="none") for sharp in _SHARPNESS]
    best = min(losses, key=lambda each: float(each.mean()))
    return best, float((together.argmax(1) == wanted).float().mean())
