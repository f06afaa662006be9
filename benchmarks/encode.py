"""Pictures a second from JPEG files to vectors, against the loop everybody writes, on the same files in one run.

The loop: PIL opens, timm's transform, batches of 32, float32, eager. Ours: ``TimmEncoder.encode``, as it comes.
Rounds are interleaved and the best of each counts, so that a busy neighbour slows neither alone.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from common import save, shared_file
from PIL import Image

from fewshot import PrototypeClassifier, load_encoder

# "small": as they are, 64 x 64; "photo": the same, enlarged to the size of an ordinary web photo before saving.
SIZES = {"small": None, "photo": (500, 375)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=512, help="files a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--per-class", type=int, default=40, help="pictures of each test class, for the accuracy")
    options = parser.parse_args()
    folder = str(shared_file("weights", "mobilenetv2_100.tf_in1k"))
    encoder = load_encoder(folder)
    loop = plain_loop(folder)
    result: dict[str, Any] = {"encoder": "mobilenetv2_100.tf_in1k", "precision": encoder.resolved_precision}
    with tempfile.TemporaryDirectory() as temporary:
        for size in SIZES:
            files = jpegs(Path(temporary) / size, options.images, SIZES[size])
            result[size] = race(encoder, loop, files, options.rounds)
    result |= fidelity(folder, options.per_class)
    save("encode", result)


def plain_loop(folder: str) -> Callable[[Sequence[Path]], np.ndarray]:
    """The loop everybody writes."""
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))

    def run(files: Sequence[Path]) -> np.ndarray:
        vectors = []
        with torch.no_grad():
            for start in range(0, len(files), 32):
                batch = [transform(Image.open(file).convert("RGB")) for file in files[start : start + 32]]
                vectors.append(model(torch.stack(batch)))
        return torch.cat(vectors).numpy()

    return run


def jpegs(folder: Path, count: int, size: tuple[int, int] | None) -> list[Path]:
    """Write real photographs as JPEG files."""
    folder.mkdir()
    files = []
    with zipfile.ZipFile(shared_file("data", "tiny_imagenet", "val.zip")) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))
        for number, name in enumerate(names[:: len(names) // count][:count]):
            file = folder / f"{number}.jpg"
            if size is None:
                file.write_bytes(archive.read(name))
            else:
                picture = Image.open(io.BytesIO(archive.read(name))).convert("RGB")
                picture.resize(size, Image.Resampling.BICUBIC).save(file, quality=90)
            files.append(file)
    return files


def race(encoder: Any, loop: Callable[[Sequence[Path]], np.ndarray], files: list[Path], rounds: int) -> dict[str, Any]:
    """Best pictures a second of the loop, of ours, and of our network alone on ready tensors."""
    best = {"loop": 0.0, "ours": 0.0, "forward": 0.0}
    sizes, ways = (4, 8, 16, 32), (False, True)
    if encoder.loaded.device.type != "cpu":
        sizes, ways = (32, 64, 128), (False,)
    few = files[: max(64, len(files) // 8)]
    encoder.encode(few)
    for _ in range(rounds):
        best["forward"] = max(best["forward"], *(forward(encoder, n, alone=a) for n in sizes for a in ways))
        best["ours"] = max(best["ours"], rate(encoder.encode, files))
        best["loop"] = max(best["loop"], rate(loop, few))
    return {
        **{f"{name}_images_per_second": round(value, 1) for name, value in best.items()},
        "times_the_loop": round(best["ours"] / best["loop"], 2),
        "share_of_forward": round(best["ours"] / best["forward"], 3),
    }


def rate(function: Callable[[list[Path]], object], files: list[Path]) -> float:
    start = time.perf_counter()
    function(files)
    return len(files) / (time.perf_counter() - start)


def forward(encoder: Any, size: int, *, alone: bool, seconds: float = 0.7) -> float:
    """The bare model: our converted network on tensors that are ready, normalised and in its precision.

    ``alone``: on a CPU, each core computes batches of its own instead of all sharing one.
    """
    loaded = encoder.loaded
    dtype = torch.bfloat16 if loaded.precision == "bfloat16" else torch.float32
    x = torch.rand(size, 3, 224, 224, device=loaded.device).to(dtype).to(memory_format=torch.channels_last)

    def run() -> int:
        done = 0
        with torch.inference_mode():
            while time.perf_counter() - start < seconds:
                loaded.network(x)
                done += size
        return done

    with torch.inference_mode():
        loaded.network(x)
    start = time.perf_counter()
    if alone:
        threads = torch.get_num_threads()
        with ThreadPoolExecutor(threads, initializer=lambda: torch.set_num_threads(1)) as pool:
            done = sum(future.result() for future in [pool.submit(run) for _ in range(threads)])
        torch.set_num_threads(threads)
    else:
        done = run()
    return done / (time.perf_counter() - start)


def fidelity(folder: str, per_class: int) -> dict[str, Any]:
    """How near the fast vectors are to the float32 ones, on Tiny ImageNet's test classes."""
    pictures, labels = [], []
    with zipfile.ZipFile(shared_file("data", "tiny_imagenet", "test.zip")) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))
        classes = sorted({name.partition("/")[0] for name in names})
        for number, label in enumerate(classes):
            mine = [name for name in names if name.startswith(f"{label}/")][:per_class]
            pictures += [archive.read(name) for name in mine]
            labels += [number] * len(mine)
    exact = load_encoder(folder, precision="float32").encode(pictures)
    quick = load_encoder(folder).encode(pictures)
    cosine = (exact * quick).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(quick, axis=1)
    y = np.array(labels)
    accuracy = {name: accuracies(vectors, y) for name, vectors in (("float32", exact), ("default", quick))}
    return {
        "images_compared": len(y),
        "cosine_to_float32_mean": round(float(cosine.mean()), 5),
        "cosine_to_float32_min": round(float(cosine.min()), 5),
        "accuracy_5way_5shot_percent": {name: round(float(a.mean()) * 100, 2) for name, a in accuracy.items()},
        "accuracy_difference_points": round(float((accuracy["default"] - accuracy["float32"]).mean()) * 100, 3),
    }


def accuracies(vectors: np.ndarray, y: np.ndarray, episodes: int = 2000) -> np.ndarray:
    """5-way 5-shot, 15 queries, cosine prototypes; the same episodes whatever the vectors."""
    rng = np.random.default_rng(0)
    by_class = [np.flatnonzero(y == label) for label in range(y.max() + 1)]
    chosen = np.stack(
        [
            np.stack([rng.permutation(by_class[c])[:20] for c in rng.permutation(len(by_class))[:5]])
            for _ in range(episodes)
        ]
    )
    support, query = (
        torch.from_numpy(vectors[part.reshape(episodes, -1)]) for part in (chosen[..., :5], chosen[..., 5:])
    )
    labels = torch.arange(5).repeat_interleave(5).expand(episodes, -1)
    truth = torch.arange(5).repeat_interleave(15)
    scores = torch.cat(
        [
            PrototypeClassifier().episode_scores(support[i : i + 100], labels[i : i + 100], query[i : i + 100])
            for i in range(0, episodes, 100)
        ]
    )
    return (scores.argmax(-1) == truth).float().mean(1).numpy()


if __name__ == "__main__":
    main()
