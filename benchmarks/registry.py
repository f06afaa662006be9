"""What a registry costs to add to and to predict with, from 1,000 to 1,000,000 classes.

    python benchmarks/registry.py

writes benchmarks/results/registry.json. Registries of d = 384 are filled through the store with random unit vectors,
one a class or several around one; each is measured in a process of its own, after a small one has been used there, so
that memory and time are the registry's. Predictions are of vectors; beside them stands the bare product of as many
queries with as many classes in NumPy. Adds of five images to each registry and to one of 10 classes go round these in
turn; their encoder is a stand-in that takes next to no time.
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
SIZES = ("1000", "10000", "10000x5", "100000", "1000000")
ADDED_TO = "10"
SHOTS = 5  # images in each timed add
DIM = 384
ROWS = 10_000  # inserted at once
SPREAD = 0.03  # of each number of a class's examples
ASKED = 256  # questions of each kind, for the recall


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


class Source:
    """Vectors of classes, of their examples and of anything else: random, or mixed of embeddings."""

    def __init__(self, path: Path | None, seed: int) -> None:
        self.rng, self.embeddings = np.random.default_rng(seed), None
        if path is not None:
            with np.load(path) as file:
                vectors, labels = unit(file["X"]), np.unique(file["y"], return_inverse=True)[1]
            if vectors.shape[1] != DIM:
                raise SystemExit(f"{path} holds embeddings of d={vectors.shape[1]}, this needs d={DIM}")
            order = np.argsort(labels, kind="stable")
            known = labels[order] >= labels.max() // 10
            self.embeddings, self.labels = vectors[order[known]], labels[order[known]]
            self.others = vectors[order[~known]]

    def classes(self, n: int) -> np.ndarray:
        """Vectors of n new classes."""
        if self.embeddings is None:
            return unit(self.rng.standard_normal((n, DIM), np.float32))
        one, other = self.embeddings[self.rng.integers(0, len(self.embeddings), (2, n))]
        share = self.rng.uniform(0.5, 1.0, (n, 1)).astype(np.float32)
        return unit(share * one + (1 - share) * other + self.differences(n) / 2)

    def examples(self, own: np.ndarray) -> np.ndarray:
        """One more of each class."""
        if self.embeddings is None:
            return unit(own + SPREAD * self.rng.standard_normal(own.shape, np.float32))
        return unit(own + np.float32(0.7) * self.differences(len(own)))

    def unknown(self, n: int) -> np.ndarray:
        """N vectors of no class."""
        if self.embeddings is None:
            return self.classes(n)
        return self.others[self.rng.integers(0, len(self.others), n)]

    def differences(self, n: int) -> np.ndarray:
        """Of two embeddings of one class, n times."""
        one = self.rng.integers(0, len(self.labels), n)
        first, last = (np.searchsorted(self.labels, self.labels[one], side=side) for side in ("left", "right"))
        return self.embeddings[one] - self.embeddings[self.rng.integers(first, last)]


def build(path: Path, classes: int, shots: int, embeddings: Path | None) -> None:
    """Fill a registry with ``classes`` classes of ``shots`` examples each, straight through its store."""
    with ClassRegistry(path, encoder=Encoder()) as registry:
        registry.add("first", [image(0)])
    source = Source(embeddings, 1)
    store = RegistryStore(path, create=False)
    with store.write(append=True):
        for start in range(1, classes, ROWS):
            own = source.classes(min(ROWS, classes - start))
            for shot in range(shots):
                vectors = own if shots == 1 else source.examples(own)
                store.insert(
                    NewExample(
                        f"class {n}",
                        hashlib.sha256(f"{n} {shot}".encode()).digest(),
                        f"{n} {shot}.png",
                        None,
                        vector,
                        None,
                    )
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


def most_memory() -> int:
    """Bytes of this process that were in memory at most."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def predictions(path: Path, embeddings: Path | None) -> dict[str, object]:
    """Measure predictions with one registry, in this process."""
    source = Source(embeddings, 5)
    query, many = source.unknown(1), source.unknown(64)
    with tempfile.TemporaryDirectory() as folder, ClassRegistry(Path(folder, "warm"), encoder=Encoder()) as warm:
        warm.add_labelled([(image(n), f"class {n // 2}") for n in range(8)])
        warm.rejection.set(0.5)
        warm.predict_vectors(query)
        warm.predict_vectors(many)
    before = memory()
    registry = ClassRegistry(path, encoder=Encoder())
    info = registry.info()
    vectors = 4 * DIM * info.examples
    first = timed(lambda: registry.predict_vectors(query))
    waited = seconds_until_indexed(registry, query)
    results: dict[str, object] = {
        "seconds_until_indexed": round(waited, 1),
        "examples": info.examples,
        "vectors_megabytes": round(vectors / 1e6, 1),
        "first_predict": {name: round(value, 2) for name, value in first.items()},
        "predict": median(timed(lambda: registry.predict_vectors(query)) for _ in range(9)),
        "predict_64": median(timed(lambda: registry.predict_vectors(many)) for _ in range(3)),
        "memory_multiple": round((memory() - before) / vectors, 2),
        "peak_memory_multiple": round((most_memory() - before) / vectors, 2),
    }

    def after(change: Callable[[int], object], numbers: Iterable[int]) -> dict[str, float]:
        times = []
        for n in numbers:
            change(n)
            times.append(timed(lambda: registry.predict_vectors(query)))
        return median(times)

    def add(n: int) -> None:
        registry.add(f"new {n}", [image(n)])

    results["predict_after_add"] = after(add, range(1_000_000, 1_000_007))
    results["estimate_threshold"] = median([timed(lambda: registry.rejection.set(0.05))])
    results["predict_after_add_with_threshold"] = after(add, range(2_000_000, 2_000_007))
    results["memory_multiple_after_adds"] = round((memory() - before) / vectors, 2)
    results["predict_after_rename"] = after(
        lambda n: registry.rename(f"new {n}", f"newer {n}"), range(2_000_000, 2_000_003)
    )
    results["predict_after_remove"] = after(lambda n: registry.remove(f"newer {n}"), range(2_000_000, 2_000_003))
    results["memory_multiple_after_removals"] = round((memory() - before) / vectors, 2)
    results["peak_memory_multiple_after_removals"] = round((most_memory() - before) / vectors, 2)
    registry.close()
    with ClassRegistry(path, encoder=Encoder()) as again:
        return results | against_all(again, source) | {"classes": info.classes}


