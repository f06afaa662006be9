"""How right probabilities are: fits the tables of fewshot/sharpness, and measures them on classes they have not seen.

Two tables. One is for networks trained on ImageNet, fitted to mobilenetv2 on Tiny ImageNet's training classes and
Omniglot's background characters; no number was fitted to mobilenetv1. One is for the bundled encoder, fitted to classes
that it was not trained on, Tiny ImageNet's validation classes and the three alphabets that its training held out, and
to Tiny ImageNet's training classes: 30 classes alone are not typical enough of others.
Fitted to episodes of 5 and 20 classes with 1 and 5 examples, and of 5 with 2; measured on Tiny ImageNet's test classes
and Omniglot's evaluation characters.

mobilenetv1 is measured a second time as its user would have it who has called ``fewshot calibrate``: with numbers
fitted, from those that ship, to the training classes of the data set at hand.

"Before" is the softmax as it was without calibration: of 10 times cosines and ridge outputs, of 5 times SimpleShot's
distances, of the scores themselves elsewhere; shares of votes where a method votes. "Own" is what the sharpness would
give that is the best for a cell's own answers, one factor for all of them: no temperature gives a lower likelihood.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import ROOT, save, shared_file
from torch import Tensor

from fewshot.benchmark.methods import chosen
from fewshot.calibration.task_features import SHOTS, SIGNS, WAYS
from fewshot.calibration.temperature import (
    Reliability,
    Sharpness,
    fit,
    read_table,
    reliability,
    shipped,
    tempered,
    write_table,
)
from fewshot.classifiers.simple_shot import SimpleShotClassifier
from fewshot.datasets.dataset import Dataset
from fewshot.datasets.loading import load_dataset
from fewshot.encoders.embedding_cache import EmbeddingCache
from fewshot.encoders.timm_encoder import load_encoder
from fewshot.episodes import EpisodeSampler
from fewshot.training.decoded_images import split_off

ENCODERS = {
    "mobilenetv2": ("weights", "mobilenetv2_100.tf_in1k"),
    "mobilenetv1": ("weights", "mobilenetv1_100.tf_in1k"),
    "pocket": (),
}
TABLES = {"imagenet": ("mobilenetv2",), "pocket": ("pocket",)}
FITTED = {
    "imagenet": [("tiny-imagenet", "train"), ("omniglot", "background")],
    "pocket": [("tiny-imagenet", "val"), ("tiny-imagenet", "train"), ("omniglot", "held out")],
}
MEASURED = [("tiny-imagenet", "test"), ("omniglot", "test")]
# Ways and shots: two examples are the fewest of which one can be left out.
Settings = tuple[tuple[int, int], ...]
# How an encoder fares that no number was fitted to, when its user has called fewshot calibrate.
_CALIBRATED = ("mobilenetv1",)
_MEASURED: Settings = tuple(itertools.product(WAYS, SHOTS))
_FITTED: Settings = ((WAYS[0], 2), *_MEASURED)
# 5-way episodes of each setting that numbers are fitted to, and half as many of 20 ways: ImageNet's are slower.
_EPISODES = {"imagenet": 150, "pocket": 300}
# Queries of each class; 20-way episodes would take too long with 15.
QUERIES = {5: 15, 20: 5}
# Classes and pictures of each that take part.
_CLASSES, _PER_CLASS = 250, 40
_BEFORE = {"prototype": 10.0, "simpleshot": 5.0, "ridge": 10.0, "cosine-head": 10.0}
_VOTES = ("nearest", "nearest-5", "matching", "cache")
# A table for many encoders does not heed this sign: as one network shows it, it misleads about the next.
_OF_ONE_ENCODER = "broad"
# What a method of the caller's own is taken to have in common with.
_COMMON = ("prototype", "ridge", "matching")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", required=True, help="folder for vectors")
    parser.add_argument("--cache", help="where pictures' vectors are kept; by default in the work folder")
    parser.add_argument("--episodes", type=int, default=600, help="measured, of 5 ways; half as many of 20")
    parser.add_argument("--methods", default="all", help="m1,m2,...")
    parser.add_argument("--fit", choices=list(TABLES), nargs="*", default=[], help="write these tables, then measure")
    parser.add_argument("--only", choices=list(ENCODERS), nargs="*", default=list(ENCODERS), help="measure these")
    parser.add_argument("--picture", metavar="PNG", help="draw the reliability of prototypes")
    parser.add_argument("--out", default="calibration", help="name of the result file")
    options = parser.parse_args()
    work = Path(options.work)
    work.mkdir(parents=True, exist_ok=True)
    task = Task(work, options.cache or str(work / "vectors.sqlite"), options.episodes)
    makers = chosen(options.methods.split(","), base_classes=False)
    classifiers = {name: make(None) for name, make in makers.items()}
    for kind in options.fit:
        write_fitted(task, classifiers, kind)
    shipped.cache_clear()
    rows: list[dict[str, Any]] = []
    panels: dict[str, tuple[Reliability, Reliability]] = {}
    for encoder, where in itertools.product(options.only, MEASURED):
        for name, classifier in classifiers.items():
            for row, pair in measured(task, name, classifier, encoder, *where):
                rows.append(row)
                print(" ".join(map(str, row.values())), file=sys.stderr, flush=True)
                if (name, row["table"]) == ("prototype", "shipped"):
                    panels[f"{encoder}, {where[0]}, {row['ways']}-way {row['shots']}-shot"] = pair
    if rows:
        save(options.out, {"episodes": options.episodes, "rows": rows})
    if options.picture and panels:
        from fewshot.benchmark.plots import draw_reliability

        draw_reliability(panels, Path(options.picture))


def write_fitted(task: Task, classifiers: dict[str, Any], kind: str) -> None:
    """Fit the table of one kind of encoder and put it where it ships; methods not asked for stay as they are."""
    path = ROOT / "fewshot" / "sharpness" / f"{kind}.json"
    table = read_table(path) if path.exists() else {}
    task = replace(task, episodes=_EPISODES[kind])
    common = []
    centred = {"simpleshot centred": SimpleShotClassifier()} if "simpleshot" in classifiers else {}
    for name, classifier in (classifiers | centred).items():
        answers = []
        for encoder, where in itertools.product(TABLES[kind], FITTED[kind]):
            if name in centred:
                classifier = SimpleShotClassifier(center=task.vectors(encoder, *where)[0].mean(0))
            answers += task.answers(name, classifier, encoder, *where, _FITTED)
        cells = [(answer.gap[None], heeded(answer.columns[None], kind), answer.truth[None]) for answer in answers]
        table[classifier.sharpness_name] = fit(cells)
        print(kind, classifier.sharpness_name, *asdict(table[classifier.sharpness_name]).values(), file=sys.stderr)
        if name in _COMMON:
            common += cells
    if common:
        table["FewShotClassifier"] = fit(common)
    write_table(table, path, encoders=[task.network(encoder).fingerprint for encoder in TABLES[kind]])


def heeded(columns: Tensor, kind: str) -> Tensor:
    """Signs (..., len(SIGNS)) with 0 for those that a table does not heed: a fit leaves their numbers at 0."""
    told = [kind == "pocket" or _OF_ONE_ENCODER not in name.split() for name in SIGNS]
    return columns * torch.tensor(told)


def calibrated(task: Task, name: str, classifier: Any, encoder: str, data: str, usual: Sharpness) -> Sharpness:
    """Fit a method as ``fewshot calibrate`` does, to the training classes of one data set."""
    task = replace(task, episodes=_EPISODES["imagenet"])
    answers = task.answers(name, classifier, encoder, data, dict(FITTED["imagenet"])[data], _FITTED)
    return fit([(answer.gap[None], answer.columns[None], answer.truth[None]) for answer in answers], usual)


def measured(
    task: Task, name: str, classifier: Any, encoder: str, data: str, split: str
) -> Iterator[tuple[dict[str, Any], tuple[Reliability, Reliability]]]:
    """A method in every setting, without calibration and with it: rows of the result and what they are made of."""
    usual = classifier.sharpness_in(shipped(task.network(encoder).fingerprint))
    tables = {"shipped": usual}
    if encoder in _CALIBRATED:
        tables["calibrated"] = calibrated(task, name, classifier, encoder, data, usual)
    answers = task.answers(name, classifier, encoder, data, split, _MEASURED)
    for (table, sharpness), answer in itertools.product(tables.items(), answers):
        at = sharpness.at(answer.columns)
        pair = reliability(answer.before, answer.truth), reliability(tempered(answer.gap, *at), answer.truth)
        row: dict[str, Any] = {"encoder": encoder, "table": table, "data": data, "method": name}
        row |= {"ways": answer.ways, "shots": answer.shots, "n": pair[1].n, "accuracy": round(pair[1].accuracy, 4)}
        for when, one in zip(("before", "after"), pair, strict=True):
            row |= {f"ece_{when}": round(one.ece, 4), f"nll_{when}": round(one.nll, 4)}
        row["ece_own"] = round(with_its_own(answer, *at).ece, 4)
        yield row, pair


def with_its_own(answer: Answers, beta: Tensor, doubt: Tensor, gamma: Tensor) -> Reliability:
    """The reliability with the multiple of beta that gives these very answers the highest likelihood."""
    some = slice(None, None, 5)

    def nll(factor: float) -> float:
        shares = tempered(answer.gap[some], factor * beta[some], doubt[some], gamma[some])
        return reliability(shares, answer.truth[some]).nll

    best = min(np.exp(np.linspace(-1.5, 1.5, 31)).tolist(), key=nll)
    return reliability(tempered(answer.gap, best * beta, doubt, gamma), answer.truth)


@dataclass(frozen=True)
class Answers:
    """What a method makes of a setting's queries: gaps, probabilities (q, c), signs (q, len(SIGNS)), classes (q,)."""

    ways: int
    shots: int
    gap: Tensor
    columns: Tensor
    before: Tensor
    truth: Tensor


