"""Fits the tables of fewshot/calibration, and measures the probabilities of all methods on classes of neither fit.

Three tables. One is for networks trained on ImageNet, fitted to mobilenetv2 on Tiny ImageNet's training classes and
Omniglot's background characters; no parameter was fitted to mobilenetv1. One is for the bundled encoder, fitted to
classes that it was not trained on, Tiny ImageNet's validation classes and the three validation alphabets of its
training, and to Tiny ImageNet's training classes: 30 classes alone are not typical enough of others. One is for MiniLM
(see text.py), fitted to CLINC150's intents, any and similar ones, and measured on Banking77's; methods that it does
not hold take the first.
Fitted to episodes of 5 and 20 classes with 1 and 5 examples, and of 5 with 2; measured on Tiny ImageNet's test classes
and Omniglot's evaluation characters.

mobilenetv1 is measured a second time as after ``fewshot calibrate``: with parameters fitted, from the shipped ones, to
the training classes of the data set at hand.

"Before" is the softmax without calibration: of 10 times cosines and ridge outputs, of 5 times SimpleShot's distances,
of the scores themselves elsewhere; shares of votes where a method votes. "Own" scales the inverse temperature by the
one factor that has the lowest negative log-likelihood on the cell's own queries: a bound that needs their labels.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import RESULTS, ROOT, save, shared_file
from text import DATA, minilm_folder, texts_of
from torch import Tensor

from fewshot.benchmark.methods import METHODS, select_methods
from fewshot.calibration import (
    FEATURES,
    SHOTS_RANGE,
    WAYS_RANGE,
    CalibrationParams,
    Reliability,
    fit_calibration,
    measure_reliability,
    read_calibration,
    shipped_calibration,
    write_calibration,
)
from fewshot.datasets import Dataset, load_dataset
from fewshot.encoders import EmbeddingCache, load_encoder
from fewshot.episodes import EpisodeSampler
from fewshot.training.data_splits import split_classes

ENCODERS = {
    "mobilenetv2": ("weights", "mobilenetv2_100.tf_in1k"),
    "mobilenetv1": ("weights", "mobilenetv1_100.tf_in1k"),
    "pocket": (),
    "minilm": (),
}
TABLES = {"imagenet": ("mobilenetv2",), "pocket": ("pocket",), "minilm": ("minilm",)}
FITTED = {
    "imagenet": [("tiny-imagenet", "train"), ("omniglot", "background")],
    "pocket": [("tiny-imagenet", "val"), ("tiny-imagenet", "train"), ("omniglot", "held out")],
    "minilm": [("clinc150", "train"), ("clinc150", "train, alike")],
}
MEASURED = [("tiny-imagenet", "test"), ("omniglot", "test")]
# Episodes within groups of similar classes: intents of ten domains are farther apart than those of one.
ALIKE, _ALIKE = ", alike", 25
# Of texts.
MEASURED_TEXTS = [("banking77", "test")]
# Ways and shots: two examples are the fewest of which one can be left out.
Settings = tuple[tuple[int, int], ...]
# Encoders of no shipped fit, measured after ``fewshot calibrate`` too.
_CALIBRATED = ("mobilenetv1",)
_MEASURED: Settings = tuple(itertools.product(WAYS_RANGE, SHOTS_RANGE))
_FITTED: Settings = ((WAYS_RANGE[0], 2), *_MEASURED)
# 5-way episodes of each setting of a fit, and half as many of 20 ways.
_EPISODES = 150
# Queries of each class; 20-way episodes would take too long with 15.
QUERIES = {5: 15, 20: 5}
# Classes and images of each.
_CLASSES, _PER_CLASS = 250, 40
_BEFORE = {"prototype": 10.0, "whitened": 10.0, "simpleshot": 5.0, "ridge": 10.0, "cosine-head": 10.0}
_VOTES = ("nearest", "nearest-5", "matching", "cache")
# No feature of a table for many encoders: fitted to one network, it misleads about the next.
_OF_ONE_ENCODER = "sparsity"
# The entry of a caller's own method is fitted to these.
_COMMON = ("prototype", "ridge", "matching")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", required=True, help="folder for vectors")
    parser.add_argument("--cache", help="embedding cache; by default in the work folder")
    parser.add_argument("--episodes", type=int, default=600, help="measured, of 5 ways; half as many of 20")
    parser.add_argument("--methods", default="all", help="m1,m2,...; the rows of others stay in the result file")
    parser.add_argument("--fit", choices=list(TABLES), nargs="*", default=[], help="write these tables, then measure")
    parser.add_argument("--only", choices=list(ENCODERS), nargs="*", default=list(ENCODERS), help="measure these")
    parser.add_argument("--picture", metavar="PNG", help="draw the reliability of prototypes")
    parser.add_argument("--out", default="calibration", help="name of the result file")
    options = parser.parse_args()
    work = Path(options.work)
    work.mkdir(parents=True, exist_ok=True)
    task = Task(work, options.cache or str(work / "vectors.sqlite"), options.episodes)
    makers = select_methods(options.methods.split(","), base_classes=False)
    classifiers = {name: make(None) for name, make in makers.items()}
    for kind in options.fit:
        write_fitted(task, classifiers, kind)
    shipped_calibration.cache_clear()
    rows: list[dict[str, Any]] = []
    panels: dict[str, tuple[Reliability, Reliability]] = {}
    places = [(one, where) for one in options.only for where in (MEASURED_TEXTS if one == "minilm" else MEASURED)]
    for encoder, where in places:
        for name, classifier in classifiers.items():
            for row, pair in measured(task, name, classifier, encoder, *where):
                rows.append(row)
                print(" ".join(map(str, row.values())), file=sys.stderr, flush=True)
                if (name, row["table"]) == ("prototype", "shipped"):
                    panels[f"{encoder}, {where[0]}, {row['ways']}-way {row['shots']}-shot"] = pair
    if rows:
        path = RESULTS / f"{options.out}.json"
        before = json.loads(path.read_text())["rows"] if path.exists() else []
        rows += [row for row in before if row["method"] not in classifiers or row["encoder"] not in options.only]
        order = [list(ENCODERS), [data for data, _ in MEASURED + MEASURED_TEXTS], list(METHODS)]
        rows.sort(key=lambda row: [p.index(row[k]) for p, k in zip(order, ("encoder", "data", "method"), strict=True)])
        save(options.out, {"episodes": options.episodes, "rows": rows})
    if options.picture and panels:
        from fewshot.benchmark.plots import draw_reliability

        draw_reliability(panels, Path(options.picture))


def write_fitted(task: Task, classifiers: dict[str, Any], kind: str) -> None:
    """Fit the table of one kind of encoder and put it where it ships; methods not asked for stay as they are."""
    path = ROOT / "fewshot" / "calibration" / "tables" / f"{kind}.json"
    table = read_calibration(path) if path.exists() else {}
    task = replace(task, episodes=_EPISODES)
    common = []
    centred = {f"{name} centred": made for name, made in classifiers.items() if "center" in made.get_params()}
    for name, classifier in (classifiers | centred).items():
        found = []
        for encoder, where in itertools.product(TABLES[kind], FITTED[kind]):
            if name in centred:
                classifier = type(classifier)(center=task.vectors(encoder, *where)[0].mean(0))
            found += task.scored(name, classifier, encoder, *where, _FITTED)
        sets = [(one.margins[None], used(one.features[None], kind), one.labels[None]) for one in found]
        table[classifier.calibration_name] = fit_calibration(sets)
        print(kind, classifier.calibration_name, *asdict(table[classifier.calibration_name]).values(), file=sys.stderr)
        if name in _COMMON:
            common += sets
    if common:
        table["FewShotClassifier"] = fit_calibration(common)
    write_calibration(table, path, encoders=[task.network(encoder).fingerprint for encoder in TABLES[kind]])


def used(features: Tensor, kind: str) -> Tensor:
    """Return features (..., f) with 0 for those that a table does not use: a fit leaves their coefficients at 0."""
    return features * torch.tensor([kind == "pocket" or name != _OF_ONE_ENCODER for name in FEATURES])


def calibrated(
    task: Task, name: str, classifier: Any, encoder: str, data: str, shipped: CalibrationParams
) -> CalibrationParams:
    """Fit a method as ``fewshot calibrate`` does, to the training classes of one data set."""
    task = replace(task, episodes=_EPISODES)
    found = task.scored(name, classifier, encoder, data, dict(FITTED["imagenet"])[data], _FITTED)
    return fit_calibration([(one.margins[None], one.features[None], one.labels[None]) for one in found], shipped)


def measured(
    task: Task, name: str, classifier: Any, encoder: str, data: str, split: str
) -> Iterator[tuple[dict[str, Any], tuple[Reliability, Reliability]]]:
    """Yield rows of the result, and the reliability before and after calibration, of a method in every setting."""
    shipped = classifier.calibration_params(shipped_calibration(task.network(encoder).fingerprint))
    tables = {"shipped": shipped}
    if encoder in _CALIBRATED:
        tables["calibrated"] = calibrated(task, name, classifier, encoder, data, shipped)
    found = task.scored(name, classifier, encoder, data, split, _MEASURED)
    for (table, params), cell in itertools.product(tables.items(), found):
        after = params.probabilities(cell.margins, cell.features)
        pair = measure_reliability(cell.before, cell.labels), measure_reliability(after, cell.labels)
        row: dict[str, Any] = {"encoder": encoder, "table": table, "data": data, "method": name}
        row |= {"ways": cell.ways, "shots": cell.shots, "n": pair[1].n, "accuracy": round(pair[1].accuracy, 4)}
        for when, one in zip(("before", "after"), pair, strict=True):
            row |= {f"ece_{when}": round(one.ece, 4), f"nll_{when}": round(one.nll, 4)}
        row["ece_own"] = round(with_own_factor(cell, params).ece, 4)
        yield row, pair


def with_own_factor(cell: Cell, params: CalibrationParams) -> Reliability:
    """Return the reliability with the multiple of beta that has the highest likelihood on these very queries."""

    def scaled(log_factor: float, step: int) -> Reliability:
        first, *others = params.log_inverse_temperature
        own = replace(params, log_inverse_temperature=(first + log_factor, *others))
        return measure_reliability(own.probabilities(cell.margins[::step], cell.features[::step]), cell.labels[::step])

    return scaled(min(np.linspace(-1.5, 1.5, 31).tolist(), key=lambda factor: scaled(factor, 5).nll), 1)


@dataclass(frozen=True)
class Cell:
    """A setting's queries: margins (q, c), features (q, f), probabilities before calibration (q, c), classes (q,)."""

    ways: int
    shots: int
    margins: Tensor
    features: Tensor
    before: Tensor
    labels: Tensor


