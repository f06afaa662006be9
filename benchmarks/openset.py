"""Whether the open-set threshold keeps its bound on false accepts: 1,000 random registries of real embeddings.

    python benchmarks/openset.py --work work

Each registry holds 3 to 50 classes of 1 to 5 shots, drawn from Tiny ImageNet's validation and test classes or from
Omniglot's evaluation characters. It gets 5 queries of each of its classes and 10 of each other class. The background,
where there is one, is of Tiny ImageNet's training classes. ``--work`` keeps the embeddings.

    python benchmarks/openset.py --work work --centers

Writes the centres that ship with the library, of those training classes, too.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import ROOT, save, shared_file

from fewshot import EpisodeSampler
from fewshot.benchmark.inputs import Features, embed_source, load_encoders, open_source
from fewshot.benchmark.openset_runner import run_openset_benchmark
from fewshot.classifiers import Membership
from fewshot.openset import (
    DEFAULT,
    SCORES,
    Background,
    Center,
    KnownClasses,
    leave_one_out_scores,
    shipped_center,
    write_center,
)

MAX_FALSE_ACCEPTS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.25, 0.5)

MOBILENET, CHARACTERS = "mobilenetv2_100.tf_in1k", "omniglot"
# Title: (data, images of each background class, whether the shipped centre is used, the fewest and most classes).
REGISTRIES = {
    "none": ("tiny-imagenet", None, True, 3, 50),
    "none, and no centre": ("tiny-imagenet", None, False, 3, 50),
    "120 classes, 10 pictures each": ("tiny-imagenet", 10, True, 3, 50),
    "120 classes, 1 picture each": ("tiny-imagenet", 1, True, 3, 50),
    "none, characters": (CHARACTERS, None, True, 3, 50),
    "none, few classes": ("tiny-imagenet", None, True, 2, 5),
    "none, and no centre, few classes": ("tiny-imagenet", None, False, 2, 5),
}
SIZES = ((2, 2), (3, 5), (6, 9), (10, 18), (19, 50))


def vectors_of(encoder: str, split: str, work: Path, data: str = "tiny-imagenet") -> Features:
    place = f"local-dir:{shared_file('weights', encoder)}" if encoder != "pocket" else encoder
    (named,) = load_encoders([place], device=None, cache=str(work / "vectors.sqlite"))
    return embed_source(open_source(data, split=split), named)


def some_of_each(labels: np.ndarray, each: int, rng: np.random.Generator) -> np.ndarray:
    """Positions of ``each`` examples of every class."""
    return np.concatenate([rng.permutation(np.flatnonzero(labels == c))[:each] for c in np.unique(labels)])


def registry(
    X: np.ndarray,
    y: np.ndarray,
    background: Background | None,
    center: Center | None,
    rng: np.random.Generator,
    sizes: tuple[int, int],
) -> list[dict[str, Any]]:
    """Draw one registry, set its threshold for each bound, and measure which queries are accepted."""
    classes, shots = int(rng.integers(sizes[0], sizes[1] + 1)), int(rng.integers(1, 6))
    order = rng.permutation(int(y.max()) + 1)
    members = [rng.permutation(np.flatnonzero(y == c))[: shots + 10] for c in order]
    support = np.concatenate([some[:shots] for some in members[:classes]])
    labels = np.repeat(np.arange(classes), shots)
    known_queries = np.concatenate([some[shots : shots + 5] for some in members[:classes]])
    unknown_queries = np.concatenate([some[shots:] for some in members[classes:]])
    known = KnownClasses.of(
        torch.from_numpy(X[support])[None], Membership(torch.from_numpy(labels)[None], classes), background, center
    )
    queries = torch.from_numpy(X[np.concatenate([known_queries, unknown_queries])])[None]
    scores = SCORES[DEFAULT](known, queries)[0].numpy()
    left_out = leave_one_out_scores(X[support], labels, background=background, center=center)
    rows = []
    for max_false_accept in MAX_FALSE_ACCEPTS:
        threshold = left_out.threshold(max_false_accept)
        accepted = scores < threshold.value
        rows.append(
            {
                "max_false_accept": max_false_accept,
                "classes": classes,
                "shots": shots,
                "met": threshold.met,
                "false_accept_bound": threshold.false_accept_bound,
                "false_accept": float(accepted[len(known_queries) :].mean()),
                "known_accepted": float(accepted[: len(known_queries)].mean()),
                "estimated_false_reject": threshold.estimated_false_reject,
            }
        )
    return rows


def mean(rows: list[dict[str, Any]], name: str) -> list[float]:
    """Mean and half-width of its 95 % interval, over registries, in percent."""
    values = np.array([row[name] for row in rows if row[name] is not None])
    if len(values) < 2:
        return [math.nan, math.nan]
    return [round(100 * float(values.mean()), 2), round(196 * float(values.std(ddof=1)) / math.sqrt(len(values)), 2)]


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One line for each bound, number of classes and whether the bound is met."""
    found: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        size = next(f"{low} to {high}" for low, high in SIZES if low <= row["classes"] <= high)
        found[row["max_false_accept"], size, row["met"]].append(row)
    lines = []
    for (bound, size, met), some in sorted(found.items(), key=lambda item: (item[0][0], int(item[0][1].split()[0]))):
        names = ("false_accept_bound", "false_accept", "known_accepted", "estimated_false_reject")
        lines.append(
            {"max_false_accept": bound, "classes": size, "met": met, "registries": len(some)}
            | {name: mean(some, name) for name in names}
        )
    return lines


