"""Open-set episodes: half of the queries are of unknown classes, which a score must detect."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from fewshot.benchmark.runner import PairedDifference, check_examples, half_width
from fewshot.classifiers import FewShotClassifier, Membership, WhitenedPrototypeClassifier
from fewshot.episodes import Episodes, EpisodeSampler
from fewshot.openset import SCORES, Background, Center, KnownClasses, UnknownScore
from fewshot.progress import Progress
from fewshot.validation import check_choice

_BATCH_BYTES = 2**24  # of one batch of episodes' vectors, and of comparisons of its queries
_ACCEPTED = 0.95  # the share of known queries that FPR95 and the accepted accuracy accept, at least


@dataclass(frozen=True)
class OpenSetMetrics:
    """How well unknown queries are detected in each of e episodes; each metric is an array (e,) in [0, 1].

    Attributes
    ----------
    auroc : ndarray
        The probability that an unknown query scores above a known one, a tie counting half.
    aupr : ndarray
        Average precision, unknown queries being the positives.
    fpr95 : ndarray
        The share of unknown queries accepted at the lowest threshold that accepts 95 % of the known; lower is better.
    oscr : ndarray
        Area under the share of known queries accepted and correctly classified over that of unknown ones accepted.
    accepted_accuracy : ndarray
        Of all queries accepted at ``fpr95``'s threshold, the share that is known and correctly classified.

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
        values = getattr(self, name)
        return float(values.mean()), half_width(values)


METRICS: tuple[str, ...] = tuple(field.name for field in fields(OpenSetMetrics))