def seconds_until_indexed(registry: ClassRegistry, asked: np.ndarray) -> float:
    """Ask a second question, with which an index is begun, and wait for that."""
    registry.predict_vectors(asked)
    begin = time.perf_counter()
    while not registry.settled:
        time.sleep(0.01)
    return time.perf_counter() - begin


def against_all(registry: ClassRegistry, source: Source) -> dict[str, object]:
    """Compare answers by the index with those of comparing all classes, which the first question does."""
    some = [
        registry.export_page(after=int(n), limit=1) for n in source.rng.integers(0, registry.info().examples, ASKED)
    ]
    asked = np.concatenate([source.examples(np.stack([one.vector for (one,) in some])), source.unknown(ASKED)])
    exact = registry.predict_vectors(asked)
    seconds_until_indexed(registry, asked[:1])
    found = registry.predict_vectors(asked)
    same = [a.top[0][0] == b.top[0][0] for a, b in zip(exact, found, strict=True)]
    apart = {
        name: np.abs([getattr(a, name) - getattr(b, name) for a, b in zip(exact, found, strict=True)])
        for name in ("probability", "unknown_score")
    }
    return {
        "recall": {"known": float(np.mean(same[:ASKED])), "unknown": float(np.mean(same[ASKED:]))},
        "apart": {
            name: {"99 %": round(float(np.quantile(gaps, 0.99)), 5), "most": round(float(gaps.max()), 5)}
            for name, gaps in apart.items()
        },
    }


