"""`fewshot serve` under load: a crowd of clients for minutes, and how much of the bare encoder's speed is left.

    python benchmarks/serve.py                   # 10 minutes of the crowd, then the race; writes results/serve.json
    python benchmarks/serve.py --seconds 30 --rounds 2 --no-save

The load comes from wrk (Debian: apt-get install wrk). The crowd: 32 clients that each ask about one picture after
another, by pocket, while one more teaches a class, asks for it at once, and removes it again. The race: 8 clients that
send 8 pictures a request, against ``TimmEncoder.encode`` of the same files' bytes in the same minutes, round about;
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
# wrk counts an answer that took longer as failed.
_PATIENCE_SECONDS = 30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=600, help="of the crowd")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=8, help="of the race")
    parser.add_argument("--round-seconds", type=int, default=10)
    parser.add_argument("--no-save", action="store_true", help="print the result only")
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("needs wrk: apt-get install wrk (or see https://github.com/wg/wrk)")
    folder = str(shared_file("weights", "mobilenetv2_100.tf_in1k"))
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        pictures = {
            size: [path.read_bytes() for path in jpegs(work / size, 512, pixels)]
            for size, pixels in (("small", None), ("photo", (500, 375)))
        }
        result: dict[str, Any] = {"load": "wrk", "crowd": crowd(work, pictures["small"], options)}
        encoder = load_encoder(folder)
        result["race"] = {"encoder": "mobilenetv2_100.tf_in1k", "clients": 8, "pictures_a_request": 8}
        for size, files in pictures.items():
            result["race"][size] = race(work / f"race-{size}", encoder, folder, files, options)
    if options.no_save:
        print(json.dumps(result))
    else:
        save("serve", result)
    crowded = result["crowd"]
    sys.exit(1 if crowded["failed"] or crowded["teaching"]["failed"] else 0)


def crowd(work: Path, pictures: list[bytes], options: argparse.Namespace) -> dict[str, Any]:
    """Let the clients loose on pocket, and look at the server's memory meanwhile."""
    registry = work / "crowd" / "parts.fewshot"
    registry.parent.mkdir()
    teach(registry, "pocket")
    bodies(work / "one", [[picture] for picture in pictures])
    with server(registry) as (url, pid):
        wrk(url, work / "one", len(pictures), options.clients, 5)  # threads and buffers are there from now on
        memory, teaching = Memory(pid), Teacher(url, pictures[:3])
        with memory, teaching:
            loaded = wrk(url, work / "one", len(pictures), options.clients, options.seconds)
    return {
        "encoder": "pocket",
        "clients": options.clients,
        **loaded,
        "teaching": {"classes": teaching.taught, "failed": teaching.failed},
        "memory_mb": memory.summary(),
    }


def race(work: Path, encoder: Any, folder: str, files: list[bytes], options: argparse.Namespace) -> dict[str, Any]:
    """Ask 8 at a time, and encode the same bytes without a server, in turn."""
    work.mkdir()
    teach(work / "parts.fewshot", folder)
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
    """Return how long a process has computed, on all cores together."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def teach(path: Path, encoder: str) -> None:
    """Make a registry of 5 test classes of Tiny ImageNet, 5 pictures each."""
    with (
        zipfile.ZipFile(shared_file("data", "tiny_imagenet", "test.zip")) as archive,
        ClassRegistry(path, encoder=encoder) as registry,
    ):
        names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))
        for label in sorted({name.partition("/")[0] for name in names})[:5]:
            chosen = [name for name in names if name.startswith(f"{label}/")][:5]
            registry.add(label, [archive.read(name) for name in chosen])


def form(pictures: list[bytes], **fields: str) -> bytes:
    """Write a multipart form."""
    parts = [
        f'--fewshot\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    ]
    for number, picture in enumerate(pictures):
        head = f'--fewshot\r\nContent-Disposition: form-data; name="images"; filename="{number}.jpg"\r\n'
        parts.append(head.encode() + b"Content-Type: image/jpeg\r\n\r\n" + picture + b"\r\n")
    return b"".join(parts) + b"--fewshot--\r\n"


def bodies(folder: Path, requests: list[list[bytes]]) -> None:
    """Write each request's body to a file for wrk."""
    folder.mkdir(parents=True)
    for number, pictures in enumerate(requests):
        (folder / str(number)).write_bytes(form(pictures))


@contextmanager
def server(path: Path) -> Iterator[tuple[str, int]]:
    """Run ``fewshot serve`` for a block, and have it end well."""
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
    """Load a server's predict for so long."""
    command = ["wrk", "-t1", f"-c{clients}", f"-d{seconds}s", f"--timeout={_PATIENCE_SECONDS}s", "-s", str(LUA)]
    done = subprocess.run(
        [*command, f"{url}{REGISTRY}/predict", "--", str(folder), str(count)],
        capture_output=True,
        text=True,
        check=True,
    )
    said = json.loads(done.stdout.splitlines()[-1])
    return {
        "seconds": round(said["seconds"], 1),
        "requests": said["requests"],
        "failed": said["failed"],
        "requests_per_second": round(said["requests"] / said["seconds"], 1),
        "milliseconds": {name: round(said[name], 1) for name in ("p50", "p95", "p99", "longest")},
    }


class Memory:
    """A process's resident memory, looked at every second."""

    def __init__(self, pid: int) -> None:
        self._pid, self._seen = pid, list[float]()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stop.wait(1.0):
            for line in Path(f"/proc/{self._pid}/status").read_text().splitlines():
                if line.startswith("VmRSS:"):
                    self._seen.append(int(line.split()[1]) / 1024)

    def summary(self) -> dict[str, float]:
        """Return the median of the first, middle and last tenth of the time, and the most."""
        tenth = max(1, len(self._seen) // 10)
        middle = len(self._seen) // 2
        parts = {"start": self._seen[:tenth], "middle": self._seen[middle : middle + tenth], "end": self._seen[-tenth:]}
        return {**{name: round(statistics.median(part), 1) for name, part in parts.items()}, "most": max(self._seen)}


class Teacher:
    """Teaches a class, asks about its own picture at once, and removes it, once a second."""

    def __init__(self, url: str, pictures: list[bytes]) -> None:
        self._url, self._pictures = url + REGISTRY, pictures
        self.taught = self.failed = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._teach)

    def __enter__(self) -> Teacher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _teach(self) -> None:
        while not self._stop.wait(1.0):
            try:
                added = self._ask("POST", "/examples", form(self._pictures, label="new", allow_conflict="true"))
                answer = self._ask("POST", "/predict?top=1", form(self._pictures[:1]))
                held = {near["label"] for near in answer["predictions"][0]["nearest"]}
                removed = self._ask("DELETE", "/classes?label=new")
                self.failed += not (added["added"] == removed["removed"] == len(self._pictures) and "new" in held)
            except OSError as error:
                detail = error.read().decode() if isinstance(error, urllib.error.HTTPError) else ""
                print(f"teaching failed: {error} {detail}", file=sys.stderr)
                self.failed += 1
            self.taught += 1

    def _ask(self, method: str, path: str, body: bytes | None = None) -> Any:
        headers = {"Content-Type": "multipart/form-data; boundary=fewshot"} if body else {}
        request = urllib.request.Request(self._url + path, body, headers, method=method)
        with urllib.request.urlopen(request, timeout=_PATIENCE_SECONDS) as answer:
            return json.load(answer)


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    main()
