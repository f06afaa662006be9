"""Fitting calibration tables to labelled data, and measuring the fit on held-out classes."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewshot.benchmark.inputs import (
    Features,
    Source,
    check_base,
    embed_base,
    embed_source,
    load_encoders,
    note_minutes,
    open_base,
    open_source,
)
from fewshot.benchmark.methods import select_methods
from fewshot.benchmark.protocol import QUERIES, Protocol
from fewshot.calibration import (
    SHOTS_RANGE,
    WAYS_RANGE,
    CalibrationParams,
    CalibrationSet,
    Reliability,
    fit_calibration,
    measure_reliability,
    shipped_calibration,
)
from fewshot.classifiers import FewShotClassifier
from fewshot.datasets import Dataset
from fewshot.episodes import EpisodeSampler
from fewshot.media import is_place

# Two examples are the fewest of which one can be left out.
_FITTED_SHOTS = (SHOTS_RANGE[0], 2, SHOTS_RANGE[1])
_BATCH_BYTES = 2**24  # of the vectors of one batch of episodes


@dataclass(frozen=True)
class CalibrationRow:
    """A method's reliability in one setting, on the held-out classes.

    Attributes
    ----------
    method : str
    ways, shots : int
    before, after : Reliability
        With the shipped table for this encoder, and with the fit to the other classes.
    """

    method: str
    ways: int
    shots: int
    before: Reliability
    after: Reliability


@dataclass(frozen=True)
class CalibrationReport:
    """Result of ``run_calibration``.

    Attributes
    ----------
    data, encoder : str
    fit_classes, test_classes : int
        Numbers of classes that the rows' parameters were fitted to, and of those that the rows were measured on.
    table : dict of name to CalibrationParams
        For ``predict_proba(X, calibration=table)``: fitted to all classes.
    rows : tuple of CalibrationRow
    """

    data: str
    encoder: str
    fit_classes: int
    test_classes: int
    table: dict[str, CalibrationParams]
    rows: tuple[CalibrationRow, ...]


def run_calibration(
    data: str | Dataset,
    *,
    encoder: str | None = None,
    methods: Sequence[str] = ("whitened",),
    queries: int | None = None,
    episodes: int = 300,
    base: str | None = None,
    split: str | None = None,
    cache: str,
    device: str | None = None,
    seed: int = 0,
    note: Callable[[str], None] = lambda _: None,
) -> CalibrationReport:
    """Fit methods' calibration to labelled classes, for 5 and 20 ways and 1 to 5 shots.

    The report measures a fit to one half of the classes on the other half; the table is fitted to all. Coefficients
    that the data do not constrain, such as that of a feature that hardly varies, keep their shipped values.

    Parameters
    ----------
    data : path, name or Dataset
        As ``run_suite`` takes it; a class needs 5 + ``queries`` examples, and there must be 10 classes.
    encoder : str, optional
        Embeds examples, by default "pocket", which reads images; embeddings need none.
    methods : sequence of names
        Of ``fewshot.benchmark.methods.METHODS``.
    queries : int, optional
        Of each class; by default 15, or what the smallest class has beside five shots.
    split : str, optional
        By default "train" where the data have parts.
    cache : path
        File of the images' embeddings.

    Raises
    ------
    ValueError : for too few classes or examples for the episodes, before anything is embedded.
    """
    base_source = None if base is None else open_base(base)
    makers = select_methods(methods, base_classes=base_source is not None and base_source.labels is not None)
    try:
        source = open_source(data, split=split or "train")
    except ValueError:
        if split is not None or isinstance(data, Dataset) or not is_place(data):
            raise
        source = open_source(data, split="test")  # class folders without splits are read whole
    protocol = _checked(source, queries, episodes, seed, note)
    named = load_encoders([encoder or "pocket"], device=device, cache=cache)[0] if source.needs_encoder else None
    if base_source is not None:
        check_base(base_source, source, named)
    features = embed_source(source, named, note)
    given = None if base_source is None else embed_base(base_source, named, note)
    fit_half, test_half = halves(features, seed)
    shipped = shipped_calibration(features.fingerprint)
    table: dict[str, CalibrationParams] = {}
    rows = []
    start = time.perf_counter()
    for number, (name, make) in enumerate(makers.items(), start=1):
        classifier = make(given)
        before = classifier.calibration_params(shipped)
        after = protocol.fit(classifier, fit_half, before)
        for way, shots in itertools.product(protocol.ways(fit_half.labels), SHOTS_RANGE):
            margins, task, labels = protocol.calibration_set(classifier, test_half, way, shots)
            found = [measure_reliability(some.probabilities(margins, task), labels) for some in (before, after)]
            rows.append(CalibrationRow(name, way, shots, *found))
            note(
                f"{name}, {way}-way {shots}-shot, held-out classes: ECE {found[0].ece:.3f} -> {found[1].ece:.3f}, "
                f"negative log-likelihood {found[0].nll:.3f} -> {found[1].nll:.3f}"
            )
        table[classifier.calibration_name] = protocol.fit(classifier, features, before)
        if number == 1:
            others, spent = len(makers) - 1, time.perf_counter() - start
            note_minutes(note, f"{others} more methods", others * spent, "fewer --methods or --episodes take less")
    n_fit, n_test = (len(set(half.labels)) for half in (fit_half, test_half))
    return CalibrationReport(features.data, features.encoder, n_fit, n_test, table, tuple(rows))


def calibration_set(
    classifier: FewShotClassifier, vectors: NDArray[np.float32], sampler: EpisodeSampler
) -> CalibrationSet:
    """Return margins (e, q, c), task features (e, q, f) and true classes (e, q), for ``fit_calibration``."""
    found = [
        (*classifier.episode_margins(support, labels, query, prepared=True)[1:], truth)
        for support, labels, query, truth in _episodes(classifier, vectors, sampler)
    ]
    margins, task, truth = (torch.cat(parts) for parts in zip(*found, strict=True))
    return margins, task, truth


def _first_half(labels: Sequence[str], seed: int) -> set[str]:
    names = sorted(set(labels))
    return set(np.random.default_rng(seed).permutation(names)[: len(names) // 2].tolist())


def _checked(source: Source, queries: int | None, episodes: int, seed: int, note: Callable[[str], None]) -> _Protocol:
    """Choose the queries if not given, refuse data that cannot serve each half, and say what few classes leave out."""
    smallest, label = min(((n, label) for label, n in Counter(source.labels).items()), default=(0, ""))
    chosen = queries or max(1, min(QUERIES, smallest - SHOTS_RANGE[1]))
    protocol = _Protocol(chosen, episodes, seed)
    first = _first_half(source.labels, seed)
    parts = [[label for label in source.labels if (label in first) == wanted] for wanted in (True, False)]
    for labels in parts:
        for way, shots in itertools.product(protocol.ways(parts[0]), SHOTS_RANGE):
            protocol.sampler(source.name, labels, way, shots)
    if chosen < QUERIES and queries is None:
        note(
            f"chosen to fit the data: --queries {chosen}; the smallest class, {label!r} of {source.name}, has "
            f"{smallest} examples, of which up to {SHOTS_RANGE[1]} are shots"
        )
    few, many = WAYS_RANGE
    if protocol.ways(source.labels) == [few]:
        note(f"under {many} classes: fitted to and measured on {few} ways only")
    elif protocol.ways(parts[0]) == [few]:
        note(f"under {2 * many} classes: fitted to {many} ways, too, but measured on {few} only")
    return protocol


def halves(features: Features, seed: int) -> tuple[Features, Features]:
    """Split data by class, at random."""
    first = _first_half(features.labels, seed)
    parts = []
    for wanted in (True, False):
        where = [n for n, label in enumerate(features.labels) if (label in first) == wanted]
        labels, files = (tuple(some[n] for n in where) for some in (features.labels, features.files))
        parts.append(
            Features(
                features.data, features.encoder, features.vectors[where], labels, files, None, features.fingerprint,
                features.flag,
            )
        )  # fmt: skip
    return parts[0], parts[1]


@dataclass(frozen=True)
class _Protocol:
    """The episodes of a fit or a measurement."""

    queries: int
    episodes: int
    seed: int

    @staticmethod
    def ways(labels: Sequence[str]) -> list[int]:
        return [way for way in WAYS_RANGE if way == WAYS_RANGE[0] or len(set(labels)) >= way]

    def sampler(self, data: str, labels: Sequence[str], ways: int, shots: int) -> EpisodeSampler:
        try:
            return Protocol(self.queries, self.episodes, self.seed).sampler_of(data, labels, ways, shots)
        except ValueError as error:
            few, most = WAYS_RANGE[0], SHOTS_RANGE[1]
            raise ValueError(
                f"half of the classes of {error}. Give at least {2 * few} classes of {most + 1} examples"
            ) from error

    def calibration_set(
        self, classifier: FewShotClassifier, features: Features, ways: int, shots: int
    ) -> CalibrationSet:
        sampler = self.sampler(features.data, features.labels, ways, shots)
        return calibration_set(classifier, features.vectors, sampler)

    def fit(self, classifier: FewShotClassifier, features: Features, initial: CalibrationParams) -> CalibrationParams:
        settings = itertools.product(self.ways(features.labels), _FITTED_SHOTS)
        sets = [self.calibration_set(classifier, features, *setting) for setting in settings]
        return fit_calibration(sets, initial)


def _episodes(
    classifier: FewShotClassifier, vectors: NDArray[np.float32], sampler: EpisodeSampler
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Yield prepared support (e, s, d), its classes, prepared queries (e, q, d) and theirs, some episodes at a time."""
    with torch.inference_mode():
        data = classifier.prepare(torch.from_numpy(np.ascontiguousarray(vectors, np.float32)))
    for chunk in sampler:
        each = (chunk.support.shape[1] + chunk.query.shape[1]) * data[0].nbytes
        size = max(1, _BATCH_BYTES // each)
        for at in range(0, len(chunk), size):
            few = chunk[at : at + size]
            yield (
                data[torch.from_numpy(few.support)],
                torch.from_numpy(few.support_labels),
                data[torch.from_numpy(few.query)],
                torch.from_numpy(few.query_labels),
            )
