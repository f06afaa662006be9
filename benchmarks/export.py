"""A bundle of `fewshot export --onnx` beside its registry: answers, sizes, speed, memory and the start of a process.

    python benchmarks/export.py                        # mobilenetv2 and pocket, 2,000 queries
    python benchmarks/export.py --queries 200 --rounds 1 --no-save

Tiny ImageNet's test classes, 20 of them with 5 images each; queries are other images of these. Rounds are interleaved,
medians; each measurement is a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import ROOT, save, shared_file

WAYS, SHOTS = 20, 5
# Each is run with a path and the list of images as arguments, and prints the seconds of a second pass over the images.
TIMED = """
import json, sys, time
path, images = sys.argv[1], json.load(open(sys.argv[2]))
{make}
answer(images[:64])
start = time.perf_counter()
answer(images)
print(json.dumps(time.perf_counter() - start))
"""
MAKERS = {
    "bundle": "from fewshot.runtime import Recognizer\nanswer = Recognizer(path).predict",
    "registry": "from fewshot import ClassRegistry\nanswer = ClassRegistry(path).predict",
    # What is usually written: timm's own transform, one batch after the other, one process.
    "usual loop": """
import timm, torch
from PIL import Image
import fewshot.encoders.architectures.registration
from fewshot import ClassRegistry
name = ClassRegistry(path).info().encoder["name"]
from fewshot.encoders import POCKET
name = f"local-dir:{POCKET}" if name == "pocket" else name
net = timm.create_model(name, pretrained=True, num_classes=0).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(net))
def answer(s):
    with torch.inference_mode():
        for at in range(0, len(s), 32):
            net(torch.stack([transform(Image.open(p).convert("RGB")) for p in s[at:at + 32]]))
""",
}
# Linux's VmHWM begins anew with a program; getrusage's peak with that of the parent.
PEAK = """
import sys
from fewshot.runtime import Recognizer
Recognizer(sys.argv[1]).predict(sys.argv[2:])
print(next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) / 1024)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-save", action="store_true", help="print the result only")
    options = parser.parse_args()
    encoders = {"pocket": "pocket", "mobilenetv2": f"local-dir:{shared_file('weights', 'mobilenetv2_100.tf_in1k')}"}
    rows = {}
    with tempfile.TemporaryDirectory() as temporary:
        for name, encoder in encoders.items():
            rows[name] = measured(encoder, Path(temporary, name), options.queries, options.rounds)
    result = {"ways": WAYS, "shots": SHOTS, "queries": options.queries, "rounds": options.rounds, "encoders": rows}
    if options.no_save:
        print(json.dumps(result))
    else:
        save("export", result)


def measured(encoder: str, folder: Path, n_queries: int, rounds: int) -> dict[str, Any]:
    """Measure one encoder's registry and bundle."""
    from fewshot import ClassRegistry, TimmEncoder
    from fewshot.runtime import Recognizer, export_bundle

    folder.mkdir()
    support, queries, labels = examples(folder, n_queries)
    float32 = TimmEncoder(encoder, precision="float32")
    registry_file, bundle = folder / "r.fewshot", folder / "b.zip"
    with ClassRegistry(registry_file, encoder=float32) as registry:
        for label, images in support.items():
            registry.add(label, images)
        registry.rejection.set(max_false_accept=0.1)
        start = time.perf_counter()
        size = export_bundle(registry, bundle)
        export_seconds = time.perf_counter() - start
        wanted = registry.predict(queries, nearest=0)
    found = Recognizer(bundle).predict(queries)
    top1 = [[one.top[0][0] for one in some] for some in (found, wanted)]
    listed = folder / "queries.json"
    listed.write_text(json.dumps(queries[: max(64, n_queries // 4)]))
    n = len(json.loads(listed.read_text()))
    seconds: dict[str, list[float]] = {}
    cold: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, make in MAKERS.items():
            path = bundle if name == "bundle" else registry_file
            seconds.setdefault(name, []).append(run(TIMED.format(make=make), str(path), str(listed)))
        for name, path in (("bundle", bundle), ("registry", registry_file)):
            start = time.perf_counter()
            command = [sys.executable, "-m", "fewshot", "predict", str(path), queries[0]]
            subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
            cold.setdefault(name, []).append(time.perf_counter() - start)
    return {
        "same_top1": float(np.mean(np.array(top1[0]) == top1[1])),
        "same_answer": float(np.mean([a.label == b.label for a, b in zip(found, wanted, strict=True)])),
        "largest_score_difference": max(abs(a.score - b.score) for a, b in zip(found, wanted, strict=True)),
        "accuracy": {
            name: float(np.mean(np.array(some) == labels))
            for name, some in zip(("bundle", "registry"), top1, strict=True)
        },
        "bundle_bytes": size,
        "export_seconds": export_seconds,
        "images_per_second": {name: n / statistics.median(some) for name, some in seconds.items()},
        "cold_predict_seconds": {name: statistics.median(some) for name, some in cold.items()},
        "runtime_peak_mib": run(PEAK, str(bundle), *queries[:64]),
    }


def examples(folder: Path, n_queries: int) -> tuple[dict[str, list[str]], list[str], list[str]]:
    """Write JPEG files: those of the support by class, and queries with their labels."""
    from fewshot import load_dataset, open_image

    data = load_dataset("tiny-imagenet", split="test")
    labels = np.asarray(data.labels)
    support: dict[str, list[str]] = {}
    queries: list[tuple[str, str]] = []
    for label in sorted(set(labels.tolist()))[:WAYS]:
        rows = np.flatnonzero(labels == label)
        for n, row in enumerate(rows[: SHOTS + -(-n_queries // WAYS)].tolist()):
            path = folder / f"{label}-{n}.jpg"
            open_image(data.images[row]).save(path, quality=95)
            support.setdefault(label, []).append(str(path)) if n < SHOTS else queries.append((str(path), label))
    order = np.random.default_rng(0).permutation(len(queries))[:n_queries]
    return support, [queries[n][0] for n in order], [queries[n][1] for n in order]


def run(code: str, *arguments: str) -> float:
    """Run code in a process of its own; returns the number that it prints."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], check=True, capture_output=True, text=True, env=environment
    )
    return float(done.stdout)


if __name__ == "__main__":
    main()