def scored_cell(name: str, classifier: Any, X: Any, sampler: EpisodeSampler, ways: int, shots: int) -> Cell:
    """Score the queries of some episodes at a time."""
    with torch.inference_mode():
        vectors = classifier.prepare(torch.from_numpy(X))
    parts = []
    for chunk in sampler:
        for few in (chunk[at : at + 32] for at in range(0, len(chunk), 32)):
            support, query = vectors[torch.from_numpy(few.support)], vectors[torch.from_numpy(few.query)]
            episodes = (support, torch.from_numpy(few.support_labels), query)
            scores, margins, features = classifier.episode_margins(*episodes, prepared=True)
            if name in _VOTES:
                before = scores / scores.sum(-1, keepdim=True)
            else:
                before = (_BEFORE.get(name.partition(" ")[0], 1.0) * scores).softmax(-1)
            labels = torch.from_numpy(few.query_labels)
            parts.append((margins.flatten(0, 1), features.flatten(0, 1), before.flatten(0, 1), labels.flatten()))
    return Cell(ways, shots, *(torch.cat(some) for some in zip(*parts, strict=True)))


@dataclass(frozen=True)
class Task:
    """The folder of vectors and scores (empty it where a method has changed), and how many 5-way episodes are drawn."""

    work: Path
    cache: str
    episodes: int

    def scored(self, name: str, classifier: Any, encoder: str, data: str, split: str, settings: Settings) -> list[Cell]:
        """Return a method's scored queries in every setting, from the work folder where they are there."""
        kept = self.work / f"{encoder}-{data}-{split}-{name}-{self.episodes}.pt".replace(" ", "-")
        if not kept.exists():
            X, y = self.vectors(encoder, data, split)
            groups = alike(X, y) if split.endswith(ALIKE) else None
            samplers = [self.sampler(y, *setting, groups) for setting in settings]
            found = [
                scored_cell(name, classifier, X, *some)
                for some in zip(samplers, *zip(*settings, strict=True), strict=True)
            ]
            torch.save([vars(cell) for cell in found], kept)
            print("scored", kept.name, file=sys.stderr, flush=True)
        return [Cell(**cell) for cell in torch.load(kept)]

    def sampler(self, labels: Any, ways: int, shots: int, groups: Any = None) -> EpisodeSampler:
        """Draw half as many episodes of 20 ways, which take longer."""
        n_episodes = self.episodes if ways == WAYS_RANGE[0] else self.episodes // 2
        return EpisodeSampler(
            labels,
            n_way=ways,
            n_shot=shots,
            n_query=QUERIES[ways],
            n_episodes=n_episodes,
            random_state=0,
            groups=groups,
        )

    def network(self, encoder: str) -> Any:
        """Load an encoder."""
        if encoder == "minilm":
            return load_encoder(f"st:{minilm_folder()}", precision="float32")
        place = ENCODERS[encoder]
        return load_encoder(f"local-dir:{shared_file(*place)}" if place else encoder)

    def vectors(self, encoder: str, name: str, split: str) -> tuple[Any, Any]:
        """Return vectors and labels of some images of some classes, from the work folder where they are there."""
        network = self.network(encoder)
        part = f"{encoder}-{name}-{split.replace(' ', '-')}-{network.fingerprint.split(':')[-1][:12]}"
        kept = self.work / f"{part}.npz"
        if not kept.exists():
            dataset = images(name, split)
            labels = np.array(dataset.labels, str)
            classes = np.random.default_rng(0).permutation(np.unique(labels))[:_CLASSES]
            taken = np.concatenate([np.flatnonzero(labels == label)[:_PER_CLASS] for label in np.sort(classes)])
            X = EmbeddingCache(network, self.cache).encode([dataset.images[n] for n in taken])
            np.savez(kept, X=X, y=labels[taken])
        found = np.load(kept)
        return found["X"], found["y"]


def alike(X: Any, y: Any) -> Any:
    """Return the group of each example: a class and the 24 closest to it of those left over, again and again."""
    classes = np.unique(y)
    means = np.stack([X[y == one].mean(0) for one in classes])
    group, left = np.zeros(len(classes), np.int64), np.arange(len(classes))
    for number in range(-(-len(classes) // _ALIKE)):
        nearest = left[np.argsort(-(means[left] @ means[left[0]]))]
        group[nearest[:_ALIKE]], left = number, nearest[_ALIKE:]
    return group[np.searchsorted(classes, y)]


def images(name: str, split: str) -> Dataset:
    """Return a data set's part; "held out": the validation alphabets of the bundled encoder (seed 0, a tenth)."""
    if name in DATA:
        texts, labels = texts_of(f"{name}_{split.removesuffix(ALIKE)}")
        return Dataset(name, tuple(texts), tuple(labels.tolist()), modality="text")
    if split != "held out":
        return load_dataset(name, split=split)
    return split_classes(load_dataset(name, split="background"), 0.1, ways=20, examples=2, seed=0)[1]


if __name__ == "__main__":
    main()
