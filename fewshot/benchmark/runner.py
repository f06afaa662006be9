"""Several methods on the same thousands of episodes, with intervals."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone
from torch import Tensor

from fewshot.classifiers import FewShotClassifier
from fewshot.episodes import Episodes, EpisodeSampler
from fewshot.errors import MissingExtra
from fewshot.progress import Progress
from fewshot.validation import check_count, check_vectors

if TYPE_CHECKING:
    from pandas import DataFrame

_Z = 1.96  # the half-width of a 95 % interval, in standard errors


@dataclass(frozen=True, repr=False)
class MethodResult:
    """One method's predictions.

    Attributes
    ----------
    method : str
    accuracies : ndarray of shape (e,)
        Share of the queries predicted correctly, of each episode.
    predicted : ndarray of shape (e, q)
        The class within the episode, 0 to c - 1, for each query of ``BenchmarkResult.episodes``; -1 where padded.
    seconds : float
        From vectors in memory to predictions: checking and moving the vectors and sampling the episodes, which
        methods of one run share and which count for each in full; gathering and scoring. Without the disjoint episodes.
    disjoint : ndarray of shape (t,)
        Accuracies of ``EpisodeSampler.disjoint``'s episodes, no two of which share an image; empty if there are none.
    """

    method: str
    accuracies: NDArray[np.float64]
    predicted: NDArray[np.int64]
    seconds: float
    disjoint: NDArray[np.float64]

    def __repr__(self) -> str:
        return (
            f"MethodResult({self.method!r}, accuracy={self.accuracy:.4f}, ci95={self.ci95:.4f}, "
            f"episodes={len(self.accuracies)}, seconds={self.seconds:.2f})"
        )

    @property
    def accuracy(self) -> float:
        """Mean over episodes, in [0, 1]."""
        return float(self.accuracies.mean())

    @property
    def ci95(self) -> float:
        """Half-width of the usual 95 % interval, 1.96 sd / sqrt(e).

        It is for other episodes of the same images, and vanishes as more are drawn. For other images of the same
        classes it is too narrow unless the episodes share none: see ``ci95_disjoint``.
        """
        return half_width(self.accuracies)

    @property
    def ci95_disjoint(self) -> float:
        """Half-width from the disjoint episodes, 1.96 sd / sqrt(t); NaN where there are fewer than two.

        It is for other images of the same classes, and exact around ``disjoint.mean()``; around ``accuracy`` it is
        conservative, as a mean over many episodes varies less with the images. With fewer than some 30 episodes it is
        itself rough. Without replacement it is ``ci95``.

        References
        ----------
        Lafargue et al. 2024, arXiv:2409.02850, section 3.
        """
        return half_width(self.disjoint)


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
        return cls(first, second, float(difference.mean()), half_width(difference))

    @property
    def significant(self) -> bool:
        """Whether the interval leaves out zero."""
        return abs(self.difference) > self.ci95


@dataclass(frozen=True, repr=False)
class BenchmarkResult:
    """Result of ``run_benchmark``.

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

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}: {one.accuracy:.4f} ± {one.ci95:.4f}" for name, one in self.methods.items())
        return f"BenchmarkResult({self.episodes!r}, {{{shown}}})"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td style='text-align:left'>{escape(name)}</td><td>{100 * one.accuracy:.1f} ± {100 * one.ci95:.1f}"
            f"</td><td>± {100 * one.ci95_disjoint:.1f}</td><td>{one.seconds:.2f}</td></tr>"
            for name, one in sorted(self.methods.items(), key=lambda item: -item[1].accuracy)
        )
        head = "<th>method</th><th>accuracy, %</th><th>of other examples</th><th>seconds</th>"
        return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table><p>{escape(repr(self.episodes))}</p>"

    def to_frame(self) -> DataFrame:
        """Return a pandas DataFrame of a row for each method: accuracy, its intervals, episodes and seconds.

        Raises
        ------
        MissingExtra : without pandas.
        """
        if find_spec("pandas") is None:
            raise MissingExtra("BenchmarkResult.to_frame needs pandas: pip install pandas")
        from pandas import DataFrame, Index

        methods = self.methods.values()
        columns: dict[str, list[Any]] = {
            name: [getattr(one, name) for one in methods] for name in ("accuracy", "ci95", "ci95_disjoint")
        }
        columns["episodes"] = [len(one.accuracies) for one in methods]
        columns["disjoint_episodes"] = [len(one.disjoint) for one in methods]
        columns["seconds"] = [one.seconds for one in methods]
        return DataFrame(columns, index=Index(list(self.methods), name="method"))

    def paired(self, first: str, second: str, other: BenchmarkResult | None = None) -> PairedDifference:
        """Compare two methods episode by episode, which is sharper than comparing their intervals.

        Parameters
        ----------
        first, second : str
        other : BenchmarkResult, optional
            That ``second`` is of, such as of another encoder's embeddings of the same images; by default this one.

        Raises
        ------
        ValueError : if ``other`` has other episodes.

        References
        ----------
        Lafargue et al. 2024, arXiv:2409.02850, section 5 (paired tests).
        """
        beside = self if other is None else other
        if beside is not self and not self.episodes.equals(beside.episodes):
            raise ValueError(
                f"the results are of different episodes, {self.episodes!r} with random_state {self.random_state} and "
                f"{beside.episodes!r} with {beside.random_state}: run both with the same sampler"
            )
        return PairedDifference.between(first, self[first].accuracies, second, beside[second].accuracies)


