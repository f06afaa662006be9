"""The closed-set suite: data x encoders x ways x shots x methods."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewshot.benchmark.inputs import Features, Inputs
from fewshot.benchmark.methods import METHODS, describe_classifier, select_methods
from fewshot.benchmark.plots import check_matplotlib, draw_accuracy
from fewshot.benchmark.protocol import Count, Protocol
from fewshot.benchmark.result_files import MethodRow
from fewshot.benchmark.result_store import Result, ResultStore, SuiteReport
from fewshot.benchmark.runner import run_benchmark
from fewshot.benchmark.tables import leaders, method_tables, percent
from fewshot.classifiers import FewShotClassifier
from fewshot.datasets import Dataset
from fewshot.episodes import EpisodeSampler
from fewshot.errors import MissingExtra


def run_suite(
    data: Sequence[str | Dataset],
    out: str | Path,
    *,
    encoders: Sequence[str] = (),
    methods: Sequence[str] = ("all",),
    ways: Sequence[Count] | None = None,
    shots: Sequence[Count] | None = None,
    protocol: Protocol | None = None,
    base: str | None = None,
    split: str = "test",
    cache: str | None = None,
    device: str | None = None,
    note: Callable[[str], None] = lambda _: None,
) -> SuiteReport[MethodRow]:
    """Benchmark methods on data and write results.json, results.md, episodes/*.npz and, with matplotlib, two plots.

    Each method is saved as soon as it is finished; what the folder holds with the same embeddings, labels, protocol,
    hyper-parameters, device and version of fewshot is not computed again. A method that fails is listed, and the
    others go on. The tables are of all that the folder holds.

    Parameters
    ----------
    data : sequence of paths, names or Dataset
        A folder or zip of class folders, a feature file (.npz or .parquet), a data set's name, or one that was read.
    out : path
        A folder; made if it does not exist.
    encoders : sequence of names
        What embeds examples; feature files need none.
    methods : sequence of names
        As ``fewshot.benchmark.methods.select_methods`` takes them; "all", "inductive" and "transductive" name many.
    ways, shots : sequences of int, or of "various", optional
        By default 5, and 1 and 5; fewer where the data cannot serve that, as ``Protocol.fitted`` says.
    protocol : Protocol, optional
    base : path or name, optional
        Data of other classes; of a data set its "train". SimpleShot, BD-CSPN and LaplacianShot take its mean as a
        centre, labelled or not; what learns from base classes needs its labels, and without them is in none of the
        groups of ``methods``.
    split : str
        Of named data sets.
    cache : path, optional
        File of the images' embeddings; by default vectors.sqlite in ``out``.
    device : str, optional
        For encoders and methods; by default the best there is.
    note : callable
        Called with a line for each finished, skipped or failed method, and for what takes minutes before it begins.

    Raises
    ------
    ValueError : for a device that is not there, an unknown method, one without the base it needs, data that cannot
        serve a setting, or images without an encoder; all before anything is embedded.
    """
    protocol = protocol or Protocol()
    inputs = Inputs.open(data, encoders=encoders, base=base, split=split, device=device)
    makers = select_methods(methods, base_classes=inputs.base is not None and inputs.base.labels is not None)
    for name in select_methods(methods).keys() - makers:
        note(f"left out, for it learns from base data with labels (--base): {name}")
    for warning in inputs.warnings("base", "the figures are optimistic"):
        note(warning)
    plots = _can_plot(note)
    protocol, settings = protocol.fitted(inputs.sources, ways, shots, note)
    folder = Path(out)
    store = ResultStore(folder, "episodes", MethodRow, protocol, inputs.method_device, note)
    with_base = any(make.takes_center or make.needs_base for make in makers.values())
    try:
        for features, given in inputs.embed(
            cache=cache or str(folder / "vectors.sqlite"), with_base=with_base, note=note
        ):
            classifiers = {name: make(given) for name, make in makers.items()}
            descriptions = {name: describe_classifier(classifier) for name, classifier in classifiers.items()}
            for way, shot in settings:
                sampler = protocol.sampler(features, way, shot)
                compute = partial(_results, features, classifiers, inputs.method_device)
                store.setting(features, sampler, way, shot, descriptions, compute)
    finally:
        _summarise(store, plots=plots)
    return store.report()


def _results(
    features: Features,
    classifiers: Mapping[str, FewShotClassifier],
    device: str,
    sampler: EpisodeSampler,
    names: Sequence[str],
) -> dict[str, Result]:
    """Run some of the methods."""
    chosen = {name: classifiers[name] for name in names}
    found = run_benchmark(chosen, features.vectors, sampler, device=device)
    episodes = found.episodes
    real = episodes.query_labels >= 0

    def of_all(within: NDArray[np.int64]) -> NDArray[Any]:
        """From classes within the episode to positions among all."""
        positions = np.take_along_axis(episodes.classes, np.maximum(within, 0), axis=1)
        return _smallest(np.where(real, positions, -1))

    shared = {
        "classes": np.array(sampler.classes_, str),
        "files": np.array(features.files, str),
        "query": _smallest(np.where(real, episodes.query, -1)),
        "true": of_all(episodes.query_labels),
    }
    results = {}
    for name, method in found.methods.items():
        fields = {
            "method": name,
            "classifier": describe_classifier(classifiers[name]),
            "transductive": classifiers[name].transductive,
            "accuracy": method.accuracy,
            "ci95": method.ci95,
            "ci95_disjoint": method.ci95_disjoint,
            "disjoint_episodes": len(method.disjoint),
            "seconds": method.seconds,
        }
        summary = f"{percent(method.accuracy, method.ci95)} %, {method.seconds:.2f} s"
        arrays = {"accuracies": method.accuracies, "predicted": of_all(method.predicted)}
        results[name] = Result(summary, fields, arrays, shared)
    return results


def _smallest(array: NDArray[np.int64]) -> NDArray[Any]:
    """Return whole numbers in the smallest signed type that holds them."""
    largest = int(np.abs(array).max(initial=0))
    return array.astype(next(t for t in (np.int8, np.int16, np.int32, np.int64) if largest <= np.iinfo(t).max))


def _can_plot(note: Callable[[str], None]) -> bool:
    try:
        check_matplotlib()
    except MissingExtra as error:
        note(f"no plots: {error}")
        return False
    return True


def _summarise(store: ResultStore[MethodRow], *, plots: bool) -> None:
    """Write the tables and plots of all that the folder holds."""
    rows: list[MethodRow] = []
    bold: set[tuple[str, str]] = set()
    for file in store.files():
        of_file, accuracies = file.rows(), file.arrays("accuracies")
        rows += of_file.values()
        for transductive in (False, True):
            some = {name: accuracies[name] for name, row in of_file.items() if row.transductive == transductive}
            bold |= {(of_file[name].file, name) for name in leaders(some)}
    if not rows:
        return
    order = {name: n for n, name in enumerate(METHODS)}
    rows.sort(key=lambda row: (*row.section, _number(row.ways), _number(row.shots), order.get(row.method, 99)))
    store.write_tables("results", rows, method_tables(rows, bold))
    if plots:
        draw_accuracy(rows, store.folder)


def _number(count: Count) -> int:
    return 0 if count == "various" else int(count)
