"""A bundle of `fewshot export --onnx` beside its registry: answers, sizes, speed, memory and the start of a process.

    python benchmarks/export.py                        # mobilenetv2 and pocket, 2,000 queries
    python benchmarks/export.py --queries 200 --rounds 1 --no-save

Tiny ImageNet's test classes, 20 of them with 5 images each; queries are other images of these. Rounds are interleaved,
medians; each measurement is a process of its own. What int8 could be was chosen on its training classes: "int8_choices"
are answers for 400 images of 20 of these, by graphs with 8-bit weights, and with 8-bit activations too.
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
# Each is run with a path and the list of images as arguments, and prints the seconds, and those of all cores, of a
# second pass over the images. Other processes slow down the first, hardly the second.
TIMED = """
import json, sys, time
path, images = sys.argv[1], json.load(open(sys.argv[2]))
{make}
answer(images[:64])
start, before = time.perf_counter(), time.process_time()
answer(images)
print(json.dumps([time.perf_counter() - start, time.process_time() - before]))
"""
RECOGNIZER = "from fewshot.runtime import Recognizer\nanswer = Recognizer(path).predict"
MAKERS = {
    "bundle": RECOGNIZER,
    "bundle int8": RECOGNIZER,
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
    support, queries, labels = examples(folder, "test", n_queries)
    float32 = TimmEncoder(encoder, precision="float32")
    registry_file = folder / "r.fewshot"
    bundles = {"bundle": folder / "b.zip", "bundle int8": folder / "b8.zip"}
    with ClassRegistry(registry_file, encoder=float32) as registry:
        for label, images in support.items():
            registry.add(label, images)
        registry.rejection.set(max_false_accept=0.1)
        start = time.perf_counter()
        reports = {name: export_bundle(registry, path, int8="int8" in name) for name, path in bundles.items()}
        export_seconds = time.perf_counter() - start
        wanted = registry.predict(queries, nearest=0)
    answers = {name: Recognizer(path).predict(queries) for name, path in bundles.items()} | {"registry": wanted}
    top1 = {name: np.array([one.top[0][0] for one in some]) for name, some in answers.items()}
    listed = folder / "queries.json"
    listed.write_text(json.dumps(queries[: max(64, n_queries // 8)]))
    n = len(json.loads(listed.read_text()))
    seconds: dict[str, list[list[float]]] = {}
    cold: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, make in MAKERS.items():
            path = bundles.get(name, registry_file)
            seconds.setdefault(name, []).append(run(TIMED.format(make=make), str(path), str(listed)))
        for name, path in {**bundles, "registry": registry_file}.items():
            start = time.perf_counter()
            command = [sys.executable, "-m", "fewshot", "predict", str(path), queries[0]]
            subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
            cold.setdefault(name, []).append(time.perf_counter() - start)
    kept = reports["bundle int8"].leave_one_out
    return {
        "same_top1": {name: float(np.mean(top1[name] == top1["registry"])) for name in bundles},
        "same_answer": {
            name: float(np.mean([a.label == b.label for a, b in zip(answers[name], wanted, strict=True)]))
            for name in bundles
        },
        "largest_score_difference": {
            name: max(abs(a.score - b.score) for a, b in zip(answers[name], wanted, strict=True)) for name in bundles
        },
        "accuracy": {name: float(np.mean(some == labels)) for name, some in top1.items()},
        "leave_one_out": {"float32": kept.own, "int8": kept.other, "examples": kept.n},
        "bundle_bytes": {name: report.size for name, report in reports.items()},
        "export_seconds": export_seconds,
        "images_per_second": {name: n / statistics.median(np.array(some)[:, 0]) for name, some in seconds.items()},
        "core_milliseconds_per_image": {
            name: 1e3 * statistics.median(np.array(some)[:, 1]) / n for name, some in seconds.items()
        },
        "cold_predict_seconds": {name: statistics.median(some) for name, some in cold.items()},
        "runtime_peak_mib": {name: run(PEAK, str(path), *queries[:64]) for name, path in bundles.items()},
        "int8_choices": int8_choices(float32, folder),
    }


def int8_choices(encoder: Any, folder: Path) -> dict[str, dict[str, float]]:
    """Compare graphs in int8 with that in float32: top-1 answers, each from its own embeddings of the support."""
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    from fewshot import WhitenedPrototypeClassifier
    from fewshot.encoders import export_encoder, with_int8_weights
    from fewshot.runtime.graph_session import GraphSession

    support, queries, _ = examples(folder, "train", 400)
    exported = export_encoder(encoder)
    known = [(label, path) for label, paths in support.items() for path in paths]
    pixels = {
        name: np.stack([exported.preparation(path) for path in paths])
        for name, paths in {"support": [path for _, path in known], "queries": queries}.items()
    }

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.at = 0

        def get_next(self) -> dict[str, Any] | None:
            some = pixels["support"][self.at : self.at + 4]
            self.at += 4
            return {"pixels": some} if len(some) else None

    plain, prepared, static = (folder / name for name in ("plain.onnx", "prepared.onnx", "static.onnx"))
    plain.write_bytes(exported.graph)
    quant_pre_process(plain, prepared, skip_symbolic_shape=True)
    graphs = {"float32": exported.graph, "int8 weights": with_int8_weights(exported.graph)}
    chosen = {"calibrate_method": CalibrationMethod.Percentile, "extra_options": {"CalibPercentile": 99.99}}
    quantize_static(prepared, static, Reader(), per_channel=True, **chosen)
    graphs["int8 weights and activations"] = static.read_bytes()
    found, answers = {}, {}
    for name, graph in graphs.items():
        session = GraphSession(graph)
        vectors = {
            of: np.concatenate([session.embed(some[at : at + 8], encoder.dim) for at in range(0, len(some), 8)])
            for of, some in pixels.items()
        }
        fitted = WhitenedPrototypeClassifier().fit(vectors["support"], [label for label, _ in known])
        answers[name] = fitted.predict(vectors["queries"])
        same = np.mean(answers[name] == answers["float32"])
        found[name] = {"same_top1": float(same), "graph_bytes": len(graph)}
    return found


def examples(folder: Path, split: str, n_queries: int) -> tuple[dict[str, list[str]], list[str], list[str]]:
    """Write JPEG files: those of the support by class, and queries with their labels."""
    from fewshot import load_dataset, open_image

    data = load_dataset("tiny-imagenet", split=split)
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


def run(code: str, *arguments: str) -> Any:
    """Run code in a process of its own; returns the JSON that it prints."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], check=True, capture_output=True, text=True, env=environment
    )
    return json.loads(done.stdout)


if __name__ == "__main__":
    main()