def run_benchmark(
    classifiers: Mapping[str, Any] | Sequence[Any],
    X: ArrayLike,
    sampler: EpisodeSampler,
    *,
    device: str | None = None,
    memory: int | None = None,
) -> BenchmarkResult:
    """Evaluate classifiers on the sampler's episodes, and on disjoint ones for an interval that holds for other images.

    Parameters
    ----------
    classifiers : sequence of estimators, or dict of name to estimator
        ``FewShotClassifier`` methods are scored many episodes at once; any other scikit-learn classifier is cloned,
        fitted and evaluated episode by episode.
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
    ValueError : if X has another number of rows than the sampler has labels, or holds NaN or infinity; or a name is
        given twice.
    """
    named = _named(classifiers)
    if memory is not None:
        check_count("memory", memory)
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if memory is None:
        memory = 2**22 if place.type == "cpu" else 2**28
    torch.zeros(1, device=place)  # a device's own start is not the methods' time
    begun = time.perf_counter()
    vectors = check_examples(X, sampler)
    data = torch.from_numpy(vectors).to(place)
    chunks = list(sampler)
    shared = time.perf_counter() - begun
    disjoint_sampler = sampler.disjoint() if sampler.replacement else None
    disjoint = [] if disjoint_sampler is None else list(disjoint_sampler)
    results = {}
    with Progress((len(sampler) + sum(map(len, disjoint))) * len(named), "bench", unit="episode") as bar:
        for name, classifier in named.items():
            start = time.perf_counter()
            if isinstance(classifier, FewShotClassifier):
                predict: Callable[[Episodes], NDArray[np.int64]] = EpisodePredictor(classifier, data, memory)
            else:
                predict = partial(_looped, classifier, vectors)
            predicted = []
            for some in chunks:
                predicted.append(predict(some))
                bar.advance(len(some))
            seconds = shared + time.perf_counter() - start
            accuracies: list[NDArray[np.float64]] = [np.empty(0)]
            for some in disjoint:
                accuracies.append(episode_accuracies(predict(some), some))
                bar.advance(len(some))
            results[name] = (_stacked(predicted, -1), seconds, np.concatenate(accuracies))
    episodes = joined(chunks)
    methods = {}
    for name, (classes, seconds, of_disjoint) in results.items():
        of_episodes = episode_accuracies(classes, episodes)
        methods[name] = MethodResult(
            name, of_episodes, classes, seconds, of_disjoint if sampler.replacement else of_episodes
        )
    return BenchmarkResult(methods, episodes, sampler.random_state, sampler.replacement)


def check_examples(X: ArrayLike, sampler: EpisodeSampler) -> NDArray[np.float32]:
    """Return embeddings as float32 of shape (n, d), one for each of the sampler's labels.

    Raises
    ------
    ValueError : for another number, NaN or infinity.
    """
    vectors = np.asarray(X)
    vectors = check_vectors(vectors, vectors.shape[1] if vectors.ndim == 2 else 0)
    if len(vectors) != sampler.n_examples:
        raise ValueError(f"X has {len(vectors)} rows, but the sampler was given {sampler.n_examples} labels")
    return vectors


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


class EpisodePredictor:
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
        # Reused for each batch: fresh memory costs more than the copy into it.
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
    n_ways, n_queries = (some.classes >= 0).sum(1), (some.query_labels >= 0).sum(1)
    for ways, queries in np.unique(np.stack([n_ways, n_queries], axis=1), axis=0):
        rows = np.flatnonzero((n_ways == ways) & (n_queries == queries))
        shots = int((some.support_labels[rows] >= 0).sum(1).max())
        yield (
            rows,
            Episodes(
                some.classes[rows, :ways],
                some.support[rows, :shots],
                some.support_labels[rows, :shots],
                some.query[rows, :queries],
                some.query_labels[rows, :queries],
            ),
        )


def _looped(classifier: Any, vectors: NDArray[np.float32], some: Episodes) -> NDArray[np.int64]:
    predicted = np.full(some.query.shape, -1, np.int64)
    for row in range(len(some)):
        support, query = some.support_labels[row] >= 0, some.query_labels[row] >= 0
        fitted = clone(classifier).fit(vectors[some.support[row, support]], some.support_labels[row, support])
        predicted[row, query] = fitted.predict(vectors[some.query[row, query]])
    return predicted


def joined(chunks: Sequence[Episodes]) -> Episodes:
    """Return a sampler's chunks as one."""
    return Episodes(
        *(_stacked([getattr(some, field) for some in chunks], fill) for field, fill in Episodes.padding().items())
    )


def episode_accuracies(predicted: NDArray[np.int64], episodes: Episodes) -> NDArray[np.float64]:
    """Return the share (e,) of predicted classes (e, q) that are correct."""
    real = episodes.query_labels >= 0
    shares: NDArray[np.float64] = ((predicted == episodes.query_labels) & real).sum(1) / real.sum(1)
    return shares


def _stacked(arrays: Sequence[NDArray[np.int64]], fill: int) -> NDArray[np.int64]:
    width = max(array.shape[1] for array in arrays)
    return np.concatenate(
        [np.pad(array, ((0, 0), (0, width - array.shape[1])), constant_values=fill) for array in arrays]
    )


def half_width(values: NDArray[np.float64]) -> float:
    """Return the half-width of the 95 % interval of the mean of values (e,), 1.96 sd / sqrt(e); NaN for one value."""
    return float(_Z * values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")
