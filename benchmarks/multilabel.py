"""Pictures of several classes at once: which of ten classes are in it, learned from a few pictures of each.

A picture is a canvas of 2 x 2 cells with one to three pictures of different classes, at places drawn at random, the
other cells grey (Tiny ImageNet) or white (Omniglot). A world is ten classes, with 100 canvases to learn from and 100 to
ask about, of which no picture is in both. A draw takes canvases in a random order until each class is in ``shots`` of
them; the same for all methods.

Reported on the classes of the test splits; the method, its regularisation and its prior of the calibration were chosen
on the ``--development`` ones: Tiny ImageNet's validation classes and Omniglot's background. scikit-learn's baselines
are one-vs-rest logistic regressions of the same unit vectors, a label from a probability of 0.5 on: as it comes, with
balanced class weights and C=10, and the latter with the threshold of the highest F1 in five-fold cross-validation.
"""

from __future__ import annotations

import argparse
import warnings
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from common import save, shared_file
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, f1_score
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.multiclass import OneVsRestClassifier
from sklearn.preprocessing import normalize

from fewshot import MultiLabelClassifier
from fewshot.datasets import load_dataset
from fewshot.encoders import load_encoder
from fewshot.media import open_image

DATA = {
    "Tiny ImageNet": ("tiny-imagenet", {"development": "val", "test": "test"}, 64, (128, 128, 128)),
    "Omniglot": ("omniglot", {"development": "train", "test": "test"}, 105, (255, 255, 255)),
}
WAYS, CANVASES, PER_CLASS = 10, 100, 20
WORLDS = {"development": 3, "test": 5}
SHOTS, DRAWS = (1, 3, 5, 10), 3
ENCODERS = {"pocket": "pocket", "mobilenetv2": "mobilenetv2_100.tf_in1k"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", required=True, help="folder for vectors")
    parser.add_argument("--development", action="store_true", help="the classes that the method was chosen on")
    parser.add_argument("--encoders", nargs="+", default=["pocket"], choices=list(ENCODERS))
    options = parser.parse_args()
    part = "development" if options.development else "test"
    rows = []
    for encoder in options.encoders:
        for data in DATA:
            rows += evaluated(encoder, data, worlds(encoder, data, part, Path(options.work)))
    if not options.development:
        save("multilabel", {"ways": WAYS, "worlds": WORLDS[part], "draws": DRAWS, "rows": rows})
    print(markdown(rows))


def canvases(data: str, part: str) -> tuple[list[Image.Image], np.ndarray]:
    """The canvases of all worlds, and which classes are in each: (worlds x 2 x canvases, ways)."""
    name, splits, size, colour = DATA[data]
    found = load_dataset(name, split=splits[part])
    of_class: dict[str, list[int]] = defaultdict(list)
    for n, label in enumerate(found.labels):
        of_class[label].append(n)
    rng = np.random.default_rng(7)
    classes = rng.permutation(sorted(of_class))
    images, truth = [], []
    for world in range(WORLDS[part]):
        pools = [rng.permutation(of_class[label])[:PER_CLASS] for label in classes[world * WAYS : (world + 1) * WAYS]]
        for half in (slice(0, PER_CLASS // 2), slice(PER_CLASS // 2, PER_CLASS)):
            for _ in range(CANVASES):
                picked = rng.choice(WAYS, rng.integers(1, 4), replace=False)
                canvas = Image.new("RGB", (2 * size, 2 * size), colour)
                for cell, code in zip(rng.permutation(4), picked, strict=False):
                    picture = open_image(found.images[rng.choice(pools[code][half])]).convert("RGB")
                    canvas.paste(picture.resize((size, size)), (size * int(cell % 2), size * int(cell // 2)))
                images.append(canvas)
                truth.append(np.isin(np.arange(WAYS), picked))
    return images, np.array(truth)


def worlds(name: str, data: str, part: str, work: Path) -> list[tuple[np.ndarray, ...]]:
    """Of each world the vectors and classes to learn from, and those to ask about."""
    file = work / f"multilabel-{name}-{data.replace(' ', '-')}-{part}.npz"
    if not file.exists():
        images, truth = canvases(data, part)
        given = ENCODERS[name]
        encoder = load_encoder(given if name == "pocket" else f"local-dir:{shared_file('weights', given)}")
        work.mkdir(parents=True, exist_ok=True)
        np.savez(file, vectors=encoder.encode(images), truth=truth)
    held = np.load(file)
    halves = [(held[key].reshape(WORLDS[part], 2, CANVASES, -1)) for key in ("vectors", "truth")]
    return [(x[0], y[0], x[1], y[1]) for x, y in zip(*halves, strict=True)]


def evaluated(encoder: str, data: str, found: list[tuple[np.ndarray, ...]]) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    rows = []
    for shots in SHOTS:
        figures: dict[str, list[dict[str, float]]] = defaultdict(list)
        for X, y, query, truth in found:
            for _ in range(DRAWS):
                order, n = rng.permutation(len(X)), 1
                while n < len(X) and y[order[:n]].sum(axis=0).min() < shots:
                    n += 1
                support = X[order[:n]], y[order[:n]]
                for method, (probabilities, threshold) in answers(*support, query).items():
                    figures[method].append({"n": n, **quality(probabilities, truth, threshold)})
        for method, each in figures.items():
            mean = {key: round(float(np.mean([one[key] for one in each])), 4) for key in each[0]}
            half = 1.96 * np.std([one["micro_f1"] for one in each], ddof=1) / len(each) ** 0.5
            rows.append(
                {"encoder": encoder, "data": data, "shots": shots, "method": method, **mean, "ci95": round(half, 4)}
            )
    return rows


def answers(X: np.ndarray, y: np.ndarray, query: np.ndarray) -> dict[str, tuple[np.ndarray, float]]:
    """Of each method the probabilities (q, c), and the threshold from which on it answers a class."""
    ours = MultiLabelClassifier().fit(X, y)
    probabilities = ours.predict_proba(query)
    units, asked = normalize(X), normalize(query)
    balanced = LogisticRegression(C=10.0, class_weight="balanced", max_iter=1000)
    theirs = {
        "logistic, one-vs-rest": LogisticRegression(max_iter=1000),
        "the same, balanced, C=10": balanced,
    }
    found = {"fewshot": (probabilities, ours.threshold_), "fewshot, threshold 0.5": (probabilities, 0.5)}
    found |= {
        name: (OneVsRestClassifier(model).fit(units, y).predict_proba(asked), 0.5) for name, model in theirs.items()
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # classes that a fold has no example of
        folds = KFold(5, shuffle=True, random_state=0)
        left_out = cross_val_predict(OneVsRestClassifier(balanced), units, y, cv=folds, method="predict_proba")
    scores = {t: f1_score(y, left_out >= t, average="micro", zero_division=0) for t in np.arange(0.1, 0.9, 0.02)}
    name, probabilities = "the same, its threshold cross-validated", found["the same, balanced, C=10"][0]
    return found | {name: (probabilities, max(scores, key=scores.__getitem__))}


def quality(probabilities: np.ndarray, truth: np.ndarray, threshold: float) -> dict[str, float]:
    answered = probabilities >= threshold
    bins = np.minimum((probabilities.ravel() * 10).astype(int), 9)
    gap = np.array([(probabilities.ravel() - truth.ravel())[bins == n].sum() for n in range(10)])
    return {
        "micro_f1": f1_score(truth, answered, average="micro", zero_division=0),
        "macro_f1": f1_score(truth, answered, average="macro", zero_division=0),
        "map": average_precision_score(truth, probabilities, average="macro"),
        "ece": float(np.abs(gap).sum() / truth.size),
    }


def markdown(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| encoder | data | shots | method | micro F1 | macro F1 | mAP | ECE |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        cells = [f"{100 * r[key]:.1f}" for key in ("macro_f1", "map", "ece")]
        micro = f"{100 * r['micro_f1']:.1f} ± {100 * r['ci95']:.1f}"
        lines.append(f"| {r['encoder']} | {r['data']} | {r['shots']} | {r['method']} | {micro} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
