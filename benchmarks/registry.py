"""What a registry costs to add to and to predict with, from 1,000 to 500,000 classes.

    python benchmarks/registry.py

writes benchmarks/results/registry.json. Registries of one example a class, d = 384, are filled through the store with
random unit vectors; each is measured in a process of its own, after a small one has been used there, so that memory and
processor time are the registry's. Predictions are of vectors. Adds of five images to registries of 10 and of 100,000
classes go round these in turn; their encoder is a stand-in that takes next to no time.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import resource
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import faiss
import numpy as np
import torch

from fewshot import ClassRegistry
from fewshot.registry.store import NewExample, RegistryStore

RESULTS = Path(__file__).parent / "results" / "registry.json"
SIZES = (1_000, 10_000, 100_000, 500_000)
ADDED_TO = (10, 100_000)
SHOTS = 5  # images in each timed add
DIM = 384
ROWS = 10_000  # inserted at once


class Encoder:
    """A vector drawn from an image's own bytes."""

    dim = DIM
    fingerprint = "random of d=384"

    def encode(self, images: Iterable) -> np.ndarray:
        """Embed n images: (n, d)."""
        seeds = [int.from_bytes(hashlib.sha256(np.asarray(image).tobytes()).digest()[:8], "big") for image in images]
        return unit(np.stack([np.random.default_rng(seed).standard_normal(DIM, np.float32) for seed in seeds]))


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def image(number: int) -> np.ndarray:
    """A noisy image of 64 x 64, no two alike."""
    return np.random.default_rng(number).integers(0, 256, (64, 64, 3), dtype=np.uint8)


def build(path: Path, classes: int) -> None:
    """Fill a registry with ``classes`` classes of one example each, straight through its store."""
    with ClassRegistry(path, encoder=Encoder()) as registry:
        registry.add("first", [image(0)])
    rng = np.random.default_rng(1)
    store = RegistryStore(path, create=False)
    with store.write(append=True):
        for start in range(1, classes, ROWS):
            vectors = unit(rng.standard_normal((min(ROWS, classes - start), DIM), np.float32))
            store.insert(
                NewExample(f"class {n}", hashlib.sha256(str(n).encode()).digest(), f"{n}.png", None, vector, None)
                for n, vector in enumerate(vectors, start)
            )
    store.close()


def timed(work: Callable[[], object]) -> dict[str, float]:
    """Milliseconds, by the clock and of the processor."""
    start, busy = time.perf_counter(), time.process_time()
    work()
    return {"ms": 1e3 * (time.perf_counter() - start), "processor_ms": 1e3 * (time.process_time() - busy)}


def median(times: Iterable[dict[str, float]]) -> dict[str, float]:
    found = list(times)
    return {name: round(statistics.median(one[name] for one in found), 2) for name in found[0]}


def memory() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def predictions(path: Path) -> dict[str, object]:
    """Measure predictions with one registry, in this process."""
    query, many = (
        unit(np.random.default_rng(seed).standard_normal((n, DIM), np.float32)) for seed, n in ((5, 1), (6, 64))
    )
    with tempfile.TemporaryDirectory() as folder, ClassRegistry(Path(folder, "warm"), encoder=Encoder()) as warm:
        warm.add_labelled([(image(n), f"class {n // 2}") for n in range(8)])
        warm.predict_vectors(query)
        warm.predict_vectors(many)
    before = memory()
    registry = ClassRegistry(path, encoder=Encoder())
    vectors = 4 * DIM * registry.info().examples
    first = timed(lambda: registry.predict_vectors(query))
    multiple = (memory() - before) / vectors
    results: dict[str, object] = {
        "vectors_megabytes": round(vectors / 1e6, 1),
        "memory_multiple": round(multiple, 2),
        "first_predict": {name: round(value, 2) for name, value in first.items()},
        "predict": median(timed(lambda: registry.predict_vectors(query)) for _ in range(9)),
        "predict_64": median(timed(lambda: registry.predict_vectors(many)) for _ in range(5)),
    }

    def after_adds(start: int) -> dict[str, float]:
        times = []
        for n in range(start, start + 7):
            registry.add(f"new {n}", [image(n)])
            times.append(timed(lambda: registry.predict_vectors(query)))
        return median(times)

    results["predict_after_add"] = after_adds(1_000_000)
    results["memory_multiple_after_adds"] = round((memory() - before) / vectors, 2)
    results["estimate_threshold"] = median([timed(lambda: registry.rejection.set(0.05))])
    results["predict_after_add_with_threshold"] = after_adds(2_000_000)
    registry.close()
    return results


def adds(folder: Path, repetitions: int) -> dict[str, dict[str, float]]:
    """Add a class of five to registries of 10 and of 100,000 classes in turn, so that a busy machine slows both."""
    registries = {size: ClassRegistry(folder / f"{size}.fewshot", encoder=Encoder()) for size in ADDED_TO}
    times: dict[int, list[dict[str, float]]] = {size: [] for size in ADDED_TO}
    number = 3_000_000
    for repetition in range(repetitions + 3):  # the first three warm up
        for size in ADDED_TO if repetition % 2 else ADDED_TO[::-1]:
            some = [image(number + shot) for shot in range(SHOTS)]
            number += SHOTS
            took = timed(lambda r=registries[size], some=some, n=number: r.add(f"new {n}", some))
            registries[size].remove(f"new {number}")  # so that 10 stay 10
            if repetition >= 3:
                times[size].append(took)
    for registry in registries.values():
        registry.close()
    return {str(size): median(found) for size, found in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=200, help="of the adds")
    parser.add_argument("--threads", type=int, default=1, help="so that processor time is that of the work")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--of", type=Path, help=argparse.SUPPRESS)  # measure this one, in this process
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    faiss.omp_set_num_threads(given.threads)
    if given.of is not None:
        print(json.dumps(predictions(given.of)))
        return
    load = os.getloadavg()[0]
    measured: dict[str, object] = {}
    environment = {**os.environ, "OMP_NUM_THREADS": str(given.threads), "MKL_NUM_THREADS": str(given.threads)}
    with tempfile.TemporaryDirectory() as folder:
        for size in sorted({*given.sizes, *ADDED_TO}):
            path = Path(folder, f"{size}.fewshot")
            build(path, size)
            if size in given.sizes:
                words = [sys.executable, __file__, "--of", str(path), "--threads", str(given.threads)]
                done = subprocess.run(words, check=True, capture_output=True, text=True, env=environment)
                measured[str(size)] = json.loads(done.stdout)
                print(size, measured[str(size)], file=sys.stderr)
            if size not in ADDED_TO:
                path.unlink()
        added = adds(Path(folder), given.repetitions)
    report = {
        "d": DIM,
        "examples_per_class": 1,
        "classes": measured,
        "add_class_of_5": added,
        "add_ratio_100000_to_10": {
            name: round(added["100000"][name] / added["10"][name], 3) for name in ("ms", "processor_ms")
        },
        "repetitions": given.repetitions,
        "command": f"python benchmarks/registry.py --repetitions {given.repetitions}",
        "versions": {
            "python": platform.python_version(),
            "sqlite": sqlite3.sqlite_version,
            "numpy": np.__version__,
            "torch": torch.__version__,
            "faiss": faiss.__version__,
        },
        "machine": f"{os.cpu_count()} {platform.machine()} cores, torch using {given.threads}",
        "load_average_at_start": round(load, 1),
    }
    RESULTS.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
