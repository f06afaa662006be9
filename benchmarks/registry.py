"""What a registry of 10, 1,000 and 100,000 classes costs to add to, to open and to ask.

    python benchmarks/registry.py

writes benchmarks/results/registry.json. The encoder is a stand-in of d = 384 that takes next to no time, so that what
is left is the registry's own. The registries are open side by side, and the adds go round them in turn, so that a busy
machine slows all alike.
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
SIZES = (10, 1_000, 100_000)
SHOTS = 5  # pictures in each timed add
DIM = 384


class Encoder:
    """A vector drawn from a picture's own bytes."""

    dim = DIM
    fingerprint = "random of d=384"

    def encode(self, images: Iterable) -> np.ndarray:
        """Embed n pictures: (n, d)."""
        seeds = [int.from_bytes(hashlib.sha256(np.asarray(image).tobytes()).digest()[:8], "big") for image in images]
        return np.stack([np.random.default_rng(seed).standard_normal(DIM, dtype=np.float32) for seed in seeds])


def picture(number: int) -> np.ndarray:
    """A noisy picture of 64 x 64, no two alike."""
    return np.random.default_rng(number).integers(0, 256, (64, 64, 3), dtype=np.uint8)


def build(path: Path, classes: int) -> None:
    """Fill a registry with ``classes`` classes of one example each, straight through its store."""
    with ClassRegistry(path, encoder=Encoder()) as registry:
        registry.add("first", [picture(0)])
    vectors = np.random.default_rng(1).standard_normal((classes, DIM), dtype=np.float32)
    store = RegistryStore(path, create=False)
    with store.write(append=True):
        store.insert(
            NewExample(f"class {n}", hashlib.sha256(str(n).encode()).digest(), f"{n}.png", None, vectors[n], b"x" * 500)
            for n in range(1, classes)
        )
    store.close()


def timed(work: Callable[[], object]) -> float:
    """Milliseconds."""
    start = time.perf_counter()
    work()
    return 1e3 * (time.perf_counter() - start)


def measure(folder: Path, repetitions: int) -> dict[int, dict[str, float]]:
    paths = {size: folder / f"{size}.fewshot" for size in SIZES}
    results: dict[int, dict[str, float]] = {}
    for size, path in paths.items():
        seconds = timed(lambda path=path, size=size: build(path, size)) / 1e3
        results[size] = {"build_seconds": seconds, "file_megabytes": path.stat().st_size / 1e6}
    registries, number = {}, 1_000_000
    for size, path in paths.items():
        opens = []
        for _ in range(20):
            opens.append(timed(lambda path=path: ClassRegistry(path, encoder=Encoder()).close()))
        registries[size] = ClassRegistry(path, encoder=Encoder())
        results[size]["open_ms"] = statistics.median(opens)
        results[size]["classes_ms"] = statistics.median(timed(registries[size].classes) for _ in range(5))
    adds: dict[int, list[float]] = {size: [] for size in SIZES}
    processor: dict[int, list[float]] = {size: [] for size in SIZES}
    for repetition in range(repetitions + 3):  # the first three warm up
        for size in SIZES if repetition % 2 else SIZES[::-1]:
            pictures = [picture(number + shot) for shot in range(SHOTS)]
            number += SHOTS
            busy = time.process_time()
            took = timed(lambda r=registries[size], p=pictures, n=number: r.add(f"new {n}", p))
            busy = 1e3 * (time.process_time() - busy)
            registries[size].remove(f"new {number}")  # so that 10 stay 10
            if repetition >= 3:
                adds[size].append(took)
                processor[size].append(busy)
    query = [picture(number)]
    for size, registry in registries.items():
        results[size]["add_ms"] = statistics.median(adds[size])
        results[size]["add_processor_ms"] = statistics.median(processor[size])  # without waiting for disk and others
        results[size]["first_predict_ms"] = timed(lambda r=registry: r.predict(query))
        results[size]["predict_ms"] = statistics.median(timed(lambda r=registry: r.predict(query)) for _ in range(9))
        after = []
        for _ in range(9):
            number += SHOTS
            registry.add(f"new {number}", [picture(number + shot) for shot in range(SHOTS)])
            after.append(timed(lambda r=registry: r.predict(query)))
        results[size]["predict_after_add_ms"] = statistics.median(after)
        registry.close()
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=200)
    given = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        with ClassRegistry(Path(folder) / "warm.fewshot", encoder=Encoder()) as warm:  # imports
            warm.add("a", [picture(1)])
            warm.predict([picture(2)])
        results = measure(Path(folder), given.repetitions)
    ratios = {
        name: round(results[SIZES[-1]][name] / results[SIZES[0]][name], 3) for name in ("add_ms", "add_processor_ms")
    }
    report = {
        "ratio_100000_to_10": ratios,
        "repetitions": given.repetitions,
        "pictures_per_add": SHOTS,
        "examples_per_class_built": 1,
        "d": DIM,
        "classes": {str(size): {k: round(v, 3) for k, v in row.items()} for size, row in results.items()},
        "peak_memory_megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "command": f"python benchmarks/registry.py --repetitions {given.repetitions}",
        "versions": {
            "python": platform.python_version(),
            "sqlite": sqlite3.sqlite_version,
            "numpy": np.__version__,
            "torch": torch.__version__,
            "faiss": faiss.__version__,
        },
        "machine": f"{os.cpu_count()} {platform.machine()} cores, torch using {torch.get_num_threads()}",
        "load_average_at_start": round(load, 1),
    }
    RESULTS.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
