"""Inner blocks and mirror images: whitened prototypes with ``TimmEncoder(layers="auto")`` and ``(tta=True)``.

{Tiny ImageNet, all 200 classes; Omniglot, 300 evaluation characters} x {20, 81, 200 ways} x {1, 2, 5, 10 shots}, 10
queries of each class. Within a draw all answer the same queries; a difference's interval is of the draws (Student's t).
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path
from typing import Any

import numpy as np
from calibration import ENCODERS
from common import save
from heads import DATA, DRAWS, QUERIES, SHOTS, markdown, network_of, summary
from numpy.typing import NDArray
from sklearn.preprocessing import normalize

from fewshot.classifiers import PrototypeClassifier, WhitenedPrototypeClassifier
from fewshot.datasets import load_dataset
from fewshot.episodes import EpisodeSampler

# Images of each class that are embedded, and classes of one data set at most.
_PER_CLASS, _MOST_CLASSES = 20, 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", required=True, help="folder for vectors")
    parser.add_argument("--encoders", nargs="+", default=["mobilenetv2"], choices=list(ENCODERS))
    options = parser.parse_args()
    Path(options.work).mkdir(parents=True, exist_ok=True)
    rows = []
    for encoder, title in itertools.product(options.encoders, DATA):
        X, parts, y = vectors(encoder, title, Path(options.work))
        for ways, shots in itertools.product(sorted(DRAWS), SHOTS):
            found = column(X, parts, y, ways, shots)
            rows += summary(found, dict.fromkeys((name for name, _ in found), 0), encoder=encoder, data=title,
                            ways=ways, shots=shots)  # fmt: skip
    save("views", {"queries": QUERIES, "rows": rows})
    ours = [{**row, "whitened_gain": 0.0 - row["whitened_gain"]} for row in rows]
    print(markdown(ours).replace("| on ", "| gain of "))


def vectors(encoder: str, title: str, work: Path) -> tuple[NDArray[np.float32], tuple[int, ...], NDArray[Any]]:
    """Return embeddings (n, 2, d), with layers, of images and their mirror images; the parts' sizes; the labels."""
    network = network_of(encoder, layers="auto")
    stored = work / f"views-{encoder}-{title.replace(' ', '-')}-{network.fingerprint[:12]}.npz"
    if not stored.exists():
        name, splits = DATA[title]
        images, labels = [], []
        for split in splits:
            dataset = load_dataset(name, split=split)
            names = np.array(dataset.labels, str)
            classes = np.random.default_rng(0).permutation(np.unique(names))[:_MOST_CLASSES]
            taken = np.concatenate([np.flatnonzero(names == one)[:_PER_CLASS] for one in classes])
            images += [dataset.images[n] for n in taken]
            labels += names[taken].tolist()
        mirrored = network.encode_views(images, (np.asarray, lambda pixels: np.ascontiguousarray(pixels[:, ::-1])))
        np.savez(stored, X=mirrored.vectors, y=np.array(labels))
    found = np.load(stored)
    return found["X"], network.parts, found["y"]


def column(
    X: NDArray[np.float32], parts: tuple[int, ...], y: NDArray[Any], ways: int, shots: int
) -> dict[tuple[str, int], list[float]]:
    """Return the accuracies of each variant in each draw."""
    own, layers = normalize(X[:, 0, : parts[0]]), X[:, 0]
    variants = {
        "whitened": (WhitenedPrototypeClassifier(), own),
        "prototype": (PrototypeClassifier(), own),
        "whitened + layers": (WhitenedPrototypeClassifier(parts=parts), layers),
        "whitened + views": (WhitenedPrototypeClassifier(), X[:, :, : parts[0]].mean(1)),
        "whitened + layers + views": (WhitenedPrototypeClassifier(parts=parts), X.mean(1)),
        "prototype, layers": (PrototypeClassifier(), layers),
    }
    found: dict[tuple[str, int], list[float]] = {(name, 0): [] for name in variants}
    sampler = EpisodeSampler(y, n_way=ways, n_shot=shots, n_query=QUERIES, n_episodes=DRAWS[ways][0], random_state=0)
    for chunk in sampler:
        for e in range(len(chunk)):
            for name, (classifier, Z) in variants.items():
                answers = classifier.fit(Z[chunk.support[e]], chunk.support_labels[e]).predict(Z[chunk.query[e]])
                found[name, 0].append(float((answers == chunk.query_labels[e]).mean()))
    return found


if __name__ == "__main__":
    main()