def products(classes: int) -> dict[str, dict[str, float]]:
    """Measure the bare products of one and of 64 queries with so many classes."""
    rng = np.random.default_rng(7)
    known, many = rng.standard_normal((classes, DIM), np.float32), rng.standard_normal((64, DIM), np.float32)
    return {
        name: median(timed(lambda asked=asked: asked @ known.T) for _ in range(9))
        for name, asked in (("numpy_product", many[:1]), ("numpy_product_64", many))
    }


def measured_here(path: Path, embeddings: Path | None) -> dict[str, object]:
    """Measure one registry, then the products that it is compared with."""
    found = predictions(path, embeddings)
    bare = products(found["classes"])
    ratios = {
        "predict_to_numpy": found["predict"]["ms"] / bare["numpy_product"]["ms"],
        "predict_64_to_numpy": found["predict_64"]["ms"] / bare["numpy_product_64"]["ms"],
    }
    return found | bare | {name: round(ratio, 2) for name, ratio in ratios.items()}


def adds(paths: dict[str, Path], repetitions: int) -> dict[str, dict[str, float]]:
    """Add a class of five to each registry in turn, so that a busy machine slows all."""
    registries = {name: ClassRegistry(path, encoder=Encoder()) for name, path in paths.items()}
    times: dict[str, list[dict[str, float]]] = {name: [] for name in paths}
    number = 3_000_000
    for repetition in range(repetitions + 3):  # the first three warm up
        for name in list(paths)[:: 1 if repetition % 2 else -1]:
            some = [image(number + shot) for shot in range(SHOTS)]
            number += SHOTS
            took = timed(lambda r=registries[name], some=some, n=number: r.add(f"new {n}", some))
            registries[name].remove(f"new {number}")  # so that 10 stay 10
            if repetition >= 3:
                times[name].append(took)
    for registry in registries.values():
        registry.close()
    return {name: median(found) for name, found in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=60, help="of the adds")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument(
        "--sizes", nargs="+", default=SIZES, help="classes, or, as in 10000x5, classes and examples of each"
    )
    parser.add_argument("--embeddings", type=Path, help="to mix classes of: .npz with X (n, 384) and y; else random")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--of", type=Path, help=argparse.SUPPRESS)  # measure this one, in this process
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    faiss.omp_set_num_threads(given.threads)
    if given.of is not None:
        print(json.dumps(measured_here(given.of, given.embeddings)))
        return
    load, begin = os.getloadavg()[0], time.perf_counter()
    measured: dict[str, object] = {}
    environment = {**os.environ, "OMP_NUM_THREADS": str(given.threads), "MKL_NUM_THREADS": str(given.threads)}
    with tempfile.TemporaryDirectory() as folder:
        paths = {size: Path(folder, f"{size}.fewshot") for size in [ADDED_TO, *given.sizes]}
        for size, path in paths.items():
            classes, _, shots = size.partition("x")
            build(path, int(classes), int(shots or 1), given.embeddings)
            if size in given.sizes:
                words = [sys.executable, __file__, "--of", str(path), "--threads", str(given.threads)]
                words += [] if given.embeddings is None else ["--embeddings", str(given.embeddings)]
                done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True, env=environment)
                measured[size] = json.loads(done.stdout)
                print(size, measured[size], file=sys.stderr)
        added = adds(paths, given.repetitions)
    report = {
        "d": DIM,
        "classes": measured,
        "add_class_of_5": added,
        "add_ratio_to_10": {
            size: {name: round(times[name] / added[ADDED_TO][name], 3) for name in times}
            for size, times in added.items()
        },
        "repetitions": given.repetitions,
        "command": f"python benchmarks/registry.py --sizes {' '.join(given.sizes)} --repetitions {given.repetitions} "
        f"--threads {given.threads}" + (f" --embeddings {given.embeddings.name}" if given.embeddings else ""),
        "seconds": round(time.perf_counter() - begin),
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
    given.out.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
