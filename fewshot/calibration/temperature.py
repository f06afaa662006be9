"""Temperature scaling: from scores to probabilities that are right as often as they say."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from fewshot.calibration.task_features import DOUBTS, SIGNS
from fewshot.files import replacing

_FORMAT = 4
# How strongly a fit is drawn to where it began, in nats for numbers 1 away: signs that the data hardly vary, such as
# the ways of ten classes, stay as they are.
_PULL = 3e-5
_ROWS = 10_000  # queries of one setting that a fit reads; of a fifth of them it is off by a hundredth
_MOST = 1e3  # what a table may hold: no sum of such numbers overflows
_DOUBTFUL = [SIGNS.index(name) for name in DOUBTS]
_PARTS = {"rise": SIGNS, "doubt": DOUBTS, "bend": DOUBTS}
_SHIPPED = Path(__file__).with_name("tables")


@dataclass(frozen=True)
class Sharpness:
    """How sure a method may be, as a function of the signs of a task.

    Attributes
    ----------
    rise : tuple of as many floats as ``SIGNS``
        What these are multiplied by and summed to the logarithm of beta: how much surer one more margin makes.
    doubt : tuple of as many floats as ``DOUBTS``
        What these are multiplied by and summed to the log-odds of lambda: the share of the answers that are right by
        chance only, however sure the scores.
    bend : tuple of as many floats as ``DOUBTS``
        What these are multiplied by and summed to the logarithm of gamma: above 1, classes far behind the best are less
        likely than a softmax has them; below 1, more.
    """

    rise: tuple[float, ...]
    doubt: tuple[float, ...] = (-30.0, *[0.0] * (len(DOUBTS) - 1))
    bend: tuple[float, ...] = (0.0,) * len(DOUBTS)

    @classmethod
    def flat(cls, beta: float) -> Sharpness:
        """Make one that heeds no sign."""
        return cls((math.log(beta), *[0.0] * (len(SIGNS) - 1)))

    def at(self, columns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return beta, lambda and gamma, (..., 1) each, for signs (..., len(SIGNS))."""
        return _made_of(
            columns, *(torch.tensor(some, device=columns.device) for some in (self.rise, self.doubt, self.bend))
        )


Table = Mapping[str, Sharpness]


