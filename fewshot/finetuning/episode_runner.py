"""Fine-tuning in each of many episodes, compared with the untouched encoder."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone

from fewshot.benchmark import BenchmarkResult, MethodResult, episode_accuracies, joined
from fewshot.classifiers import PrototypeClassifier, WhitenedPrototypeClassifier
from fewshot.encoders import Encoded, TimmEncoder, all_or_raise, check_image_batch
from fewshot.episodes import Episodes, EpisodeSampler
from fewshot.errors import ImageError
from fewshot.finetuning.classifier import FineTuneClassifier, usable_encoder
from fewshot.finetuning.search import Choice
from fewshot.media import ImageSource
from fewshot.progress import Progress

_FROZEN = {"whitened": WhitenedPrototypeClassifier, "prototype": PrototypeClassifier}


@dataclass(frozen=True)
class FineTuningResult(BenchmarkResult):
    """What ``run_finetuning`` found: "fine-tuning", and "whitened" and "prototype" of the untouched encoder.

    Attributes
    ----------
    choices : tuple of Choice
        One an episode.

    Examples
    --------
    >>> import numpy as np
    >>> from fewshot import EpisodeSampler, FineTuneClassifier, run_finetuning
    >>> images = [np.full((64, 64, 3), (red, 0, 255 - red), np.uint8) for red in (0, 10, 20, 235, 245, 255)]
    >>> labels = ["blue"] * 3 + ["red"] * 3
    >>> sampler = EpisodeSampler(labels, n_way=2, n_shot=1, n_query=1, n_episodes=2, random_state=0)
    >>> result = run_finetuning(FineTuneClassifier("pocket", steps=2, learning_rate=1e-4), images, sampler)
    >>> result.choices[0].steps
    2
    >>> float(result.methods["fine-tuning"].accuracies.mean())
    1.0
    """

    choices: tuple[Choice, ...]


def run_finetuning(
    classifier: FineTuneClassifier, images: Iterable[ImageSource], sampler: EpisodeSampler
) -> FineTuningResult:
    """Fit a fine-tuning classifier to the support of each of the sampler's episodes, and predict its queries.

    Parameters
    ----------
    classifier : FineTuneClassifier
        Cloned for each episode; not changed.
    images : sequence of n images
        That the sampler's labels are of; as ``fewshot.open_image`` takes them.
    sampler : EpisodeSampler
        Its disjoint episodes are not fine-tuned on: for an interval that speaks of other images, sample with
        ``replacement=False``.

    Returns
    -------
    FineTuningResult
        Seconds of each method are from images to predictions.

    Raises
    ------
    ImageError : naming an image that cannot be read, before anything is fine-tuned.
    ValueError : as ``classifier.fit``, naming the episode; or if there are other than n images.
    """
    if not isinstance(classifier, FineTuneClassifier):
        raise TypeError(f"only a FineTuneClassifier is fine-tuned on episodes, not {type(classifier).__name__}")
    classifier.check_parameters()
    encoder = usable_encoder(classifier.encoder)
    sources = list(check_image_batch(images))
    if len(sources) != sampler.n_examples:
        raise ValueError(f"there are {len(sources)} images, but the sampler was given {sampler.n_examples} labels")
    episodes = joined(list(sampler))
    predicted = {name: np.full(episodes.query.shape, -1, np.int64) for name in (*_FROZEN, "fine-tuning")}
    seconds = {}

    begun = time.perf_counter()
    positions, vectors = _encoded(encoder, sources, episodes)
    encoding = time.perf_counter() - begun
    for name, frozen in _FROZEN.items():
        begun = time.perf_counter()
        for number, (support, labels, query) in enumerate(_unpadded(episodes)):
            known, asked = (vectors[np.searchsorted(positions, of)] for of in (support, query))
            predicted[name][number, : len(query)] = frozen().fit(known, labels).predict(asked)
        seconds[name] = encoding + time.perf_counter() - begun
    begun = time.perf_counter()
    choices = []
    with Progress(len(episodes), "fine-tune", unit="episode") as bar:
        for number, (support, labels, query) in enumerate(_unpadded(episodes)):
            tuned = clone(classifier).set_params(encoder=encoder)
            try:
                tuned.fit([sources[i] for i in support], labels)
            except ImageError:
                raise
            except ValueError as error:
                raise ValueError(f"episode {number}: {error}") from error
            predicted["fine-tuning"][number, : len(query)] = tuned.predict([sources[i] for i in query])
            choices.append(tuned.choice_)
            bar.advance(1)
    seconds["fine-tuning"] = time.perf_counter() - begun

    methods = {}
    for name, found in predicted.items():
        accuracies = episode_accuracies(found, episodes)
        disjoint = np.empty(0) if sampler.replacement else accuracies
        methods[name] = MethodResult(name, accuracies, found, seconds[name], disjoint)
    return FineTuningResult(methods, episodes, sampler.random_state, sampler.replacement, tuple(choices))


def _encoded(
    encoder: TimmEncoder, sources: list[ImageSource], episodes: Episodes
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Embed the m images that occur in episodes; return their positions (m,), rising, and vectors (m, d)."""
    used = np.unique(np.concatenate([part for support, _, query in _unpadded(episodes) for part in (support, query)]))
    encoded = encoder.encode_valid([sources[i] for i in used])
    failed = tuple((int(used[i]), error) for i, error in encoded.failed)
    return used, all_or_raise(Encoded(encoded.vectors, np.arange(len(sources) - len(failed)), failed))


def _unpadded(episodes: Episodes) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]]:
    """Yield support positions, their labels, and query positions of each episode."""
    for row in range(len(episodes)):
        real, asked = episodes.support_labels[row] >= 0, episodes.query_labels[row] >= 0
        yield episodes.support[row, real], episodes.support_labels[row, real], episodes.query[row, asked]