@dataclass(frozen=True)
class OpenSetResult:
    """Result of ``run_openset_benchmark``.

    Attributes
    ----------
    scores : dict of name to OpenSetMetrics
    accuracy : ndarray of shape (e,)
        Share of the known queries that the classifier predicts correctly, none being rejected.
    seconds : dict of name to float
        For each score; gathering and classifying, which all share, included.
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


def openset_metrics(known: Tensor, unknown: Tensor, correct: Tensor) -> OpenSetMetrics:
    """Evaluate unknown scores.

    Parameters
    ----------
    known : Tensor of shape (e, k)
        Scores of queries of known classes; higher is more likely unknown.
    unknown : Tensor of shape (e, u)
        Scores of queries of other classes.
    correct : Tensor of shape (e, k), bool
        Whether the classifier predicts the known query correctly.
    """
    below = (known.unsqueeze(2) < unknown.unsqueeze(1)).float()
    below += 0.5 * (known.unsqueeze(2) == unknown.unsqueeze(1))
    # At the threshold of each unknown query: how many queries are detected, unknown ones and all.
    true_positives = (unknown.unsqueeze(1) >= unknown.unsqueeze(2)).sum(2)
    positives = true_positives + (known.unsqueeze(1) >= unknown.unsqueeze(2)).sum(2)
    place = int(np.ceil(_ACCEPTED * known.shape[1] - 1e-9)) - 1
    threshold = known.sort(dim=1).values[:, place : place + 1]
    accepted, false_accepts = known <= threshold, unknown <= threshold
    values = (
        below.mean((1, 2)),
        (true_positives / positives).mean(1),
        false_accepts.float().mean(1),
        (below.mean(2) * correct).mean(1),
        (accepted & correct).sum(1) / (accepted.sum(1) + false_accepts.sum(1)),
    )
    return OpenSetMetrics(*(np.asarray(value.cpu().numpy(), np.float64) for value in values))


def run_openset_benchmark(
    scores: Sequence[str],
    X: ArrayLike,
    sampler: EpisodeSampler,
    *,
    background: Background | None = None,
    center: Center | None = None,
    classifier: FewShotClassifier | None = None,
    device: str | None = None,
) -> OpenSetResult:
    """Evaluate unknown scores on the sampler's episodes, many at once.

    Parameters
    ----------
    scores : sequence of names
        Of ``fewshot.openset.SCORES``.
    X : array-like of shape (n, d)
        Embeddings of the examples that the sampler's labels are of.
    sampler : EpisodeSampler
        Of twice the ways: the first half of an episode's classes are known, the others are among the queries only.
    background : Background, optional
        Embeddings of other classes than the sampler's, for the scores that take one.
    center : Center, optional
        Of the encoder, for the default score without a background.
    classifier : FewShotClassifier, optional
        Predicts the known queries; by default ``WhitenedPrototypeClassifier``, as in a registry.
    device : str, optional
        Where the tensors live; by default CUDA where there is one, else the CPU.

    Raises
    ------
    ValueError : for an unknown score, or one that needs a background, without one; episodes of an odd or various number
        of classes, of various shots, or with imbalanced queries; or X with another number of rows than the sampler has
        labels.
    """
    formulas = [_score(name, background) for name in dict.fromkeys(scores)]
    if not sampler.fixed or int(sampler.n_way) % 2 or sampler.query_imbalance is not None:
        raise ValueError(
            f"open-set episodes have as many unknown classes as known ones, and as many queries of each: n_way must be "
            f"even, n_shot a number and query_imbalance None, not {sampler.n_way!r}, {sampler.n_shot!r} and "
            f"{sampler.query_imbalance!r}"
        )
    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    data = torch.from_numpy(check_examples(X, sampler)).to(place)
    known_classifier = classifier or WhitenedPrototypeClassifier()
    ways = int(sampler.n_way) // 2
    metrics: dict[str, list[OpenSetMetrics]] = {score.name: [] for score in formulas}
    seconds = dict.fromkeys(metrics, 0.0)
    accuracies = []
    with Progress(len(sampler), "open set", unit="episode") as bar, torch.inference_mode():
        for chunk in sampler:
            for some in _batches(chunk, data.shape[1]):
                start = time.perf_counter()
                # A sampler's episodes are sorted by class: the known classes' examples are the first half.
                half, n_known = some.support.shape[1] // 2, some.query.shape[1] // 2
                support, query = (data[_on(data, where)] for where in (some.support[:, :half], some.query))
                labels, truth = (_on(data, y) for y in (some.support_labels[:, :half], some.query_labels[:, :n_known]))
                known = KnownClasses.of(support, Membership(labels, ways), background, center)
                predicted = known_classifier.episode_scores(support, labels, query[:, :n_known], n_classes=ways)
                correct = predicted.argmax(dim=-1) == truth
                accuracies.append(correct.float().mean(1).cpu().numpy())
                shared = time.perf_counter() - start
                for score in formulas:
                    start = time.perf_counter()
                    values = score(known, query)
                    metrics[score.name].append(openset_metrics(values[:, :n_known], values[:, n_known:], correct))
                    seconds[score.name] += shared + time.perf_counter() - start
            bar.advance(len(chunk))
    scored = {name: _joined(parts) for name, parts in metrics.items()}
    return OpenSetResult(scored, np.concatenate(accuracies).astype(np.float64), seconds)


def _score(name: str, background: Background | None) -> UnknownScore:
    check_choice("score", name, tuple(SCORES))
    score = SCORES[name]
    if score.needs_background and background is None:
        raise ValueError(f"the unknown score {name!r} compares with a background; give embeddings of other classes")
    return score


def _on(data: Tensor, array: NDArray[np.int64]) -> Tensor:
    return torch.from_numpy(array).to(data.device)


def _batches(chunk: Episodes, d: int) -> list[Episodes]:
    per_episode = 4 * max((chunk.support.shape[1] + chunk.query.shape[1]) * d, chunk.query.shape[1] ** 2)
    size = max(1, _BATCH_BYTES // per_episode)
    return [chunk[at : at + size] for at in range(0, len(chunk), size)]


def _joined(parts: Sequence[OpenSetMetrics]) -> OpenSetMetrics:
    return OpenSetMetrics(*(np.concatenate([getattr(part, name) for part in parts]) for name in METRICS))
