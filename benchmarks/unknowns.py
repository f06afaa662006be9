"""Whether the line to "none of these" keeps its promise: 1,000 random registries of real vectors.

    python benchmarks/unknowns.py --work work

Each registry holds 3 to 50 classes of 1 to 5 shots, drawn from Tiny ImageNet's validation and test classes or from
Omniglot's evaluation characters; the classes it does not hold ask 10 queries each, those it holds 5. The background,
where there is one, is of Tiny ImageNet's training classes. ``--work`` keeps the vectors.

    python benchmarks/unknowns.py --work work --centers

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
from fewshot.classifiers.membership import Membership
from fewshot.openset.background import Background
from fewshot.openset.center import Center, shipped_center, write_center
from fewshot.openset.threshold import leave_out
from fewshot.openset.unknown_scores import DEFAULT, SCORES, Known

LEVELS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.25, 0.5)

MOBILENET, CHARACTERS = "mobilenetv2_100.tf_in1k", "omniglot"
# Title: (data, pictures of each background class, whether the centre that ships is known, the fewest and most classes).
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
    """Draw one registry, set its line for each level, and count what unknown and known queries become."""
    classes, shots = int(rng.integers(sizes[0], sizes[1] + 1)), int(rng.integers(1, 6))
    order = rng.permutation(int(y.max()) + 1)
    members = [rng.permutation(np.flatnonzero(y == c))[: shots + 10] for c in order]
    support = np.concatenate([some[:shots] for some in members[:classes]])
    labels = np.repeat(np.arange(classes), shots)
    inside = np.concatenate([some[shots : shots + 5] for some in members[:classes]])
    outside = np.concatenate([some[shots:] for some in members[classes:]])
    known = Known.of(
        torch.from_numpy(X[support])[None], Membership(torch.from_numpy(labels)[None], classes), background, center
    )
    scores = SCORES[DEFAULT](known, torch.from_numpy(X[np.concatenate([inside, outside])])[None])[0].numpy()
    left_out = leave_out(X[support], labels, background=background, center=center)
    rows = []
    for level in LEVELS:
        line = left_out.threshold(level)
        accepted = scores < line.value
        rows.append(
            {
                "level": level,
                "classes": classes,
                "shots": shots,
                "kept": line.met,
                "false_accept_bound": line.false_accept_bound,
                "false_accept": float(accepted[len(inside) :].mean()),
                "known_accepted": float(accepted[: len(inside)].mean()),
                "estimated_false_reject": line.estimated_false_reject,
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
    """One line for each level, number of classes and whether the level was promised."""
    found: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        size = next(f"{low} to {high}" for low, high in SIZES if low <= row["classes"] <= high)
        found[row["level"], size, row["kept"]].append(row)
    lines = []
    for (level, size, kept), some in sorted(found.items(), key=lambda item: (item[0][0], int(item[0][1].split()[0]))):
        names = ("false_accept_bound", "false_accept", "known_accepted", "estimated_false_reject")
        lines.append(
            {"level": level, "classes": size, "asked_is_promised": kept, "registries": len(some)}
            | {name: mean(some, name) for name in names}
        )
    return lines


def by_shots(rows: list[dict[str, Any]], level: float) -> dict[int, dict[str, list[float]]]:
    """What is accepted where ``level`` is promised, for each number of shots."""
    kept = [row for row in rows if row["kept"] and row["level"] == level]
    return {
        shots: {
            name: mean([row for row in kept if row["shots"] == shots], name)
            for name in ("false_accept", "known_accepted")
        }
        for shots in range(1, 6)
        if kept
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
    parser.add_argument("--work", required=True, help="folder for the vectors")
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
            place = ROOT / "fewshot" / "unknowns" / "centers" / f"{name.split('_')[0]}.json"
            write_center(Center.of(some.vectors, some.labels), some.fingerprint, place)
        return
    train, val, test = (vectors_of(options.encoder, split, work) for split in ("train", "val", "test"))
    rng = np.random.default_rng(0)
    names = np.array(train.labels)
    held = some_of_each(names, 10, rng)
    background = Background.of(train.vectors[held], names[held])
    center = shipped_center(test.fingerprint)
    to_go_by = ((background, None), (None, center), (None, None))
    tables = [scores_table(test, *given, options.episodes) for given in to_go_by]
    print(tables, file=sys.stderr)
    characters = vectors_of(options.encoder, "evaluation", work, CHARACTERS)
    drawn = {"tiny-imagenet": (val, test), CHARACTERS: (characters,)}
    promises = {}
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
        promises[title] = {"rows": summary(rows)}
        if shown := by_shots(rows, 0.05):
            promises[title]["at_5_percent_by_shots"] = shown
    save(
        "unknowns",
        {
            "encoder": options.encoder,
            "registries": options.registries,
            "episodes": options.episodes,
            "percent": "each pair is a mean and the half-width of its 95 % interval",
            "auroc (then the difference to softmax)": tables[0],
            "without a background": tables[1],
            "without a background or a centre": tables[2],
            "promises": promises,
        },
    )


if __name__ == "__main__":
    main()