def _made_of(columns: Tensor, rise: Tensor, doubt: Tensor, bend: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    beta = (columns @ rise).clamp(-3.0, 7.0).exp()
    told = columns[..., _DOUBTFUL]
    gamma = (told @ bend).clamp(-1.5, 1.5).exp()
    return beta.unsqueeze(-1), (told @ doubt).sigmoid().unsqueeze(-1), gamma.unsqueeze(-1)


def margin(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """By how much the support's scores of their own class exceed the others', and the mean of these: (e, 1, 1) each.

    The first, above 0, carries the scores' unit, so that scores divided by it are alike for all encoders, metrics and
    numbers of examples. Where the support does not tell its classes apart, it is the largest score instead.

    Parameters
    ----------
    scores : Tensor of shape (e, s, c)
    labels : Tensor of shape (e, s), int64
        -1 for examples that do not count.
    """
    own = scores.gather(2, labels.clamp_min(0).unsqueeze(-1)).squeeze(-1)
    others = (scores.sum(-1) - own) / max(1, scores.shape[2] - 1)
    counted = labels >= 0
    own, others = ((some * counted).sum(1) / counted.sum(1).clamp_min(1) for some in (own, others))
    largest = (scores.abs().amax(-1) * counted).amax(1).clamp_min(torch.finfo(scores.dtype).tiny)
    apart = torch.where(own - others > 1e-6 * largest, own - others, largest)
    return apart.view(-1, 1, 1), others.view(-1, 1, 1)


def gaps(scores: Tensor, unit: Tensor) -> Tensor:
    """How far each class is behind the best one of its query, in margins: (e, q, c), 0 for the best."""
    return (scores.amax(-1, keepdim=True) - scores) / unit


def log_votes(votes: Tensor) -> Tensor:
    """Logarithms of the shares of votes (..., c), where a class without any counts as having one in a thousand."""
    share = votes / votes.sum(-1, keepdim=True).clamp_min(torch.finfo(votes.dtype).tiny)
    return (share + 1e-3).log()


def tempered(gap: Tensor, beta: Tensor | float, doubt: Tensor | float, gamma: Tensor | float) -> Tensor:
    """(1 - lambda) softmax(-beta m ((1 + gap / m)^gamma - 1) / gamma) + lambda / c: probabilities (..., c).

    They are in the order of the scores. m is the mean gap of all classes but the best; where gamma is 1, the second
    factor is softmax(-beta gap).

    References
    ----------
    Guo et al. 2017, arXiv:1706.04599, section 4.2 (temperature scaling: margin / beta is the temperature). Box & Cox
    1964, JRSS B 26(2), eq. 2 (the power; its slope is 1 at the best class, so that close ones are told apart as well as
    ever). The doubt, and what is raised to the power, are ours.
    """
    c = gap.shape[-1]
    behind = (gap.sum(-1, keepdim=True) / max(1, c - 1)).clamp_min(torch.finfo(gap.dtype).tiny)
    bent = behind * torch.expm1(gamma * torch.log1p(gap / behind)) / gamma
    return (1.0 - doubt) * (-beta * bent).softmax(-1) + doubt / c


Cell = tuple[Tensor, Tensor, Tensor]


def fit(cells: Iterable[Cell], around: Sharpness | None = None) -> Sharpness:
    """Find the sharpness of the highest likelihood, averaged over settings: of the true classes, and of right answers.

    The second, that an answer is right as often as it says, is what an ECE looks at; where no sharpness can have both,
    the likelihood of the classes alone lets it go by some hundredths.

    Parameters
    ----------
    cells : iterable of (gaps (e, q, c), signs (e, q, len(SIGNS)), true classes (e, q))
        One for each setting, such as an encoder, a data set, and numbers of classes and examples.
    around : Sharpness, optional
        Where to begin, and to stay as far as the data say nothing else; by default a beta of 10, whatever the signs.
    """
    around = around or Sharpness.flat(10.0)
    some = [_thinned(*cell) for cell in cells]
    start = torch.tensor([*around.rise, *around.doubt, *around.bend])
    start[len(SIGNS)] = start[len(SIGNS)].clamp_min(-5.0)  # lower, the doubt's slope is too flat to leave
    values = start.clone().requires_grad_()
    sizes = [len(names) for names in _PARTS.values()]
    optimizer = torch.optim.LBFGS([values], max_iter=60, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        total = _PULL * (values - start).square().sum()
        for gap, columns, truth in some:
            found = tempered(gap, *_made_of(columns, *torch.split(values, sizes)))
            answer = gap.argmin(-1, keepdim=True)
            sure = found.gather(1, answer)
            right = torch.where(answer == truth, _log(sure), _log(1.0 - sure))
            total = total - (_log(found.gather(1, truth)) + right).mean() / (2 * len(some))
        total.backward()  # type: ignore[no-untyped-call]
        return total

    with torch.inference_mode(False), torch.enable_grad():
        optimizer.step(loss)  # type: ignore[no-untyped-call]
    parts = torch.split(values.detach(), sizes)
    return Sharpness(*(tuple(round(value, 3) for value in part.tolist()) for part in parts))


def _thinned(gap: Tensor, columns: Tensor, truth: Tensor) -> Cell:
    """Every n-th query: (q, c), (q, len(SIGNS)) and (q, 1)."""
    step = -(-truth.numel() // _ROWS)
    rows = gap.flatten(0, 1)[::step], columns.flatten(0, 1)[::step], truth.reshape(-1, 1)[::step]
    return rows[0].clone(), rows[1].clone(), rows[2].clone()  # no inference tensors, which a gradient cannot pass


def write_table(table: Table, path: str | Path, *, encoders: Iterable[str] = ()) -> None:
    """Write a table as JSON; ``encoders`` are the fingerprints of those it was fitted to and is to be taken for."""
    numbers = {name: {part: list(getattr(one, part)) for part in _PARTS} for name, one in table.items()}
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in numbers.items())
    head = {"format": _FORMAT, "signs": SIGNS, "doubts": DOUBTS, "encoders": list(encoders)}
    text = json.dumps(head)[:-1] + f', "sharpness": {{\n{lines}\n}}}}\n'
    with replacing(Path(path)) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_table(path: str | Path) -> dict[str, Sharpness]:
    """Read what ``write_table`` wrote.

    Raises
    ------
    ValueError : for another file, naming it.
    """
    return _read(path)[0]


def _read(path: str | Path) -> tuple[dict[str, Sharpness], tuple[str, ...]]:
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
        if value["format"] != _FORMAT:
            raise ValueError(f"format {value['format']!r} instead of {_FORMAT}")
        for name, known in (("signs", SIGNS), ("doubts", DOUBTS)):
            if tuple(value[name]) != known:
                raise ValueError(f"{name} {value[name]!r} instead of {list(known)}")
        table = {str(name): _checked(name, *(one[part] for part in _PARTS)) for name, one in value["sharpness"].items()}
        return table, tuple(map(str, value["encoders"]))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(
            f"{path} is no table of fewshot calibrate ({error}); write one with: fewshot calibrate DATA --out {path}"
        ) from error


def _checked(name: str, *given: list[float]) -> Sharpness:
    found = [tuple(map(float, part)) for part in given]
    sizes, wanted = (tuple(map(len, parts)) for parts in (found, _PARTS.values()))
    if sizes != wanted or not all(abs(value) <= _MOST for part in found for value in part):
        raise ValueError(f"{name}: {sizes} numbers, where {wanted} from -{_MOST:g} to {_MOST:g} are needed")
    return Sharpness(*found)


@cache
def shipped(fingerprint: str | None = None) -> Table:
    """Return the table that ships with fewshot for an encoder.

    Parameters
    ----------
    fingerprint : str, optional
        The encoder's. Of the bundled one, what was fitted to it; of any other, and by default, what was fitted to
        networks trained on ImageNet.

    References
    ----------
    Written by ``python benchmarks/calibration.py --fit``.
    """
    for path in sorted(_SHIPPED.glob("*.json")):
        table, encoders = _read(path)
        if fingerprint is not None and fingerprint in encoders:
            return table
    return read_table(_SHIPPED / "imagenet.json")


@dataclass(frozen=True)
class Reliability:
    """How often answers are right that are given with some probability.

    Attributes
    ----------
    n : int
        Queries.
    accuracy, confidence : float
        Share of right answers, and the mean probability of the answers.
    ece : float
        Expected calibration error: the mean over all answers of |confidence - accuracy| of their bin; 15 equal bins.
    nll : float
        Mean negative log-likelihood of the true classes, in nats.
    bins : tuple of (float, float, int)
        Confidence, accuracy and number of the answers of each bin that has any.

    References
    ----------
    Guo et al. 2017, arXiv:1706.04599, eq. 2, 3 and 5.
    """

    n: int
    accuracy: float
    confidence: float
    ece: float
    nll: float
    bins: tuple[tuple[float, float, int], ...]


def reliability(probabilities: Tensor, truth: Tensor, *, n_bins: int = 15) -> Reliability:
    """Compare probabilities (..., c) with the true classes (...)."""
    flat, true = probabilities.reshape(-1, probabilities.shape[-1]), truth.reshape(-1)
    sure, answer = flat.max(-1)
    right = (answer == true).to(torch.float64)
    sure = sure.to(torch.float64)
    place = (sure * n_bins).ceil().long().clamp(1, n_bins) - 1  # a bin holds its upper edge, as in eq. 3
    number = torch.bincount(place, minlength=n_bins)
    each = number.clamp_min(1)
    confidence = torch.bincount(place, sure, n_bins) / each
    accuracy = torch.bincount(place, right, n_bins) / each
    ece = float(((confidence - accuracy).abs() * number).sum() / len(true))
    nll = -float(_log(flat.gather(1, true.unsqueeze(-1))).mean())
    rows = zip(confidence.tolist(), accuracy.tolist(), number.tolist(), strict=True)
    bins = tuple(row for row in rows if row[2])
    return Reliability(len(true), float(right.mean()), float(sure.mean()), ece, nll, bins)


def _log(probability: Tensor) -> Tensor:
    """Its logarithm; what float32 has rounded to 0 counts as 1e-9."""
    return probability.clamp_min(1e-9).log()
