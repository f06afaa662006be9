"""`fewshot serve` under load: latency with many clients for minutes, and throughput against the bare encoder.

    python benchmarks/serve.py                   # a load test of 10 minutes, then throughput; writes results/serve.json
    python benchmarks/serve.py --seconds 30 --rounds 2 --no-save

Requests come from wrk (Debian: apt-get install wrk). The load test: 32 clients that each send one image after another
to be predicted by pocket, while one more adds a class, predicts with it at once, and removes it again. Throughput: 8
clients that send 8 images a request, against ``TimmEncoder.encode`` of the same files' bytes, in alternating rounds;
and the processor time of both, which says what serving costs where other programs want the cores too.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common import save, shared_file
from encode import jpegs

from fewshot import ClassRegistry, load_encoder

LUA = Path(__file__).with_suffix(".lua")
REGISTRY = "/v1/registries/parts"
# wrk counts a response that took longer as failed.
_TIMEOUT_SECONDS = 30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=600, help="of the load test")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=8, help="of throughput")
    parser.add_argument("--round-seconds", type=int, default=10)
    parser.add_argument("--no-save", action="store_true", help="print the result only")
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("needs wrk: apt-get install wrk (or see https://github.com/wg/wrk)")
    folder = str(shared_file("weights", "mobilenetv2_100.tf_in1k"))
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        images = {
            size: [path.read_bytes() for path in jpegs(work / size, 512, pixels)]
            for size, pixels in (("small", None), ("photo", (500, 375)))
        }
        result: dict[str, Any] = {"generator": "wrk", "load_test": load_test(work, images["small"], options)}
        encoder = load_encoder(folder)
        result["throughput"] = {"encoder": "mobilenetv2_100.tf_in1k", "clients": 8, "images_a_request": 8}
        for size, files in images.items():
            result["throughput"][size] = throughput(work / f"throughput-{size}", encoder, folder, files, options)
    if options.no_save:
        print(json.dumps(result))
    else:
        save("serve", result)
    tested = result["load_test"]
    sys.exit(1 if tested["failed"] or tested["adding"]["failed"] else 0)


def load_test(work: Path, images: list[bytes], options: argparse.Namespace) -> dict[str, Any]:
    """Send single images to pocket from many clients, and record the server's memory meanwhile."""
    registry = work / "load-test" / "parts.fewshot"
    registry.parent.mkdir()
    fill(registry, "pocket")
    bodies(work / "one", [[image] for image in images])
    with server(registry) as (url, pid):
        wrk(url, work / "one", len(images), options.clients, 5)  # threads and buffers exist from now on
        memory, adding = Memory(pid), Adding(url, images[:3])
        with memory, adding:
            worked = processor_seconds(pid)
            loaded = wrk(url, work / "one", len(images), options.clients, options.seconds)
            worked = processor_seconds(pid) - worked
    return {
        "encoder": "pocket",
        "clients": options.clients,
        **loaded,
        "processor_ms_a_request": round(1e3 * worked / max(1, loaded["requests"]), 2),
        "adding": {"classes": adding.added, "failed": adding.failed},
        "memory_mb": memory.summary(),
    }


def throughput(
    work: Path, encoder: Any, folder: str, files: list[bytes], options: argparse.Namespace
) -> dict[str, Any]:
    """Send 8 images a request, and encode the same bytes without a server, in turn."""
    work.mkdir()
    fill(work / "parts.fewshot", folder)
    requests = [files[start : start + 8] for start in range(0, len(files), 8)]
    bodies(work / "eight", requests)
    encoder.encode(files[:64])
    bare, served, alone, serving = [], [], [], []
    with server(work / "parts.fewshot") as (url, pid):
        wrk(url, work / "eight", len(requests), 8, 2)
        for _ in range(options.rounds):
            start, worked, done = time.perf_counter(), time.process_time(), 0
            while (seconds := time.perf_counter() - start) < options.round_seconds:
                encoder.encode(files)
                done += len(files)
            bare.append(done / seconds)
            alone.append((time.process_time() - worked) / done)
            worked = processor_seconds(pid)
            loaded = wrk(url, work / "eight", len(requests), 8, options.round_seconds)
            if loaded["failed"]:
                sys.exit(f"{loaded['failed']} requests failed")
            served.append(8 * loaded["requests_per_second"])
            serving.append((processor_seconds(pid) - worked) / (8 * loaded["requests"]))
    return {
        "bare_images_per_second": round(max(bare), 1),
        "served_images_per_second": round(max(served), 1),
        "share_of_bare": round(max(served) / max(bare), 3),
        "share_of_bare_by_round": [round(s / b, 3) for s, b in zip(served, bare, strict=True)],
        "bare_processor_ms_an_image": round(1e3 * statistics.median(alone), 2),
        "served_processor_ms_an_image": round(1e3 * statistics.median(serving), 2),
    }


