"""The bundled encoder: accuracy on classes that it never saw, and pictures a second from files beside mobilenetv2.

    python benchmarks/pocket.py

Cosine prototypes, beside prototypes of raw pixels (16 x 16 grey levels), 15 queries of each class. Rounds of the race
are interleaved, and the best of each counts.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import save, shared_file
from encode import SIZES, jpegs, rate
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits

from fewshot import Dataset, EpisodeSampler, PrototypeClassifier, TimmEncoder, load_dataset, load_encoder, open_image
from fewshot.benchmark.runner import run_benchmark

# Data set, classes of an episode, shots.
TASKS = (("tiny-imagenet", 5, (1, 5)), ("omniglot", 20, (1, 5)), ("digits", 10, (5,)))
PARTS = {"tiny-imagenet": "test", "omniglot": "evaluation"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="pocket", help="another encoder of its kind, such as local-dir:FOLDER")
    parser.add_argument("--episodes", type=int, default=10_000)
    parser.add_argument("--images", type=int, default=512, help="files a round")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    encoder = TimmEncoder(options.encoder)
    rows = []
    for name, ways, shots in TASKS:
        data = pictures(name)
        for what, vectors in (("pocket", encoder.encode(data.images)), ("raw pixels", raw(data.images))):
            rows += [
                {
                    "data": name,
                    "vectors": what,
                    "ways": ways,
                    **measured(vectors, data.labels, ways, n, options.episodes),
                }
                for n in shots
            ]
    save("pocket", {"precision": encoder.resolved_precision, "rows": rows, "speed": race(encoder, options)})


def pictures(name: str) -> Dataset:
    """The classes of a data set that the encoder did not learn from."""
    if name in PARTS:
        return load_dataset(name, split=PARTS[name])
    scans, digits = load_digits(return_X_y=True)
    inked = (255 - scans.reshape(-1, 8, 8) * (255 / 16)).round().astype(np.uint8)
    return Dataset("digits", tuple(Image.fromarray(scan) for scan in inked), tuple(map(str, digits)))


def raw(images: Sequence[Any]) -> NDArray[np.float32]:
    """Darkness of each picture on 16 x 16 points, as a vector."""
    small = [open_image(image).convert("L").resize((16, 16), Image.Resampling.BOX) for image in images]
    return np.stack([255 - np.asarray(image, np.float32).ravel() for image in small])


def measured(
    vectors: NDArray[np.float32], labels: Sequence[str], ways: int, shots: int, episodes: int
) -> dict[str, Any]:
    sampler = EpisodeSampler(labels, n_way=ways, n_shot=shots, n_query=15, n_episodes=episodes)
    found = run_benchmark({"prototype": PrototypeClassifier()}, vectors, sampler)["prototype"]
    return {"shots": shots, "accuracy": round(100 * found.accuracy, 2), "ci95": round(100 * found.ci95, 2)}


def race(encoder: TimmEncoder, options: argparse.Namespace) -> dict[str, Any]:
    """Best pictures a second from files."""
    rival = load_encoder(str(shared_file("weights", "mobilenetv2_100.tf_in1k")))
    result = {}
    with tempfile.TemporaryDirectory() as temporary:
        for size, pixels in SIZES.items():
            files = jpegs(Path(temporary) / size, options.images, pixels)
            best = {"pocket": 0.0, "mobilenetv2": 0.0}
            for _ in range(options.rounds):
                for name, one in (("pocket", encoder), ("mobilenetv2", rival)):
                    one.encode(files[:64])
                    best[name] = max(best[name], rate(one.encode, files))
            result[size] = {
                **{f"{name}_images_per_second": round(value, 1) for name, value in best.items()},
                "times": round(best["pocket"] / best["mobilenetv2"], 2),
            }
    return result


if __name__ == "__main__":
    main()
