"""How many steps, and how large: chosen from the support alone, with the untouched encoder among the candidates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fewshot.finetuning.frozen import Answer, judged
from fewshot.finetuning.gradient_steps import Plan
from fewshot.finetuning.walk import Job, Seen, Support, class_scores

# Pictures to hold out in all folds together, where the classes have so many.
_HELD_OUT = 40
# By how many standard errors the held-out loss must fall: of other pictures, and of other views of the same pictures,
# which tell less of new pictures.
_MARGIN_EXAMPLES, _MARGIN_VIEWS = 1.0, 2.0
# And by how much at least. An encoder at home tells views apart so surely that it has less than this to lose: of 5
# one-shot photographs 0.000, of 20 characters 0.06 to 0.47 (4 episodes each, validation classes).
_LEAST_GAIN = 0.02
_VIEWS_HELD = 2


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
        Of gradient descent; 0 where no tuned encoder is better than the untouched one by more than chance.
    learning_rate : float
        Of the last block; 0.0 without steps.
    held_out : {"examples", "views"} or None
        What candidates were judged on: pictures that they did not learn from, or, where too few classes have two
        pictures, views of the same pictures; None where steps and learning rate were given, or where nothing trains
        and too few classes have two.
    accuracy_before, accuracy_after : float or None
        On what was held out, of prototypes of the untouched encoder and of what was chosen. Views judge only the
        encoder: where it stays untouched, both are of prototypes.
    head : {"logistic", "prototypes"}
        What reads the vectors; of an adapted encoder "prototypes", unless the other was asked for.
    mirror : bool
        Whether a picture's vector is the sum of its own direction and that of the mirror image of its middle.
    parameters : int
        Numbers that train, or would have.
    seconds : float
        That ``fit`` took.
    """

    head: str
    mirror: bool
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


def untouched(frozen: Answer, labels: Tensor, parts: Sequence[tuple[Tensor, Tensor]]) -> Verdict:
    """Return the verdict where nothing is tuned, and ``parts`` are what the answer was chosen by."""
    if not parts:
        return Verdict(0, 0.0, None, None, None)
    wanted = [labels[held] for _, held in parts]
    return Verdict(0, 0.0, "examples", judged(frozen.plain, wanted)[1], judged(frozen.scores, wanted)[1])


def hold_out(labels: Tensor, n_classes: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    """Part a support into positions to learn from and positions to hold out, in several ways.

    Each holds out one picture of each class that has two or more; there are as many as give some 40 pictures, no
    picture twice, and none where only one class, or less than half of them, has two.

    Parameters
    ----------
    labels : Tensor of shape (s,), int64
        0 to c - 1.
    n_classes : int
    seed : int
    """
    sizes = torch.bincount(labels, minlength=n_classes)
    several = int((sizes > 1).sum())
    if several < 2 or 2 * several < n_classes:  # all of one class would praise what answers that class alone
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


def folds(support: Support, seed: int) -> tuple[str, list[Fold]]:
    """Part a support into what is learned from and what is held out, and say whether that is "examples" or "views".

    Examples: as ``hold_out`` parts them. Views: where that holds out nothing, the last two views of each picture are.
    """
    labels, views = support.labels, torch.arange(len(support.views[0]))
    parts = hold_out(labels, support.n_classes, seed)
    if parts:
        return "examples", [
            Fold(learn, views, tuple(each[held] for each in support.plain), labels[held]) for learn, held in parts
        ]
    learn, held = views[:-_VIEWS_HELD], views[-_VIEWS_HELD:]
    if not len(learn):
        learn = views
    maps = tuple(each[held].flatten(0, 1) for each in support.views)
    return "views", [Fold(torch.arange(len(labels)), learn, maps, labels.repeat(len(held)))]


def choose(
    support: Support, kind: str, parts: Sequence[Fold], rates: Sequence[float], stops: Sequence[int],
    frozen: Answer | None = None,
) -> Plan[Verdict]:  # fmt: skip
    """Tune on folds, and judge each path at its stops on what the fold holds out.

    The first fold is tuned at each rate; the rate whose path has the lowest loss there goes on to the other folds, as
    long as one of its stops is ahead of the untouched encoder's prototypes. A stop wins with the lowest loss of those
    whose loss over all folds is lower than these prototypes' by 0.02 and by more than chance (one standard error of the
    paired differences; two where views are held out), whose accuracy is not lower, and whose loss is lower than that of
    the untouched encoder's answer, ``frozen``, on the same pictures; without such, steps are 0. Where the prototypes'
    loss is less than 0.02, nothing is tried.
    """

    def job(fold: Fold, rate: float, stops: Sequence[int]) -> Job:
        return Job(support, fold.learn, fold.views, rate, stops, [fold.held])

    labels = [fold.labels for fold in parts]
    if frozen is not None and kind == "examples":
        plain, answers = list(frozen.plain), list(frozen.scores)
    else:
        untouched = yield [job(fold, 0.0, (0,)) for fold in parts]
        plain = answers = [_scores(path)[0] for path in untouched]
    losses, before = judged(plain, labels)
    answered, right = judged(answers, labels)
    best, lowest = Verdict(0, 0.0, kind, before, right), float(answered.mean())
    if float(losses.mean()) < _LEAST_GAIN:
        return best
    firsts = yield [job(parts[0], rate, stops) for rate in rates]
    tried = {rate: [_scores(path)] for rate, path in zip(rates, firsts, strict=True)}
    rate = min(rates, key=lambda each: _lowest(tried[each], labels))
    paths = tried[rate]
    for done, fold in enumerate(parts):
        if done:
            (path,) = yield [job(fold, rate, stops)]
            paths.append(_scores(path))
        if _lowest(paths, labels) >= float(judged(plain[: done + 1], labels)[0].mean()):
            return best
    margin = _MARGIN_EXAMPLES if kind == "examples" else _MARGIN_VIEWS
    for step, scores in _common(paths).items():
        other, accuracy = judged(scores, labels)
        gain = losses - other
        error = float(gain.std()) / math.sqrt(len(gain)) if len(gain) > 1 else math.inf
        enough = float(gain.mean()) > max(margin * error, _LEAST_GAIN) and accuracy >= before
        if enough and float(other.mean()) < lowest:
            lowest = float(other.mean())
            best = Verdict(step, rate, kind, before, accuracy)
    return best


def _scores(path: dict[int, Seen]) -> dict[int, Tensor]:
    """Scores (m, c) of what a fold holds out, at each stop of a path."""
    return {step: class_scores(seen.features, seen.directions).cpu() for step, seen in path.items()}


def _common(paths: Sequence[dict[int, Tensor]]) -> dict[int, list[Tensor]]:
    """Scores of each fold, at the stops that the paths of all of them have reached."""
    return {step: [path[step] for path in paths] for step in sorted(set.intersection(*map(set, paths)))}


def _lowest(paths: Sequence[dict[int, Tensor]], labels: Sequence[Tensor]) -> float:
    """The loss at the best stop, over the folds that have paths."""
    losses = (float(judged(scores, labels)[0].mean()) for scores in _common(paths).values())
    return min(losses, default=math.inf)
