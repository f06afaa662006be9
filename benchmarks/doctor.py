"""What a registry says about itself against the truth: wrong labels, accuracy, gains, and how long it takes.

{mobilenetv2, pocket} x {Tiny ImageNet's 50 test classes, Omniglot's evaluation characters} x registries of several
sizes. In each of the draws a registry is made of random classes and examples.

- flips: 5 % of the labels are changed to another class of the registry at random; the share of these among the first
  10 % of the suspects.
- accuracy: of a registry without flips, the accuracy that is expected of new examples less that of ten others of each
  class: its mean, its mean size, and how often the truth lies in the interval; beside it leave-one-out as counted.
- plan: the gain that the plan promises, what adding such examples brings, and what as many of random classes bring.

mobilenetv2 was trained on Tiny ImageNet's classes, pocket on 120 others of them. With ``--choose`` scores of suspicion
are compared instead, on Tiny ImageNet's training and validation classes and Omniglot's background, and the exponents of
learning curves printed: what was chosen was chosen on these. With ``--scale C N`` it is timed on C classes of N random
vectors.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import save
from heads import DATA, network_of, vectors
from sklearn.preprocessing import normalize

from fewshot import ClassRegistry, FunctionEncoder
from fewshot.calibration import shipped_calibration
from fewshot.classifiers import WhitenedPrototypeClassifier
from fewshot.datasets import load_dataset
from fewshot.diagnosis import LeftOut, learning_curve, left_out
from fewshot.encoders import EmbeddingCache

SIZES = ("20x5", "20x10", "50x5", "100x5")
HELD_OUT, FLIPPED, FIRST = 10, 0.05, 0.1
_PER_CLASS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", required=True, help="folder for vectors, as of heads.py")
    parser.add_argument("--draws", type=int, default=50)
    parser.add_argument("--encoders", nargs="+", default=["mobilenetv2", "pocket"])
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), metavar="CxN", help="classes x examples of each")
    parser.add_argument("--name", default="doctor", help="of the file of results")
    parser.add_argument("--choose", action="store_true")
    parser.add_argument("--scale", nargs=2, type=int, metavar=("C", "N"))
    parser.add_argument("--dim", type=int, default=1280, help="of --scale")
    options = parser.parse_args()
    if options.scale:
        save(options.name, scale(*options.scale, options.dim))
        return
    rows = []
    for encoder in options.encoders:
        for title in DATA:
            X, y = (development if options.choose else reported)(encoder, title, Path(options.work))
            fingerprint = network_of(encoder).fingerprint
            for size in options.sizes:
                ways, shots = map(int, size.split("x"))
                if ways > len(np.unique(y)):
                    continue
                measure = choices if options.choose else column
                found = measure(X, y, ways, shots, options.draws, fingerprint)
                rows.append({"encoder": encoder, "data": title, "classes": ways, "examples": shots, **found})
                print(*rows[-1].values(), file=sys.stderr, flush=True)
    if options.choose:
        print(json.dumps(rows))
        return
    save(options.name, {"draws": options.draws, "held_out": HELD_OUT, "rows": rows})
    print(markdown(rows))


def reported(encoder: str, title: str, work: Path) -> tuple[Any, Any]:
    """Return vectors and labels of the classes that are reported on."""
    X, y = vectors(encoder, title, work)
    kept = np.isin(y, np.unique(np.array(load_dataset(DATA[title][0], split="test").labels, str)))
    return X[kept], y[kept]


def development(encoder: str, title: str, work: Path) -> tuple[Any, Any]:
    """Return vectors and labels of other classes; of Omniglot those of 300 background characters."""
    if title == "Tiny ImageNet":
        X, y = vectors(encoder, title, work)
        splits = (load_dataset(DATA[title][0], split=split).labels for split in ("train", "val"))
        kept = np.isin(y, np.unique(np.concatenate([np.array(labels, str) for labels in splits])))
        return X[kept], y[kept]
    dataset = load_dataset("omniglot", split="train")
    names = np.array(dataset.labels, str)
    chosen = np.random.default_rng(0).permutation(np.unique(names))[:300]
    taken = np.concatenate([np.flatnonzero(names == one)[:_PER_CLASS] for one in chosen])
    X = EmbeddingCache(network_of(encoder), work / "background.sqlite").encode([dataset.images[n] for n in taken])
    return normalize(X).astype(np.float32), names[taken]


def drawn(y: Any, ways: int, shots: int, rng: Any) -> tuple[Any, Any, Any]:
    """Return positions of the examples (c, shots) of random classes, of held-out ones (c, 10), and of the rest."""
    names = rng.choice(np.unique(y), ways, replace=False)
    order = [rng.permutation(np.flatnonzero(y == name)) for name in names]
    parts = np.stack([some[: min(map(len, order))] for some in order])
    return parts[:, :shots], parts[:, shots : shots + HELD_OUT], parts[:, shots + HELD_OUT :]


def flipped(codes: Any, ways: int, rng: Any) -> Any:
    """Return which (n,) are given another class, and the classes (n,); each class keeps an example."""
    while True:
        wrong = rng.choice(len(codes), max(1, round(FLIPPED * len(codes))), replace=False)
        changed = codes.copy()
        changed[wrong] = (changed[wrong] + rng.integers(1, ways, len(wrong))) % ways
        if len(np.unique(changed)) == ways:
            return changed != codes, changed


def registry_of(X: Any, folder: str, fingerprint: str) -> ClassRegistry:
    """Return a registry whose examples are numbers, written out, of rows of X."""
    encoder = FunctionEncoder(
        lambda texts: np.stack([X[int(text)] for text in texts]), X.shape[1], fingerprint, modality="text"
    )
    return ClassRegistry(Path(folder) / "r.fewshot", encoder=encoder, classifier="whitened")


def diagnosed(X: Any, positions: Any, codes: Any, fingerprint: str) -> Any:
    """Return the diagnosis of a registry, whose sources are the positions."""
    with tempfile.TemporaryDirectory() as folder, registry_of(X, folder, fingerprint) as registry:
        registry.add_labelled(
            zip(map(str, positions.tolist()), map(str, codes.tolist()), strict=True), all_or_none=True
        )
        return registry.diagnose()


def column(X: Any, y: Any, ways: int, shots: int, draws: int, fingerprint: str) -> dict[str, Any]:
    """Return what was measured over registries of a size."""
    rng = np.random.default_rng(0)
    found: dict[str, list[float]] = {}

    def note(**values: float) -> None:
        for name, value in values.items():
            found.setdefault(name, []).append(float(value))

    for _ in range(draws):
        own, held, spare = drawn(y, ways, shots, rng)
        codes = np.repeat(np.arange(ways), shots)
        wrong, changed = flipped(codes, ways, rng)
        report = diagnosed(X, own.ravel(), changed, fingerprint)
        suspects = [int(one.example.source.strip('"')) for one in report.suspects]
        first = suspects[: int(np.ceil(FIRST * len(codes)))]
        note(flips_found=np.isin(own.ravel()[wrong], first).mean())
        marked = [int(one.example.source.strip('"')) for one in report.mislabelled]
        note(
            marked=len(marked) / len(codes), marked_right=np.isin(marked, own.ravel()[wrong]).mean() if marked else 1.0
        )

        report = diagnosed(X, own.ravel(), codes, fingerprint)
        truth = accuracy(X, own.ravel(), codes, held)
        note(truth=truth, error=report.accuracy.value - truth, size=abs(report.accuracy.value - truth))
        note(inside=report.accuracy.low <= truth <= report.accuracy.high, counted_error=report.left_out.value - truth)
        more = {int(label): count for label, count in report.plan.classes}
        if max(more.values()) <= spare.shape[1]:
            one = [int(row) for code, count in more.items() for row in spare[code, :count]]
            other = rng.permutation(spare[:, : max(more.values())].ravel())[: len(one)]
            note(planned=len(one), promised=report.plan.gain)
            note(gained=accuracy(X, *joined(own, codes, one, y), held) - truth)
            note(gained_at_random=accuracy(X, *joined(own, codes, other, y), held) - truth)
    means = {name: round(float(np.mean(values)), 4) for name, values in found.items()}
    return {**means, "flips_ci95": round(1.96 * float(np.std(found["flips_found"])) / draws**0.5, 4)}


def joined(own: Any, codes: Any, more: Any, y: Any) -> tuple[Any, Any]:
    """Return positions and classes of the examples with more."""
    number = {y[row]: code for row, code in zip(own[:, 0], range(len(own)), strict=True)}
    return np.concatenate([own.ravel(), more]), np.concatenate([codes, [number[y[row]] for row in more]])


def accuracy(X: Any, positions: Any, codes: Any, held: Any) -> float:
    answers = WhitenedPrototypeClassifier().fit(X[positions], codes).predict(X[held.ravel()])
    return float((answers == np.repeat(np.arange(len(held)), held.shape[1])).mean())


def choices(X: Any, y: Any, ways: int, shots: int, draws: int, fingerprint: str) -> dict[str, Any]:
    """Return the share of flips that scores of suspicion find among the first tenth, and the exponents of curves."""
    rng, table = np.random.default_rng(1), shipped_calibration(fingerprint)
    found: dict[str, list[float]] = {}
    for _ in range(draws):
        own, _, _ = drawn(y, ways, shots, rng)
        codes = np.repeat(np.arange(ways), shots)
        wrong, changed = flipped(codes, ways, rng)
        left = left_out(WhitenedPrototypeClassifier(), X[own.ravel()], changed, calibration=table)
        for name, score in scores(left, changed).items():
            first = left.positions[np.argsort(-score, kind="stable")][: int(np.ceil(FIRST * len(codes)))]
            found.setdefault(name, []).append(float(np.isin(np.flatnonzero(wrong), first).mean()))
        clean = left_out(WhitenedPrototypeClassifier(), X[own.ravel()], codes, calibration=table)
        groups = np.arange(len(codes))
        curve = learning_curve(WhitenedPrototypeClassifier(), X[own.ravel()], codes, clean, groups=groups)
        found.setdefault("exponent", []).append(curve.exponent)
    return {name: round(float(np.mean(values)), 3) for name, values in found.items()}


def scores(left: LeftOut, codes: Any) -> dict[str, Any]:
    own, best = left.own.astype(float), left.rival_probabilities[:, 0].astype(float)
    classes = codes[left.positions]
    mean = np.bincount(classes, own) / np.bincount(classes).clip(1)
    return {
        "self-confidence": left.suspicion,
        "log odds": np.log(best + 1e-9) - np.log(own + 1e-9),
        "margin": best - own,
        "self-confidence beside the class's": mean[classes] - own,
        "wrong": (~left.correct).astype(float),
    }


def scale(classes: int, examples: int, dim: int) -> dict[str, Any]:
    """Return seconds and memory of a diagnosis of random vectors around random means."""
    rng = np.random.default_rng(0)
    means = rng.normal(size=(classes, dim)).astype(np.float32)
    n = classes * examples
    X = np.repeat(means, examples, axis=0) + 1.5 * rng.normal(size=(n, dim)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder, registry_of(X, folder, "random") as registry:
        labels = (f"class {row // examples}" for row in range(n))
        registry.add_labelled(zip(map(str, range(n)), labels, strict=True))
        registry.classes()
        before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
        report = registry.diagnose()
        seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    about = {"classes": classes, "examples": examples, "dim": dim, "diagnosed": report.diagnosed}
    grown = {"megabytes_before": before // 1024, "megabytes_peak": peak // 1024}
    return {**about, "seconds": round(seconds, 1), **grown, "accuracy": round(report.accuracy.value, 4)}


def markdown(rows: list[dict[str, Any]]) -> str:
    """One row a column of what was measured."""
    head = ("encoder, data", "registry", "flips found, %", "accuracy, %", "expected less true", "size", "inside, %")
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        cells = (
            f"{row['encoder']}, {row['data']}",
            f"{row['classes']} x {row['examples']}",
            f"{100 * row['flips_found']:.0f} ± {100 * row['flips_ci95']:.0f}",
            f"{100 * row['truth']:.1f}",
            f"{100 * row['error']:+.1f}",
            f"{100 * row['size']:.1f}",
            f"{100 * row['inside']:.0f}",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
