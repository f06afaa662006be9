"""Fitting how sure each method may be to labelled data, and measuring such a fit on classes that were left out."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewshot.benchmark.inputs import Features, embedded, embedded_base, load_encoders, open_base, open_source
from fewshot.benchmark.methods import chosen
from fewshot.calibration import SHOTS, WAYS, Cell, Reliability, Sharpness, fit, reliability, shipped, tempered
from fewshot.classifiers import FewShotClassifier
from fewshot.episodes import EpisodeSampler

# Two examples are the fewest of which one can be left out.
_FITTED_SHOTS = (SHOTS[0], 2, SHOTS[1])
# Bytes of the vectors of one batch of episodes.
_MEMORY = 2**24


@dataclass(frozen=True)
class Measured:
    """A method's reliability in one setting, on the classes that were left out.

    Attributes
    ----------
    method : str
    ways, shots : int
    before, after : Reliability
        By the table that ships with fewshot for this encoder, and fitted to the other classes.
    """

    method: str
    ways: int
    shots: int
    before: Reliability
    after: Reliability


@dataclass(frozen=True)
class CalibrationReport:
    """What ``run_calibration`` found.

    Attributes
    ----------
    data, encoder : str
    classes : (int, int)
        How many were fitted to for the rows, and on how many others these were measured.
    table : dict of name to Sharpness
        For ``predict_proba(X, sharpness=table)``: fitted to all classes.
    rows : tuple of Measured
    """

    data: str
    encoder: str
    classes: tuple[int, int]
    table: dict[str, Sharpness]
    rows: tuple[Measured, ...]


def run_calibration(
    data: str,
    *,
    encoder: str | None = None,
    methods: Sequence[str] = ("prototype",),
    queries: int = 15,
    episodes: int = 300,
    base: str | None = None,
    split: str | None = None,
    cache: str,
    device: str | None = None,
    seed: int = 0,
    note: Callable[[str], None] = lambda _: None,
) -> CalibrationReport:
    """Fit methods' sharpness to labelled classes, for 5 and 20 ways and 1 to 5 shots.

    How well that goes is told by a fit to one half of the classes, measured on the other. What the data do not tell,
    such as the effect of more ways than they have, stays as it ships.

    Parameters
    ----------
    data : path or name
        As ``run_bench`` takes it; a class needs 5 + ``queries`` examples, and there must be 10 classes.
    encoder : str, optional
        What embeds pictures; a feature file needs none.
    methods : sequence of names
        Of ``fewshot.benchmark.methods.METHODS``.
    split : str, optional
        By default "train" where the data have parts.
    cache : path
        Where pictures' vectors are kept.

    Raises
    ------
    ValueError : for pictures without an encoder, or data that cannot serve the episodes.
    """
    base_source = None if base is None else open_base(base)
    makers = chosen(methods, base_classes=base_source is not None and base_source.labels is not None)
    try:
        source = open_source(data, split=split or "train")
    except ValueError:
        if split is not None or not os.path.exists(data):
            raise
        source = open_source(data, split="test")  # class folders without parts are read whole
    if source.pictures and encoder is None:
        raise ValueError(f"{source.name} holds pictures, and no encoder is named that could embed them: give --encoder")
    named = load_encoders([encoder], device=device, cache=cache)[0] if source.pictures and encoder else None
    features = embedded(source, named)
    given = None if base_source is None else embedded_base(base_source, features, named)
    fitted_to, measured_on = halves(features, seed)
    asked = _Asked(queries, episodes, seed)
    if asked.ways(features) == [WAYS[0]]:
        note(f"the data are under {WAYS[1]} classes: more ways are judged as it ships with fewshot")
    elif asked.ways(fitted_to) == [WAYS[0]]:
        note(f"half of the data are under {WAYS[1]} classes: more ways are fitted, but not measured")
    usual = shipped(features.fingerprint)
    table: dict[str, Sharpness] = {}
    rows = []
    for name, make in makers.items():
        classifier = make(given)
        before = classifier.sharpness_in(usual)
        half = asked.fitted(classifier, fitted_to, before)
        for way, shots in itertools.product(asked.ways(fitted_to), SHOTS):
            gap, columns, truth = asked.cell(classifier, measured_on, way, shots)
            found = [reliability(tempered(gap, *one.at(columns)), truth) for one in (before, half)]
            rows.append(Measured(name, way, shots, *found))
            note(
                f"{name}, {way}-way {shots}-shot, other classes: ECE {found[0].ece:.3f} -> {found[1].ece:.3f}, "
                f"negative log-likelihood {found[0].nll:.3f} -> {found[1].nll:.3f}"
            )
        table[classifier.sharpness_name] = asked.fitted(classifier, features, before)
    n_classes = len(set(fitted_to.labels)), len(set(measured_on.labels))
    return CalibrationReport(features.data, features.encoder, n_classes, table, tuple(rows))


def cell_of(classifier: FewShotClassifier, vectors: NDArray[np.float32], sampler: EpisodeSampler) -> Cell:
    """Gaps (e, q, c), signs (e, q, len(SIGNS)) and true classes (e, q) of episodes, for ``temperature.fit``."""
    found = [
        (*classifier.episode_gaps(support, labels, query, prepared=True)[1:], truth)
        for support, labels, query, truth in _episodes(classifier, vectors, sampler)
    ]
    gap, columns, truth = (torch.cat(parts) for parts in zip(*found, strict=True))
    return gap, columns, truth


def halves(features: Features, seed: int) -> tuple[Features, Features]:
    """Split data by class, at random."""
    names = sorted(set(features.labels))
    first = set(np.random.default_rng(seed).permutation(names)[: len(names) // 2].tolist())
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
class _Asked:
    """The episodes that a fit or a measurement asks."""

    queries: int
    episodes: int
    seed: int

    @staticmethod
    def ways(features: Features) -> list[int]:
        return [way for way in WAYS if way == WAYS[0] or len(set(features.labels)) >= way]

    def cell(self, classifier: FewShotClassifier, features: Features, ways: int, shots: int) -> Cell:
        try:
            sampler = EpisodeSampler(
                features.labels,
                n_way=ways,
                n_shot=shots,
                n_query=self.queries,
                n_episodes=self.episodes,
                random_state=self.seed,
            )
        except ValueError as error:
            raise ValueError(f"half of the classes of {features.data}, {ways}-way {shots}-shot: {error}") from error
        return cell_of(classifier, features.vectors, sampler)

    def fitted(self, classifier: FewShotClassifier, features: Features, before: Sharpness) -> Sharpness:
        settings = itertools.product(self.ways(features), _FITTED_SHOTS)
        return fit([self.cell(classifier, features, *setting) for setting in settings], before)


def _episodes(
    classifier: FewShotClassifier, vectors: NDArray[np.float32], sampler: EpisodeSampler
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Yield prepared support (e, s, d), its classes, prepared queries (e, q, d) and theirs, some episodes at a time."""
    with torch.inference_mode():
        data = classifier.prepare(torch.from_numpy(np.ascontiguousarray(vectors, np.float32)))
    for chunk in sampler:
        each = (chunk.support.shape[1] + chunk.query.shape[1]) * data[0].nbytes
        size = max(1, _MEMORY // each)
        for at in range(0, len(chunk), size):
            few = chunk[at : at + size]
            yield (
                data[torch.from_numpy(few.support)],
                torch.from_numpy(few.support_labels),
                data[torch.from_numpy(few.query)],
                torch.from_numpy(few.query_labels),
            )
