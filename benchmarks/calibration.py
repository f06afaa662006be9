"""How sure each method may be: fits the table of fewshot/temperature.py, and measures it on classes it has not seen.

Fitted to Tiny ImageNet's 120 training classes by two ImageNet encoders, 5-way and 20-way, 1 and 5 shots; measured on
its 50 test classes, on Omniglot's evaluation characters, and on the bundled encoder, which no number was fitted to.
"Before" is the softmax as it was without calibration: of 10 times cosines and ridge outputs, of 5 times SimpleShot's
distances, of the scores themselves elsewhere; shares of votes where a method votes. "By table" is without what examples
left out of the support add.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import save, shared_file
from torch import Tensor

from fewshot.confidence import gaps_of, probabilities_of
from fewshot.datasets import load_dataset
from fewshot.encoders import EmbeddingCache, load_encoder
from fewshot.episodes import EpisodeSampler
from fewshot.methods import chosen
from fewshot.temperature import SHOTS, WAYS, Sharpness, fit, reliability

ENCODERS = {
    "mobilenetv2": ("weights", "mobilenetv2_100.tf_in1k"),
    "mobilenetv1": ("weights", "mobilenetv1_100.tf_in1k"),
    "pocket": (),
}
FITTED = [("mobilenetv2", "tiny-imagenet", "train"), ("mobilenetv1", "tiny-imagenet", "train")]
MEASURED = [(encoder, data, "test") for encoder in ENCODERS for data in ("tiny-imagenet", "omniglot")]
# Queries of each class; 20-way episodes would take too long with 15.
QUERIES = {5: 15, 20: 5}
# Pictures of each class that take part.
_PER_CLASS = 60
_BEFORE = {"prototype": 10.0, "simpleshot": 5.0, "ridge": 10.0, "cosine-head": 10.0}
_VOTES = ("nearest", "nearest-5", "matching", "cache")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", required=True, help="folder for vectors")
    parser.add_argument("--cache", help="where pictures' vectors are kept; by default in the work folder")
    parser.add_argument("--episodes", type=int, default=200, help="of each setting")
    parser.add_argument("--methods", default="all", help="m1,m2,...")
    parser.add_argument("--fit", action="store_true", help="fit the table, print it, and use it")
    parser.add_argument("--only", choices=list(ENCODERS), nargs="*", default=list(ENCODERS))
    parser.add_argument("--out", default="calibration", help="name of the result file")
    options = parser.parse_args()
    work = Path(options.work)
    work.mkdir(parents=True, exist_ok=True)
    task = Task(work, options.cache or str(work / "vectors.sqlite"), options.episodes)
    makers = chosen(options.methods.split(","), base_classes=False)
    classifiers = {name: make(None) for name, make in makers.items()}
    table = fitted(task, classifiers) if options.fit else {}
    rows = []
    for encoder, data, split in MEASURED:
        if encoder in options.only:
            rows += measured(task, classifiers, encoder, data, split, table)
    if rows:
        save(options.out, {"episodes": options.episodes, "rows": rows})


def fitted(task: Task, classifiers: dict[str, Any]) -> dict[str, Sharpness]:
    """Fit and print the table."""
    sets = [task.vectors(*which) for which in FITTED]
    table: dict[str, Sharpness] = {}
    for classifier in classifiers.values():
        points = []
        for ways, shots in itertools.product(WAYS, SHOTS):
            found = [gaps_of(classifier, X, task.sampler(y, ways, shots)) for X, y in sets]
            points.append(astuple(fit(some(gap, truth) for gap, truth in found)))
        table[classifier.sharpness_name] = Sharpness.of(*points)
        print(f'    "{classifier.sharpness_name}": Sharpness.of{tuple(points)},', file=sys.stderr, flush=True)
    return table


def measured(
    task: Task, classifiers: dict[str, Any], encoder: str, data: str, split: str, table: dict[str, Sharpness]
) -> list[dict[str, Any]]:
    """Rows of the result: every method in every setting, without calibration and with it."""
    X, y = task.vectors(encoder, data, split)
    rows = []
    for name, classifier in classifiers.items():
        for ways, shots in itertools.product(WAYS, SHOTS):
            asked = task.sampler(y, ways, shots)
            probabilities, truth = probabilities_of(classifier, X, asked, table or None)
            row: dict[str, Any] = {"encoder": encoder, "data": data, "method": name, "ways": ways, "shots": shots}
            answers = {"before": uncalibrated(name, classifier, X, asked), "after": probabilities}
            if shots > 1 and classifier._leaves_out and not classifier.transductive:
                classifier._leaves_out = False
                answers["by_table"], _ = probabilities_of(classifier, X, asked, table or None)
                classifier._leaves_out = True
            for when, shares in answers.items():
                found = reliability(shares, truth)
                row |= {"accuracy": round(found.accuracy, 4)}
                row |= {f"ece_{when}": round(found.ece, 4), f"nll_{when}": round(found.nll, 4)}
            rows.append(row)
            print(" ".join(map(str, row.values())), file=sys.stderr, flush=True)
    return rows


@dataclass(frozen=True)
class Task:
    """Where the vectors lie, and how many 5-way episodes are drawn."""

    work: Path
    cache: str
    episodes: int

    def sampler(self, labels: Any, ways: int, shots: int) -> EpisodeSampler:
        """Draw half as many episodes of 20 ways, which take longer."""
        n_episodes = self.episodes if ways == WAYS[0] else self.episodes // 2
        return EpisodeSampler(labels, n_way=ways, n_shot=shots, n_query=QUERIES[ways], n_episodes=n_episodes)

    def vectors(self, encoder: str, name: str, split: str) -> tuple[Any, Any]:
        """Return vectors and labels of some pictures of each class, kept in the work folder."""
        dataset = load_dataset(name, split=split)
        labels = np.array(dataset.labels, str)
        taken = np.concatenate([np.flatnonzero(labels == label)[:_PER_CLASS] for label in np.unique(labels)])
        place = ENCODERS[encoder]
        network = load_encoder(f"local-dir:{shared_file(*place)}" if place else encoder)
        kept = self.work / f"{encoder}-{name}-{split}-{network.fingerprint.split(':')[-1][:12]}.npy"
        if not kept.exists():
            np.save(kept, EmbeddingCache(network, self.cache).encode([dataset.images[n] for n in taken]))
        return np.load(kept), labels[taken]


def some(gap: Tensor, truth: Tensor, most: int = 2_000) -> tuple[Tensor, Tensor]:
    """Every n-th query, so that fitting takes seconds: (1, q, c) and (1, q)."""
    gap, truth = gap.flatten(0, 1), truth.flatten()
    step = -(-len(truth) // most)
    return gap[None, ::step], truth[None, ::step]


def uncalibrated(name: str, classifier: Any, X: Any, asked: EpisodeSampler) -> Tensor:
    """Probabilities without calibration."""
    found = []
    data = classifier.prepare(torch.from_numpy(X))
    for chunk in asked:
        for at in range(0, len(chunk), 32):
            few = chunk[at : at + 32]
            support, query = data[torch.from_numpy(few.support)], data[torch.from_numpy(few.query)]
            scores = classifier.episode_scores(support, torch.from_numpy(few.support_labels), query, prepared=True)
            if name in _VOTES:
                found.append(scores / scores.sum(-1, keepdim=True))
            else:
                found.append((_BEFORE.get(name, 1.0) * scores).softmax(-1))
    return torch.cat(found)


if __name__ == "__main__":
    main()
