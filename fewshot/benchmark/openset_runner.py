"""Open-set episodes: half of the queries are of classes outside, and a score must tell them from the others."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from fewshot.benchmark.runner import PairedDifference
from fewshot.classifiers import FewShotClassifier, Membership, PrototypeClassifier
from fewshot.episodes import Episodes, EpisodeSampler
from fewshot.openset import SCORES, Background, Center, Known, UnknownScore
from fewshot.progress import Progress
from fewshot.validation import check_choice, check_vectors

# Bytes that one batch of episodes' vectors, and comparisons of its queries, may take.
_MEMORY = 2**24
# The share of known queries that FPR95 and the accuracy of the accepted accept, at least.
_ACCEPTED = 0.95


@dataclass(frozen=True)
class OpenSetMetrics:
    """How well unknown queries are told from known ones, for each of e episodes; each an array (e,) in [0, 1].

    Attributes
    ----------
    auroc : ndarray
        The chance that an unknown query scores above a known one, a draw counting half.
    aupr : ndarray
        Average precision in finding the unknown.
    fpr95 : ndarray
        The share of unknown queries accepted by the lowest line that accepts 95 % of the known; lower is better.
    oscr : ndarray
        Area under the share of known queries accepted and named rightly, over the share of unknown ones accepted.
    accepted_accuracy : ndarray
        Of all queries accepted by ``fpr95``'s line, the share that is known and named rightly.

    References
    ----------
    Dhamija et al. 2018, arXiv:1811.04110, section 4 (OSCR). Hendrycks & Gimpel 2017, arXiv:1610.02136 (AUROC, AUPR).
    """

    auroc: NDArray[np.float64]
    aupr: NDArray[np.float64]
    fpr95: NDArray[np.float64]
    oscr: NDArray[np.float64]
    accepted_accuracy: NDArray[np.float64]

    def mean(self, name: str) -> tuple[float, float]:
        """Return the mean of one of them, and the half-width of its 95 % interval over episodes, 1.96 sd / sqrt(e)."""
        difference = PairedDifference.between("", getattr(self, name), "", np.zeros(len(self.auroc)))
        return difference.difference, difference.ci95


METRICS: tuple[str, ...] = tuple(field.name for field in fields(OpenSetMetrics))


@dataclass(frozen=True)
class OpenSetResult:
    """What ``run_open_set`` found.

    Attributes
    ----------
    scores : dict of name to OpenSetMetrics
    accuracy : ndarray of shape (e,)
        Share of the known queries that the classifier names rightly, none being refused.
    seconds : dict of name to float
        For each score, gathering and classifying, which all share, included.
    """

    scores: dict[str, OpenSetMetrics]
    accuracy: NDArray[np.float64]
    seconds: dict[str, float]

    def __getitem__(self, score: str) -> OpenSetMetrics:
        return self.scores[score]

    def paired(self, first: str, second: str, metric: str = "auroc") -> tuple[float, float]:
        """Return how much larger ``first``'s metric is on the same episodes, and the 95 % interval's half-width."""
        check_choice("metric", metric, METRICS)
        found = PairedDifference.between(first, getattr(self[first], metric), second, getattr(self[second], metric))
        return found.difference, found.ci95


def open_set_metrics(known: Tensor, unknown: Tensor, correct: Tensor) -> OpenSetMetrics:
    """Judge unknown scores.

    Parameters
    ----------
    known : Tensor of shape (e, k)
        Scores of queries of known classes; higher is more surely unknown.
    unknown : Tensor of shape (e, u)
        Scores of queries of other classes.
    correct : Tensor of shape (e, k), bool
        Whether the classifier names the known query rightly.
    """
    below = (known.unsqueeze(2) < unknown.unsqueeze(1)).float()
    below += 0.5 * (known.unsqueeze(2) == unknown.unsqueeze(1))
    # Of each unknown query: how many queries score as high as it does, in all and of the unknown.
    found = (unknown.unsqueeze(1) >= unknown.unsqueeze(2)).sum(2)
    raised = found + (known.unsqueeze(1) >= unknown.unsqueeze(2)).sum(2)
    place = int(np.ceil(_ACCEPTED * known.shape[1] - 1e-9)) - 1
    line = known.sort(dim=1).values[:, place : place + 1]
    accepted, wrongly = known <= line, unknown <= line
    right = (accepted & correct).sum(1) / (accepted.sum(1) + wrongly.sum(1))
    values = (
        below.mean((1, 2)),
        (found / raised).mean(1),
        wrongly.float().mean(1),
        (below.mean(2) * correct).mean(1),
        right,
    )
    return OpenSetMetrics(*(np.asarray(value.cpu().numpy(), np.float64) for value in values))


def run_open_set(
    scores: Sequence[str],
    X: ArrayLike,
    sampler: EpisodeSampler,
    *,
    background: Background | None = None,
    center: Center | None = None,
    classifier: FewShotClassifier | None = None,
    device: str | None = None,
) -> OpenSetResult:
    """Judge unknown scores on the sampler's episodes, many at once.

    Parameters
    ----------
    scores : sequence of names
        Of ``fewshot.openset.SCORES``.
    X : array-like of shape (n, d)
        Embeddings of the examples that the sampler's labels are of.
    sampler : EpisodeSampler
        Of twice the ways: the first half of an episode's classes are learned, the others only ask.
    background : Background, optional
        Vectors of other classes than the sampler's, for the scores that take one.
    center : Center, optional
        Of the encoder, for the default score without a background.
    classifier : FewShotClassifier, optional
        Names the known queries; by default ``PrototypeClassifier``.
    device : str, optional
        Where the tensors live; by default CUDA where there is one, else the CPU.

    Raises
    ------
    ValueError : for an unknown score, or one that needs a background, without one; episodes of an odd or various number
        of classes, or with imbalanced queries; or X with another number of rows than the sampler has labels.
    """
    asked = [_score(name, background) for name in dict.fromkeys(scores)]
    if sampler.n_way == "various" or int(sampler.n_way) % 2 or sampler.query_imbalance is not None:
        raise ValueError(
            f"open-set episodes have as many classes outside as inside, and as many queries of each: n_way must be "
            f"even and query_imbalance None, not {sampler.n_way!r} and {sampler.query_imbalance!r}"
        )
    vectors = np.asarray(X)
    vectors = check_vectors(vectors, vectors.shape[1] if vectors.ndim == 2 else 0)
    if len(vectors) != sampler.n_examples:
        raise ValueError(f"X has {len(vectors)} rows, but the sampler was given {sampler.n_examples} labels")
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    data = torch.from_numpy(vectors).to(place)
    reader = classifier or PrototypeClassifier()
    ways = int(sampler.n_way) // 2
    found: dict[str, list[OpenSetMetrics]] = {score.name: [] for score in asked}
    seconds = dict.fromkeys(found, 0.0)
    accuracies = []
    with Progress(len(sampler), "open set", unit="episode") as bar, torch.inference_mode():
        for chunk in sampler:
            for some in _batches(chunk, data.shape[1]):
                start = time.perf_counter()
                inside, support, query, known = _gathered(some, data, ways, background, center)
                labels = torch.from_numpy(inside).to(place)
                asks = torch.from_numpy(some.query_labels[:, : query.shape[1] // 2]).to(place)
                named = reader.episode_scores(support, labels, query[:, : asks.shape[1]], n_classes=ways)
                correct = named.argmax(dim=-1) == asks
                accuracies.append(correct.float().mean(1).cpu().numpy())
                shared = time.perf_counter() - start
                for score in asked:
                    start = time.perf_counter()
                    values = score(known, query)
                    inner, outer = values[:, : asks.shape[1]], values[:, asks.shape[1] :]
                    found[score.name].append(open_set_metrics(inner, outer, correct))
                    seconds[score.name] += shared + time.perf_counter() - start
            bar.advance(len(chunk))
    return OpenSetResult(
        {name: _joined(parts) for name, parts in found.items()}, np.concatenate(accuracies).astype(np.float64), seconds
    )


def _score(name: str, background: Background | None) -> UnknownScore:
    check_choice("score", name, tuple(SCORES))
    score = SCORES[name]
    if score.needs_background and background is None:
        raise ValueError(f"the unknown score {name!r} compares with a background; give vectors of other classes")
    return score


def _batches(chunk: Episodes, d: int) -> list[Episodes]:
    per_episode = 4 * max((chunk.support.shape[1] + chunk.query.shape[1]) * d, chunk.query.shape[1] ** 2)
    size = max(1, _MEMORY // per_episode)
    return [chunk[at : at + size] for at in range(0, len(chunk), size)]


def _gathered(
    some: Episodes, data: Tensor, ways: int, background: Background | None, center: Center | None
) -> tuple[NDArray[np.int64], Tensor, Tensor, Known]:
    """Return the known classes' labels and support vectors, all queries with the known classes' first, and ``Known``.

    A sampler's episodes are sorted by class, so that the known ones are the first half.
    """
    half = some.support.shape[1] // 2
    inside = some.support_labels[:, :half]
    support = data[torch.from_numpy(some.support[:, :half]).to(data.device)]
    query = data[torch.from_numpy(some.query).to(data.device)]
    membership = Membership(torch.from_numpy(inside).to(data.device), ways)
    return inside, support, query, Known.of(support, membership, background, center)


def _joined(parts: Sequence[OpenSetMetrics]) -> OpenSetMetrics:
    return OpenSetMetrics(*(np.concatenate([getattr(part, name) for part in parts]) for name in METRICS))
