"""Many episodes fine-tuned, from one copy of the network, each compared with the untouched encoder."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewshot.benchmark import BenchmarkResult, MethodResult, episode_accuracies, joined
from fewshot.classifiers import PrototypeClassifier
from fewshot.encoders import (
    Encoded,
    TimmEncoder,
    all_or_raise,
    check_image_batch,
    encode_flips,
    flipped_centre,
    sum_of_directions,
)
from fewshot.episodes import Episodes, EpisodeSampler
from fewshot.finetuning.choice import Choice, Verdict, hold_out, untouched
from fewshot.finetuning.classifier import FineTuneClassifier, head_parameters, usable
from fewshot.finetuning.frozen import Answer, answer, classifier_of
from fewshot.finetuning.session import Session, Task, opened
from fewshot.finetuning.views import decode
from fewshot.finetuning.walk import SHOWN
from fewshot.media import ImageSource
from fewshot.progress import Progress
from fewshot.validation import check_count

_PLAIN, _TUNED = "prototype", "fine-tuning"


@dataclass(frozen=True)
class FineTuningResult(BenchmarkResult):
    """What ``run_finetuning`` found: the answers of "fine-tuning", and of "prototype" by the untouched encoder.

    Attributes
    ----------
    choices : tuple of Choice
        One an episode; seconds are an equal share of what tuning took on all.
    at_once : int
        Episodes that were tuned in one pass.
    """

    choices: tuple[Choice, ...]
    at_once: int


def run_finetuning(
    classifier: FineTuneClassifier,
    images: Iterable[ImageSource],
    sampler: EpisodeSampler,
    *,
    at_once: int | None = None,
) -> FineTuningResult:
    """Tune on the support of each of the sampler's episodes, and answer its queries.

    The answers are those of ``classifier`` fitted anew in each episode, but for roundings, which in bfloat16 may choose
    other steps. The network is copied and cut once, and several episodes can be tuned in one pass of it.

    Parameters
    ----------
    classifier : FineTuneClassifier
        It stays as it is.
    images : sequence of n pictures
        That the sampler's labels are of; as ``fewshot.open_image`` takes them.
    sampler : EpisodeSampler
        Its disjoint episodes are not tuned on: the interval that speaks of other pictures takes ``replacement=False``.
    at_once : int, optional
        Episodes to tune in one pass, each with parameters of its own, at most; fewer where the classifier's ``memory``
        does not hold so many. By default one on a CPU, where several pay for small pictures alone, and on a GPU as
        many as ``memory`` holds, up to 32, if the network can be batched. With ``trainable="head"`` there is no pass.

    Returns
    -------
    FineTuningResult
        Seconds of "fine-tuning" are of everything, from pictures to predictions; those of "prototype" are a part of
        these.

    Raises
    ------
    ImageError : naming a picture that cannot be read, before anything is tuned.
    ValueError : as ``classifier.fit``; if there are other than n pictures; if several episodes shall be tuned in one
        pass, but the network cannot be batched.
    """
    if not isinstance(classifier, FineTuneClassifier):
        raise TypeError(f"only a FineTuneClassifier is tuned on episodes, not {type(classifier).__name__}")
    classifier._check()
    if at_once is not None:
        check_count("at_once", at_once)
    encoder = usable(classifier.encoder)
    pictures = list(check_image_batch(images))
    if len(pictures) != sampler.n_examples:
        raise ValueError(f"there are {len(pictures)} pictures, but the sampler was given {sampler.n_examples} labels")
    begun = time.perf_counter()
    all_episodes = joined(list(sampler))
    drawn = list(_each(all_episodes))
    bench = _Bench(classifier, encoder, pictures, drawn)
    plain = [bench.plain(episode) for episode in drawn]
    between = time.perf_counter()
    with Progress(len(drawn), "fine-tune", unit="episode") as bar:
        ends, together = bench.tuned(drawn, at_once, bar)
    ended = time.perf_counter()
    taken = {_PLAIN: between - begun, _TUNED: ended - begun}
    methods = {}
    for name, answer_of in ((_PLAIN, plain), (_TUNED, [end.predicted for end in ends])):
        predicted = np.full(all_episodes.query.shape, -1, np.int64)
        for row, each in zip(predicted, answer_of, strict=True):
            row[: len(each)] = each
        accuracies = episode_accuracies(predicted, all_episodes)
        apart = np.empty(0) if sampler.replacement else accuracies
        methods[name] = MethodResult(name, accuracies, predicted, taken[name], apart)
    seconds = (ended - between) / len(drawn)
    choices = tuple(
        Choice(**vars(end.verdict), head=end.head, mirror=end.mirror, parameters=end.parameters, seconds=seconds)
        for end in ends
    )
    return FineTuningResult(methods, all_episodes, sampler.random_state, sampler.replacement, choices, together)


@dataclass(frozen=True)
class _Episode:
    """Positions of the support and of the queries, and the support's classes."""

    support: NDArray[np.int64]
    query: NDArray[np.int64]
    labels: NDArray[np.int64]

    @property
    def codes(self) -> Tensor:
        """The labels as a tensor."""
        return torch.from_numpy(self.labels)

    @property
    def n_classes(self) -> int:
        """How many there are."""
        return int(self.labels.max()) + 1

    @property
    def pictures(self) -> NDArray[np.int64]:
        """Support, then queries."""
        return np.concatenate([self.support, self.query])


