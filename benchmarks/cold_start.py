"""A fresh process: processor seconds and memory of `fewshot predict` of one picture, beside an import of torch.

    python benchmarks/cold_start.py
    python benchmarks/cold_start.py --other COMMIT       # and an older commit, in the same rounds

Bundled encoder, one thread. Rounds are interleaved; medians. `predict` and `classes` are ended processes, with their
user and system time and peak resident memory; of `serve`, resident memory and time a second after its page was read.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from common import ROOT, save

REFERENCE = "import torch"
# In a process of its own, as a child's peak memory begins with its parent's.
PICTURES = """
from PIL import Image
from sklearn.datasets import load_sample_images
for label, pixels in zip(("temple", "flower"), load_sample_images().images):
    Image.fromarray(pixels).save(f"{label}.jpg")
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--other", metavar="COMMIT", help="another commit of this repository")
    parser.add_argument("--no-save", action="store_true", help="print the result only")
    options = parser.parse_args()
    checkouts = {"this": ROOT}
    measured: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        if options.other:
            checkouts["other"] = checkout(options.other, Path(temporary, "other"))
        # Each has a registry of its own: an older commit does not read what a newer one has written.
        made = {name: example(place, Path(temporary, f"of {name}")) for name, place in checkouts.items()}
        fewshot = [sys.executable, "-m", "fewshot"]
        for _ in range(options.rounds):
            measured.setdefault(REFERENCE, []).append(ended([sys.executable, "-c", REFERENCE], ROOT))
            for name, place in checkouts.items():
                registry, image = made[name]
                for command in (["predict", registry, image], ["classes", registry]):
                    key = command[0] if name == "this" else f"{command[0]}, other"
                    measured.setdefault(key, []).append(ended([*fewshot, *command], place))
                key = "serve" if name == "this" else "serve, other"
                measured.setdefault(key, []).append(idle_server([*fewshot, "serve", registry, "--port", "0"], place))
    medians = {
        key: {name: round(statistics.median(run[name] for run in runs), 2) for name in runs[0]}
        for key, runs in measured.items()
    }
    for row in medians.values():
        row["cpu_ratio"] = round(row["cpu_seconds"] / medians[REFERENCE]["cpu_seconds"], 2)
        row["memory_ratio"] = round(row.get("peak_mb", row.get("resident_mb", 0)) / medians[REFERENCE]["peak_mb"], 2)
    result: dict[str, Any] = {"rounds": options.rounds, "reference": REFERENCE, "medians": medians}
    print(json.dumps(result)) if options.no_save else save("cold_start", result)


def example(checkout: Path, folder: Path) -> tuple[str, str]:
    """Make a registry of two classes, and a picture, of the photographs that scikit-learn ships."""
    folder.mkdir()
    subprocess.run([sys.executable, "-c", PICTURES], cwd=folder, check=True)
    registry, picture = str(folder / "two.fewshot"), str(folder / "flower.jpg")
    for label in ("temple", "flower"):
        add = [sys.executable, "-m", "fewshot", "add", registry, label, str(folder / f"{label}.jpg")]
        subprocess.run(add, cwd=checkout, env=environment(checkout), check=True, capture_output=True)
    return registry, picture


def checkout(commit: str, folder: Path) -> Path:
    """Unpack the files of a commit."""
    folder.mkdir()
    archive = subprocess.run(["git", "archive", commit], cwd=ROOT, check=True, capture_output=True).stdout
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive, check=True)
    return folder


def environment(checkout: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}


def ended(command: list[str], checkout: Path) -> dict[str, float]:
    """Run a command to its end: processor and wall seconds, and peak memory in MB."""
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=checkout, env=environment(checkout), stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with status {process.returncode}")
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes there, else in KiB
    return {
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "wall_seconds": time.perf_counter() - start,
        "peak_mb": usage.ru_maxrss * unit / 2**20,
    }


def idle_server(command: list[str], checkout: Path) -> dict[str, float]:
    """Start a server, ask it once, and read its resident memory in MB and processor seconds a second later (Linux)."""
    server = subprocess.Popen(
        command, cwd=checkout, env=environment(checkout), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert server.stdout is not None
        url = json.loads(server.stdout.readline())["url"]
        urllib.request.urlopen(url, timeout=30).read()
        time.sleep(1)
        status = Path(f"/proc/{server.pid}/status").read_text()
        ticks = Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        resident = int(re.search(r"VmRSS:\s+(\d+) kB", status)[1])  # type: ignore[index]
        return {"cpu_seconds": sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK"), "resident_mb": resident / 1024}
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
