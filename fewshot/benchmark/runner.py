"""Thousands of episodes for several methods on the same draws, with intervals that mean something."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone
from torch import Tensor

from fewshot.classifiers import FewShotClassifier
from fewshot.episodes import Episodes, EpisodeSampler
from fewshot.progress import Progress
from fewshot.validation import check_count, check_vectors

# The half-width of a 95 % interval, in standard errors.
_Z = 1.96


@dataclass(frozen=True)
class MethodResult:
    """One method's answers.

    Attributes
    ----------
    method : str
    accuracies : ndarray of shape (e,)
        Share of the queries answered rightly, of each episode.
    predicted : ndarray of shape (e, q)
        The class within the episode, 0 to c - 1, for each query of ``BenchmarkResult.episodes``; -1 where padded.
    seconds : float
        From vectors in memory to predictions, everything included: checking and moving the vectors and sampling the
        episodes, which several methods of one run share and each is charged for in full, gathering and scoring; all
        but the disjoint episodes.
    disjoint : ndarray of shape (t,)
        Accuracies of ``EpisodeSampler.disjoint``'s episodes, no two of which share an image; empty if there are none.
    """

    method: str
    accuracies: NDArray[np.float64]
    predicted: NDArray[np.int64]
    seconds: float
    disjoint: NDArray[np.float64]

    @property
    def accuracy(self) -> float:
        """Mean over episodes, in [0, 1]."""
        return float(self.accuracies.mean())

    @property
    def ci95(self) -> float:
        """Half-width of the usual interval, 1.96 sd / sqrt(e).

        It speaks of other episodes from the same images, and shrinks to nothing as more are drawn. For other images of
        the same classes it is too narrow unless the episodes share none: see ``ci95_disjoint``.
        """
        return _half_width(self.accuracies)

    @property
    def ci95_disjoint(self) -> float:
        """Half-width from the disjoint episodes, 1.96 sd / sqrt(t); NaN where there are fewer than two.

        It speaks of other images of the same classes, exactly of ``disjoint.mean()``; around ``accuracy`` it is too
        wide rather than too narrow, for a mean over many episodes, in which each image meets many others, varies less
        with the images. With fewer than some 30 episodes it is itself rough. Without replacement it is ``ci95``.

        References
        ----------
        Lafargue et al. 2024, arXiv:2409.02850, section 3.
        """
        return _half_width(self.disjoint)


@dataclass(frozen=True)
class PairedDifference:
    """How much better ``first`` is than ``second`` on the same episodes: mean and half-width of its 95 % interval."""

    first: str
    second: str
    difference: float
    ci95: float

    @classmethod
    def between(
        cls, first: str, accuracies: NDArray[np.float64], second: str, others: NDArray[np.float64]
    ) -> PairedDifference:
        """Compare two methods by their accuracies (e,) on the same episodes."""
        difference = accuracies - others
        return cls(first, second, float(difference.mean()), _half_width(difference))

    @property
    def significant(self) -> bool:
        """Whether the interval leaves out zero."""
        return abs(self.difference) > self.ci95


@dataclass(frozen=True)
class BenchmarkResult:
    """What ``run_benchmark`` found.

    Attributes
    ----------
    methods : dict of name to MethodResult
    episodes : Episodes
        All of them, in order: positions into the data.
    random_state : int
    replacement : bool
        Whether episodes may share images.
    """

    methods: dict[str, MethodResult]
    episodes: Episodes
    random_state: int
    replacement: bool

    def __getitem__(self, method: str) -> MethodResult:
        return self.methods[method]

    def paired(self, first: str, second: str) -> PairedDifference:
        """Compare two methods episode by episode, which is sharper than comparing their intervals.

        References
        ----------
        Lafargue et al. 2024, arXiv:2409.02850, section 5 (paired tests).
        """
        return PairedDifference.between(first, self[first].accuracies, second, self[second].accuracies)


def run_benchmark(
    classifiers: Mapping[str, Any] | Sequence[Any],
    X: ArrayLike,
    sampler: EpisodeSampler,
    *,
    device: str | None = None,
    memory: int | None = None,
) -> BenchmarkResult:
    """Score classifiers on the sampler's episodes, and on disjoint ones for the interval that speaks of other images.

    Parameters
    ----------
    classifiers : sequence of estimators, or dict of name to estimator
        ``FewShotClassifier`` methods are scored many episodes at once; any other scikit-learn classifier is cloned,
        fitted and asked episode by episode.
    X : array-like of shape (n, d)
        Embeddings of the examples that the sampler's labels are of.
    sampler : EpisodeSampler
    device : str, optional
        Where the tensors live; by default CUDA where there is one, else the CPU.
    memory : int, optional
        Bytes that one batch of episodes' vectors may take; by default 4 MiB on a CPU, which stays in its cache, and
        256 MiB elsewhere.

    Raises
    ------
    ValueError : if X has fewer rows than the sampler has labels, or holds NaN or infinity; or a name is given twice.
    """
    named = _named(classifiers)
    if memory is not None:
        check_count("memory", memory)
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if memory is None:
        memory = 2**22 if place.type == "cpu" else 2**28
    torch.zeros(1, device=place)  # a device's own start is not the methods' time
    begun = time.perf_counter()
    vectors = np.asarray(X)
    vectors = check_vectors(vectors, vectors.shape[1] if vectors.ndim == 2 else 0)
    if len(vectors) != sampler.n_examples:
        raise ValueError(f"X has {len(vectors)} rows, but the sampler was given {sampler.n_examples} labels")
    data = torch.from_numpy(vectors).to(place)
    chunks = list(sampler)
    shared = time.perf_counter() - begun
    apart = sampler.disjoint() if sampler.replacement else None
    disjoint = [] if apart is None else list(apart)
    results = {}
    with Progress((len(sampler) + sum(map(len, disjoint))) * len(named), "bench", unit="episode") as bar:
        for name, classifier in named.items():
            start = time.perf_counter()
            if isinstance(classifier, FewShotClassifier):
                answer: Callable[[Episodes], NDArray[np.int64]] = EpisodeScorer(classifier, data, memory)
            else:
                answer = partial(_looped, classifier, vectors)
            answers = []
            for some in chunks:
                answers.append(answer(some))
                bar.advance(len(some))
            seconds = shared + time.perf_counter() - start
            found: list[NDArray[np.float64]] = [np.empty(0)]
            for some in disjoint:
                found.append(episode_accuracies(answer(some), some))
                bar.advance(len(some))
            results[name] = (_stacked(answers, -1), seconds, np.concatenate(found))
    episodes = joined(chunks)
    methods = {}
    for name, (predicted, seconds, others) in results.items():
        accuracies = episode_accuracies(predicted, episodes)
        methods[name] = MethodResult(
            name, accuracies, predicted, seconds, others if sampler.replacement else accuracies
        )
    return BenchmarkResult(
        methods=methods,
        episodes=episodes,
        random_state=sampler.random_state,
        replacement=sampler.replacement,
    )


def _named(classifiers: Mapping[str, Any] | Sequence[Any]) -> dict[str, Any]:
    if isinstance(classifiers, Mapping):
        return dict(classifiers)
    named: dict[str, Any] = {}
    for classifier in classifiers:
        name = str(classifier)
        if name in named:
            raise ValueError(f"{name} is given twice; give a dict of names to tell them apart")
        named[name] = classifier
    return named


class EpisodeScorer:
    """Predicts episodes with one classifier, as many at once as fit the memory.

    Parameters
    ----------
    classifier : FewShotClassifier
    data : Tensor of shape (n, d), float32
        The vectors that episodes point into; prepared here, once.
    memory : int
        Bytes that one batch of episodes' vectors may take.
    """

    def __init__(self, classifier: FewShotClassifier, data: Tensor, memory: int) -> None:
        self._classifier, self._memory = classifier, memory
        with torch.inference_mode():
            self._data = classifier.prepare(data)
        # Used again for each batch: memory fresh from the system costs more than the copy into it.
        self._buffers = {"support": data.new_empty(0), "query": data.new_empty(0)}

    def __call__(self, some: Episodes) -> NDArray[np.int64]:
        """Return the predicted class of each query, (e, q); -1 where padded."""
        predicted = np.full(some.query.shape, -1, np.int64)
        for rows, part in _alike(some):
            per_episode = (part.support.shape[1] + part.query.shape[1]) * self._data[0].nbytes
            size = max(1, self._memory // per_episode)
            ways = part.classes.shape[1]
            for at in range(0, len(rows), size):
                few = part[at : at + size]
                labels = torch.from_numpy(few.support_labels).to(self._data.device)
                support, query = self._gathered("support", few.support), self._gathered("query", few.query)
                scores = self._classifier.episode_scores(support, labels, query, n_classes=ways, prepared=True)
                predicted[rows[at : at + size], : part.query.shape[1]] = scores.argmax(dim=-1).cpu().numpy()
        predicted[some.query_labels < 0] = -1
        return predicted

    def _gathered(self, name: str, where: NDArray[np.int64]) -> Tensor:
        """Vectors (e, n, d) at positions (e, n), valid until the next batch."""
        if len(self._buffers[name]) < where.size:
            self._buffers[name] = self._data.new_empty(where.size, self._data.shape[1])
        into = self._buffers[name][: where.size]
        torch.index_select(self._data, 0, torch.from_numpy(where).to(self._data.device).reshape(-1), out=into)
        return into.view(*where.shape, -1)


def _alike(some: Episodes) -> Iterator[tuple[NDArray[np.int64], Episodes]]:
    """Split a chunk into parts of one number of classes and of queries each; the support may still be padded."""
    ways, queries = (some.classes >= 0).sum(1), (some.query_labels >= 0).sum(1)
    for way, asked in np.unique(np.stack([ways, queries], axis=1), axis=0):
        rows = np.flatnonzero((ways == way) & (queries == asked))
        shots = int((some.support_labels[rows] >= 0).sum(1).max())
        yield (
            rows,
            Episodes(
                some.classes[rows, :way],
                some.support[rows, :shots],
                some.support_labels[rows, :shots],
                some.query[rows, :asked],
                some.query_labels[rows, :asked],
            ),
        )


def _looped(classifier: Any, vectors: NDArray[np.float32], some: Episodes) -> NDArray[np.int64]:
    predicted = np.full(some.query.shape, -1, np.int64)
    for row in range(len(some)):
        known, asked = some.support_labels[row] >= 0, some.query_labels[row] >= 0
        fitted = clone(classifier).fit(vectors[some.support[row, known]], some.support_labels[row, known])
        predicted[row, asked] = fitted.predict(vectors[some.query[row, asked]])
    return predicted


def joined(chunks: Sequence[Episodes]) -> Episodes:
    """Return a sampler's chunks as one."""
    return Episodes(
        *(_stacked([getattr(some, field) for some in chunks], fill) for field, fill in Episodes.padding().items())
    )


def episode_accuracies(predicted: NDArray[np.int64], episodes: Episodes) -> NDArray[np.float64]:
    """Return the share of right answers (e,) among predicted classes (e, q)."""
    asked = episodes.query_labels >= 0
    shares: NDArray[np.float64] = ((predicted == episodes.query_labels) & asked).sum(1) / asked.sum(1)
    return shares


def _stacked(arrays: Sequence[NDArray[np.int64]], fill: int) -> NDArray[np.int64]:
    width = max(array.shape[1] for array in arrays)
    return np.concatenate(
        [np.pad(array, ((0, 0), (0, width - array.shape[1])), constant_values=fill) for array in arrays]
    )


def _half_width(values: NDArray[np.float64]) -> float:
    return float(_Z * values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")