def processor_seconds(pid: int) -> float:
    """Return the processor time of a process, on all cores together."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def fill(path: Path, encoder: str) -> None:
    """Make a registry of 5 test classes of Tiny ImageNet, 5 images each."""
    with (
        zipfile.ZipFile(shared_file("data", "tiny_imagenet", "test.zip")) as archive,
        ClassRegistry(path, encoder=encoder) as registry,
    ):
        names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))
        for label in sorted({name.partition("/")[0] for name in names})[:5]:
            chosen = [name for name in names if name.startswith(f"{label}/")][:5]
            registry.add(label, [archive.read(name) for name in chosen])


def form(images: list[bytes], **fields: str) -> bytes:
    """Write a multipart form."""
    parts = [
        f'--fewshot\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    ]
    for number, image in enumerate(images):
        head = f'--fewshot\r\nContent-Disposition: form-data; name="images"; filename="{number}.jpg"\r\n'
        parts.append(head.encode() + b"Content-Type: image/jpeg\r\n\r\n" + image + b"\r\n")
    return b"".join(parts) + b"--fewshot--\r\n"


def bodies(folder: Path, requests: list[list[bytes]]) -> None:
    """Write each request's body to a file for wrk."""
    folder.mkdir(parents=True)
    for number, images in enumerate(requests):
        (folder / str(number)).write_bytes(form(images))


@contextmanager
def server(path: Path) -> Iterator[tuple[str, int]]:
    """Run ``fewshot serve`` for a block, and stop it by SIGTERM."""
    with open(path.with_suffix(".log"), "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "fewshot", "serve", str(path), "--port", "0"], stdout=subprocess.PIPE, stderr=log
        )
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                sys.exit(f"the server did not start: {path.with_suffix('.log').read_text()}")
            yield json.loads(line)["url"], process.pid
            process.send_signal(signal.SIGTERM)
            if process.wait(90):
                sys.exit(f"the server ended with {process.returncode}")
        finally:
            process.kill()
            process.communicate()


def wrk(url: str, folder: Path, count: int, clients: int, seconds: int) -> dict[str, Any]:
    """Send prediction requests for so many seconds."""
    command = ["wrk", "-t1", f"-c{clients}", f"-d{seconds}s", f"--timeout={_TIMEOUT_SECONDS}s", "-s", str(LUA)]
    done = subprocess.run(
        [*command, f"{url}{REGISTRY}/predict", "--", str(folder), str(count)],
        capture_output=True,
        text=True,
        check=True,
    )
    summary = json.loads(done.stdout.splitlines()[-1])
    return {
        "seconds": round(summary["seconds"], 1),
        "requests": summary["requests"],
        "failed": summary["failed"],
        "requests_per_second": round(summary["requests"] / summary["seconds"], 1),
        "milliseconds": {name: round(summary[name], 1) for name in ("p50", "p95", "p99", "longest")},
    }


class Memory:
    """The resident memory of a process, every second."""

    def __init__(self, pid: int) -> None:
        self._pid, self._mb = pid, list[float]()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._record)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _record(self) -> None:
        while not self._stop.wait(1.0):
            for line in Path(f"/proc/{self._pid}/status").read_text().splitlines():
                if line.startswith("VmRSS:"):
                    self._mb.append(int(line.split()[1]) / 1024)

    def summary(self) -> dict[str, float]:
        """Return the medians of the first, middle and last tenth of the time, and the maximum."""
        tenth = max(1, len(self._mb) // 10)
        middle = len(self._mb) // 2
        parts = {
            "start": self._mb[:tenth],
            "middle": self._mb[middle : middle + tenth],
            "end": self._mb[-tenth:],
        }
        return {
            **{name: round(statistics.median(part), 1) for name, part in parts.items()},
            "most": max(self._mb),
        }


class Adding:
    """Adds a class, predicts one of its images at once, and removes it, once a second."""

    def __init__(self, url: str, images: list[bytes]) -> None:
        self._url, self._images = url + REGISTRY, images
        self.added = self.failed = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._add)

    def __enter__(self) -> Adding:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _add(self) -> None:
        while not self._stop.wait(1.0):
            try:
                added = self._send("POST", "/examples", form(self._images, label="new", allow_conflict="true"))
                found = self._send("POST", "/predict?top=1", form(self._images[:1]))
                held = {near["label"] for near in found["predictions"][0]["nearest"]}
                removed = self._send("DELETE", "/classes?label=new")
                self.failed += not (added["added"] == removed["removed"] == len(self._images) and "new" in held)
            except OSError as error:
                detail = error.read().decode() if isinstance(error, urllib.error.HTTPError) else ""
                print(f"adding failed: {error} {detail}", file=sys.stderr)
                self.failed += 1
            self.added += 1

    def _send(self, method: str, path: str, body: bytes | None = None) -> Any:
        headers = {"Content-Type": "multipart/form-data; boundary=fewshot"} if body else {}
        request = urllib.request.Request(self._url + path, body, headers, method=method)
        with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as response:
            return json.load(response)


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    main()