def by_shots(rows: list[dict[str, Any]], bound: float) -> dict[int, dict[str, list[float]]]:
    """What is accepted where ``bound`` is met, for each number of shots."""
    met = [row for row in rows if row["met"] and row["max_false_accept"] == bound]
    return {
        shots: {
            name: mean([row for row in met if row["shots"] == shots], name)
            for name in ("false_accept", "known_accepted")
        }
        for shots in range(1, 6)
        if met
    }


def scores_table(
    test: Features, background: Background | None, center: Center | None, episodes: int
) -> dict[str, dict[str, list[float]]]:
    """AUROC of every score, 5-way, and its difference to the softmax baseline, in percent with half-widths."""
    names = [name for name, score in SCORES.items() if background is not None or not score.needs_background]
    table: dict[str, dict[str, list[float]]] = {}
    for shots in (1, 5):
        sampler = EpisodeSampler(test.labels, n_way=10, n_shot=shots, n_query=15, n_episodes=episodes)
        result = run_openset_benchmark(names, test.vectors, sampler, background=background, center=center)
        for name in names:
            auroc, gain = result[name].mean("auroc"), result.paired(name, "softmax")
            table.setdefault(name, {})[f"{shots}-shot"] = [round(100 * value, 2) for value in (*auroc, *gain)]
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", required=True, help="folder for the embeddings")
    parser.add_argument("--encoder", default=MOBILENET)
    parser.add_argument("--centers", action="store_true", help="write the centres that ship, and measure nothing")
    parser.add_argument("--registries", type=int, default=1_000)
    parser.add_argument("--episodes", type=int, default=1_000)
    options = parser.parse_args()
    work = Path(options.work)
    work.mkdir(parents=True, exist_ok=True)
    if options.centers:
        for name in (MOBILENET, "mobilenetv1_100.tf_in1k", "pocket"):
            some = vectors_of(name, "train", work)
            place = ROOT / "fewshot" / "openset" / "centers" / f"{name.split('_')[0]}.json"
            write_center(Center.of(some.vectors, some.labels), some.fingerprint, place)
        return
    train, val, test = (vectors_of(options.encoder, split, work) for split in ("train", "val", "test"))
    rng = np.random.default_rng(0)
    names = np.array(train.labels)
    held = some_of_each(names, 10, rng)
    background = Background.of(train.vectors[held], names[held])
    center = shipped_center(test.fingerprint)
    references = ((background, None), (None, center), (None, None))
    tables = [scores_table(test, *given, options.episodes) for given in references]
    print(tables, file=sys.stderr)
    characters = vectors_of(options.encoder, "evaluation", work, CHARACTERS)
    drawn = {"tiny-imagenet": (val, test), CHARACTERS: (characters,)}
    thresholds = {}
    for title, (data, each, centred, *sizes) in REGISTRIES.items():
        X = np.concatenate([some.vectors for some in drawn[data]])
        y = np.unique([label for some in drawn[data] for label in some.labels], return_inverse=True)[1]
        rng = np.random.default_rng(1)
        held = None if each is None else some_of_each(names, each, rng)
        background = None if held is None else Background.of(train.vectors[held], names[held])
        at = center if centred else None
        rows = [
            row for _ in range(options.registries) for row in registry(X, y, background, at, rng, (sizes[0], sizes[1]))
        ]
        print(title, summary(rows), file=sys.stderr)
        thresholds[title] = {"rows": summary(rows)}
        if shown := by_shots(rows, 0.05):
            thresholds[title]["at_5_percent_by_shots"] = shown
    save(
        "openset",
        {
            "encoder": options.encoder,
            "registries": options.registries,
            "episodes": options.episodes,
            "percent": "each pair is a mean and the half-width of its 95 % interval",
            "auroc, gain": tables[0],
            "auroc, gain without a background": tables[1],
            "auroc, gain without a background or a centre": tables[2],
            "thresholds": thresholds,
        },
    )


if __name__ == "__main__":
    main()
