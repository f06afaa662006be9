"""The open-set suite: data x encoders x ways x shots x unknown scores."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from fewshot.benchmark.inputs import Features, Inputs
from fewshot.benchmark.openset_runner import METRICS, run_openset_benchmark
from fewshot.benchmark.protocol import Count, Protocol
from fewshot.benchmark.result_files import OpenSetRow
from fewshot.benchmark.result_store import Result, ResultStore, SuiteReport
from fewshot.benchmark.tables import openset_tables, percent
from fewshot.datasets import Dataset
from fewshot.episodes import EpisodeSampler
from fewshot.openset import SCORES, Background, Center, shipped_center

BASELINE = "softmax"
"""The unknown score that others are compared with."""


def run_openset_suite(
    data: Sequence[str | Dataset],
    out: str | Path,
    *,
    encoders: Sequence[str] = (),
    ways: Sequence[Count] | None = None,
    shots: Sequence[Count] | None = None,
    protocol: Protocol | None = None,
    base: str | None = None,
    split: str = "test",
    cache: str | None = None,
    device: str | None = None,
    note: Callable[[str], None] = lambda _: None,
) -> SuiteReport[OpenSetRow]:
    """Evaluate all unknown scores on data and write open-set.json, open-set.md and open-set/*.npz.

    What the folder holds is not computed again, and a score that fails is listed, as in ``run_suite``.

    Parameters
    ----------
    data, out, encoders, split, cache, device, note
        As in ``run_suite``.
    ways, shots : sequences of int, optional
        As in ``run_suite``. ``ways`` known classes; as many unknown ones are only among the queries.
    protocol : Protocol, optional
    base : path or name, optional
        The background; without, the scores that need one are left out, and the default score takes the centre that
        ships for the encoder, if one does.

    Raises
    ------
    ValueError : for "various" ways, imbalanced queries, data with too few classes or images, or images without an
        encoder; all before anything is embedded.
    """
    protocol = protocol or Protocol()
    if {"various"} & {*(ways or ()), *(shots or ())} or protocol.query_imbalance is not None:
        raise ValueError("open-set episodes have a number of ways and shots, and as many queries of each class")
    inputs = Inputs.open(data, encoders=encoders, base=base, split=split, device=device)
    protocol, settings = protocol.fitted(inputs.sources, ways, shots, note, unknown=True)
    for warning in inputs.warnings("background", "it is not unknown"):
        note(warning)
    scores = {name: name for name, score in SCORES.items() if base is not None or not score.needs_background}
    if len(scores) < len(SCORES):
        note(f"left out, for it compares with a background (--base): {', '.join(SCORES.keys() - scores)}")
    folder = Path(out)
    store = ResultStore(folder, "open-set", OpenSetRow, protocol, inputs.method_device, note)
    try:
        embedded = inputs.embed(cache=cache or str(folder / "vectors.sqlite"), with_base=True, note=note)
        for features, given in embedded:
            background = None if given is None else Background.of(given.vectors, given.labels)
            center = shipped_center(features.fingerprint) if background is None else None
            context = _context(background, center)
            for way, shot in settings:
                sampler = protocol.sampler(features, 2 * int(way), shot)
                compute = partial(_results, features, base, background, center, inputs.method_device)
                store.setting(features, sampler, way, shot, scores, compute, together=True, context=context)
    finally:
        _summarise(store)
    return store.report()


def _results(
    features: Features,
    base: str | None,
    background: Background | None,
    center: Center | None,
    device: str,
    sampler: EpisodeSampler,
    names: Sequence[str],
) -> dict[str, Result]:
    """Run some of the scores."""
    found = run_openset_benchmark(
        [BASELINE, *names], features.vectors, sampler, background=background, center=center, device=device
    )
    results = {}
    for name in names:
        fields = {
            "score": name,
            "background": base,
            "center": None if center is None else center.n_classes,
            "accuracy": float(found.accuracy.mean()),
            "metrics": {metric: list(found[name].mean(metric)) for metric in METRICS},
            "gain": list(found.paired(name, BASELINE)),
            "seconds": found.seconds[name],
        }
        auroc, gain = percent(*found[name].mean("auroc")), percent(*found.paired(name, BASELINE), signed=True)
        arrays = {metric: getattr(found[name], metric) for metric in METRICS}
        results[name] = Result(f"AUROC {auroc} %, {gain} to {BASELINE}", fields, arrays, {"accuracies": found.accuracy})
    return results


def _context(background: Background | None, center: Center | None) -> list[str]:
    """Hashes of what the scores compare with, and what predicts the known queries."""
    of_background = b"" if background is None else background.vectors.numpy().tobytes() + background.groups.tobytes()
    of_center = b"" if center is None else center.vector.numpy().tobytes()
    hashes = [hashlib.sha256(content).hexdigest() for content in (of_background, of_center)]
    return [*hashes, "known queries: WhitenedPrototypeClassifier"]


def _summarise(store: ResultStore[OpenSetRow]) -> None:
    """Write the tables of all that the folder holds."""
    rows = [row for file in store.files() for row in file.rows().values()]
    order = {name: n for n, name in enumerate(SCORES)}
    rows.sort(key=lambda row: (*row.section, row.background or "", row.ways, row.shots, row.file, order[row.score]))
    if rows:
        store.write_tables("open-set", rows, openset_tables(rows))