# The classes (q,) predicted, and the head and the mirror that predict them.
_Reading = tuple[NDArray[np.int64], str, bool]


@dataclass(frozen=True)
class _End:
    """What an episode came to."""

    verdict: Verdict
    predicted: NDArray[np.int64]
    head: str
    mirror: bool
    parameters: int


def _each(episodes: Episodes) -> Iterator[_Episode]:
    for row in range(len(episodes)):
        own, asked = episodes.support_labels[row] >= 0, episodes.query_labels[row] >= 0
        yield _Episode(episodes.support[row, own], episodes.query[row, asked], episodes.support_labels[row, own])


class _Bench:
    """The pictures of some episodes as the untouched encoder sees them, and what reads them."""

    def __init__(
        self,
        classifier: FineTuneClassifier,
        encoder: TimmEncoder,
        pictures: Sequence[ImageSource],
        episodes: Sequence[_Episode],
    ) -> None:
        self._classifier, self._encoder, self._pictures = classifier, encoder, pictures
        self._settings = classifier._settings()
        # Where nothing is chosen, the untouched encoder's best answer is not asked for.
        self._judged = self._settings.judged or classifier.trainable == "head"
        used = np.unique(np.concatenate([episode.pictures for episode in episodes]))
        self._row = np.zeros(len(pictures), np.int64)
        self._row[used] = np.arange(len(used))
        encoded = encoder.encode_valid([pictures[i] for i in used])
        failed = tuple((int(used[i]), error) for i, error in encoded.failed)
        self._vectors = all_or_raise(Encoded(encoded.vectors, np.arange(len(pictures) - len(failed)), failed))

    def plain(self, episode: _Episode) -> NDArray[np.int64]:
        """Return the classes (q,) that cosine prototypes of the untouched encoder predict."""
        support, query = (self._vectors[self._row[of]] for of in (episode.support, episode.query))
        return PrototypeClassifier().fit(support, episode.labels).predict(query)

    def tuned(self, episodes: Sequence[_Episode], at_once: int | None, bar: Progress) -> tuple[list[_End], int]:
        """Tune on each episode and answer its queries; say how many were tuned in one pass."""
        # Nothing else is done in the session, which leaves other work one thread.
        frozen = [self._frozen(episode) if self._judged else None for episode in episodes]
        if self._classifier.trainable == "head":
            together, verdicts = 1, [self._untouched(*each) for each in zip(episodes, frozen, strict=True)]
            counts = [head_parameters(episode.codes, self._encoder) for episode in episodes]
            tuned: list[_Reading | None] = [None] * len(episodes)
        else:
            verdicts, tuned = [], []
            with self._opened(episodes, at_once) as session:
                together, counts = session.steps.at_once, [session.parts.count] * len(episodes)
                for at in range(0, len(episodes), together):
                    some = range(at, min(at + together, len(episodes)))
                    found = session.tune([self._task(i, episodes[i], frozen[i]) for i in some])
                    for i, (verdict, features) in zip(some, found, strict=True):
                        verdicts.append(verdict)
                        tuned.append(None if features is None else self._adapted(episodes[i], features))
                    bar.advance(len(some))
        ends = []
        for episode, known, verdict, reading, count in zip(episodes, frozen, verdicts, tuned, counts, strict=True):
            if reading is None:
                assert known is not None  # where both steps and rate are given, they are taken
                reading = self._read(episode, self._looks(episode.pictures, known.mirror), known.head, known.mirror)
            ends.append(_End(verdict, *reading, count))
        return ends, together

    def _opened(self, episodes: Sequence[_Episode], at_once: int | None) -> AbstractContextManager[Session]:
        return opened(
            self._encoder,
            self._settings,
            self.pixels(episodes[0].pictures[:1]).shape[1:],
            support=max(len(episode.support) for episode in episodes),
            tasks=len(episodes),
            at_once=at_once,
        )

    def _task(self, number: int, episode: _Episode, frozen: Answer | None) -> Task:
        asked = _Batches(self, episode.pictures, (False, True) if self._classifier.mirror else (False,))
        return Task(self.pixels(episode.support), episode.codes, frozen, asked, f"episode {number}: tuning")

    def _parts(self, episode: _Episode) -> list[tuple[Tensor, Tensor]]:
        return hold_out(episode.codes, episode.n_classes, self._settings.seed)

    def _frozen(self, episode: _Episode) -> Answer:
        asked = self._classifier
        looks = self._looks(episode.support, asked.mirror is not False)
        parts = self._parts(episode)
        return answer(looks, episode.codes, episode.n_classes, parts, head=asked.head, mirror=asked.mirror)

    def _untouched(self, episode: _Episode, frozen: Answer | None) -> Verdict:
        assert frozen is not None
        return untouched(frozen, episode.codes, self._parts(episode))

    def _adapted(self, episode: _Episode, features: Tensor) -> _Reading:
        mirror = bool(self._classifier.mirror)
        looks = features.cpu().view(1 + mirror, -1, self._encoder.dim).transpose(0, 1)
        return self._read(episode, looks, self._classifier.head or "prototypes", mirror)

    def _read(self, episode: _Episode, looks: Tensor, head: str, mirror: bool) -> _Reading:
        """Answer the queries by vectors (n, l, d) of all pictures of an episode."""
        vectors, s = sum_of_directions(looks.numpy()), len(episode.support)
        return classifier_of(head).fit(vectors[:s], episode.labels).predict(vectors[s:]), head, mirror

    def _looks(self, where: NDArray[np.int64], mirror: bool) -> Tensor:
        """The untouched encoder's vectors (n, 1, d) of pictures, and with ``mirror`` (n, 2, d) of both looks."""
        if mirror:
            return torch.from_numpy(encode_flips(self._encoder, [self._pictures[i] for i in where]))
        return torch.from_numpy(self._vectors[self._row[where]][:, None])

    def pixels(self, where: NDArray[np.int64]) -> Tensor:
        """Pictures (n, 3, h, w), uint8, as the encoder prepares them."""
        prepare = self._encoder.loaded.prepare
        return decode(prepare, [self._pictures[i] for i in where], len(where), self._settings.memory)


@dataclass(frozen=True)
class _Batches:
    """Pixels of pictures in batches, read when somebody goes through them; then those of mirrored middles."""

    bench: _Bench
    where: NDArray[np.int64]
    looks: tuple[bool, ...]

    def __iter__(self) -> Iterator[Tensor]:
        for mirrored in self.looks:
            for at in range(0, len(self.where), SHOWN):
                pixels = self.bench.pixels(self.where[at : at + SHOWN])
                if mirrored:
                    turned = [torch.from_numpy(flipped_centre(each.permute(1, 2, 0).numpy())) for each in pixels]
                    pixels = torch.stack(turned).permute(0, 3, 1, 2)
                yield pixels