def answers_of(name: str, classifier: Any, X: Any, asked: EpisodeSampler, ways: int, shots: int) -> Answers:
    """Ask a method some episodes at a time."""
    with torch.inference_mode():
        vectors = classifier.prepare(torch.from_numpy(X))
    parts = []
    for chunk in asked:
        for few in (chunk[at : at + 32] for at in range(0, len(chunk), 32)):
            support, query = vectors[torch.from_numpy(few.support)], vectors[torch.from_numpy(few.query)]
            episodes = (support, torch.from_numpy(few.support_labels), query)
            scores, gap, columns = classifier.episode_gaps(*episodes, prepared=True)
            if name in _VOTES:
                before = scores / scores.sum(-1, keepdim=True)
            else:
                before = (_BEFORE.get(name.partition(" ")[0], 1.0) * scores).softmax(-1)
            truth = torch.from_numpy(few.query_labels)
            parts.append((gap.flatten(0, 1), columns.flatten(0, 1), before.flatten(0, 1), truth.flatten()))
    return Answers(ways, shots, *(torch.cat(some) for some in zip(*parts, strict=True)))


@dataclass(frozen=True)
class Task:
    """Where vectors and answers lie (empty it where a method has changed), and how many 5-way episodes are drawn."""

    work: Path
    cache: str
    episodes: int

    def answers(
        self, name: str, classifier: Any, encoder: str, data: str, split: str, settings: Settings
    ) -> list[Answers]:
        """Return a method's answers in every setting, kept in the work folder."""
        kept = self.work / f"{encoder}-{data}-{split}-{name}-{self.episodes}.pt".replace(" ", "-")
        if not kept.exists():
            X, y = self.vectors(encoder, data, split)
            found = [answers_of(name, classifier, X, self.sampler(y, *setting), *setting) for setting in settings]
            torch.save([vars(answer) for answer in found], kept)
            print("asked", kept.name, file=sys.stderr, flush=True)
        return [Answers(**answer) for answer in torch.load(kept)]

    def sampler(self, labels: Any, ways: int, shots: int) -> EpisodeSampler:
        """Draw half as many episodes of 20 ways, which take longer."""
        n_episodes = self.episodes if ways == WAYS[0] else self.episodes // 2
        return EpisodeSampler(
            labels, n_way=ways, n_shot=shots, n_query=QUERIES[ways], n_episodes=n_episodes, random_state=0
        )

    def network(self, encoder: str) -> Any:
        """Load an encoder."""
        place = ENCODERS[encoder]
        return load_encoder(f"local-dir:{shared_file(*place)}" if place else encoder)

    def vectors(self, encoder: str, name: str, split: str) -> tuple[Any, Any]:
        """Return vectors and labels of some pictures of some classes, kept in the work folder."""
        network = self.network(encoder)
        part = f"{encoder}-{name}-{split.replace(' ', '-')}-{network.fingerprint.split(':')[-1][:12]}"
        kept = self.work / f"{part}.npz"
        if not kept.exists():
            dataset = pictures(name, split)
            labels = np.array(dataset.labels, str)
            classes = np.random.default_rng(0).permutation(np.unique(labels))[:_CLASSES]
            taken = np.concatenate([np.flatnonzero(labels == label)[:_PER_CLASS] for label in np.sort(classes)])
            X = EmbeddingCache(network, self.cache).encode([dataset.images[n] for n in taken])
            np.savez(kept, X=X, y=labels[taken])
        found = np.load(kept)
        return found["X"], found["y"]


def pictures(name: str, split: str) -> Dataset:
    """A data set's part; "held out": the alphabets that watched the bundled encoder's training (seed 0, a tenth)."""
    if split != "held out":
        return load_dataset(name, split=split)
    return split_off(load_dataset(name, split="background"), 0.1, ways=20, examples=2, seed=0)[1]


if __name__ == "__main__":
    main()
