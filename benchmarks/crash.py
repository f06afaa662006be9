"""Kill a process that adds pictures to a registry, at random moments, and look at what it left.

    python benchmarks/crash.py --kills 1000

writes benchmarks/results/crash.json. The writer acknowledges each `add` after it returned; an acknowledged one must be
there when the registry is opened again, and one that was not must be there whole or not at all.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import sqlite3
import statistics
import struct
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fewshot import ClassRegistry

RESULTS = Path(__file__).parent / "results" / "crash.json"
TOGETHER = 3  # pictures in one `add`: all of them or none
CLASSES = 7
WRITES_BEFORE_KILL = 3  # the kill comes within about the time that opening and these take
_FRESH_EVERY = 10  # kills per registry; the first of each falls on an empty file


@dataclass(frozen=True)
class Damage:
    """What a killed writer's registry lacks of what was acknowledged, and what it holds that is not whole."""

    lost: tuple[str, ...]
    half_written: tuple[str, ...]


class Encoder:
    """Four numbers of a picture's own bytes."""

    dim = 4
    fingerprint = "first pixels"

    def encode(self, images: Iterable) -> np.ndarray:
        """Embed n pictures: (n, d)."""
        return np.stack([np.asarray(image, np.float32).ravel()[: self.dim] for image in images])


def picture(number: int) -> bytes:
    """A tiny picture (BMP, 4 x 2) that no other number has, of a file a few disk pages long."""
    header = struct.pack("<2sIHHI", b"BM", 54 + 24, 0, 0, 54) + struct.pack("<IiiHHIIiiII", 40, 4, 2, 1, 24, *[0] * 6)
    pixels = struct.pack("<Q", number).ljust(24, b"\x07")
    return header + pixels + b"\0" * 10_000


def label_of(write: int) -> str:
    return f"class {write % CLASSES}"


def hashes_of(write: int) -> list[bytes]:
    """The hashes of the pictures of one `add`."""
    return [hashlib.sha256(picture(TOGETHER * write + n)).digest() for n in range(TOGETHER)]


def write_on(path: Path, start: int, acknowledge: int) -> None:
    """Add pictures for ever, writing each finished `add`'s number to a pipe; for a process that will be killed."""
    with ClassRegistry(path, encoder=Encoder()) as registry:
        write = start
        while True:
            registry.add(label_of(write), [picture(TOGETHER * write + n) for n in range(TOGETHER)])
            os.write(acknowledge, struct.pack("<I", write))
            write += 1


def fork_writer(path: Path, start: int) -> tuple[int, int]:
    """Start ``write_on`` in a child; returns its process id and the pipe's end to read from."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            write_on(path, start, writing)
        finally:
            os._exit(1)  # reached only if the writer fails
    os.close(writing)
    return child, reading


def warm_up() -> None:
    """Import here, once, all that adding a picture imports, so that no forked writer has to."""
    with tempfile.TemporaryDirectory() as folder, ClassRegistry(f"{folder}/warm", encoder=Encoder()) as registry:
        registry.add("warm", [picture(0)])


def kill_one(path: Path, start: int, delay: float) -> list[int]:
    """Fork a writer, kill it after ``delay`` seconds, and return the numbers it acknowledged."""
    child, reading = fork_writer(path, start)
    time.sleep(delay)
    return kill(child, reading)


def kill(child: int, reading: int) -> list[int]:
    os.kill(child, signal.SIGKILL)
    with os.fdopen(reading, "rb") as pipe:
        data = pipe.read()
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status):
        raise RuntimeError("the writer failed by itself")
    return [number for (number,) in struct.iter_unpack("<I", data)]


def seconds_to_kill_within(folder: Path) -> float:
    """How long a writer takes, from its start, for ``WRITES_BEFORE_KILL`` adds; the median of five."""
    times = []
    for trial in range(5):
        started = time.perf_counter()
        child, reading = fork_writer(folder / f"timed {trial}.fewshot", 0)
        for _ in range(WRITES_BEFORE_KILL):
            os.read(reading, 4)
        times.append(time.perf_counter() - started)
        kill(child, reading)
    return statistics.median(times)


def inspect(path: Path, acknowledged: Iterable[int]) -> Damage:
    """Open a registry as anyone would, then look at every row of its file."""
    if not path.exists():
        return Damage(tuple(f"add {write}" for write in acknowledged), ())
    with ClassRegistry(path, encoder=Encoder()) as registry:
        counted = registry.classes()
    connection = sqlite3.connect(path)
    try:
        half = [str(row[0]) for row in connection.execute("PRAGMA integrity_check") if row[0] != "ok"]
        half += [f"broken reference in {row[0]}" for row in connection.execute("PRAGMA foreign_key_check")]
        classes = dict(connection.execute("SELECT id, label FROM classes").fetchall())
        examples = connection.execute("SELECT id, class_id, sha256, vector FROM examples").fetchall()
        pictures = dict(connection.execute("SELECT sha256, data FROM images").fetchall())
    finally:
        connection.close()
    held: dict[bytes, str] = {}
    for id_, class_id, sha256, vector in examples:
        held[sha256] = classes.get(class_id, "")
        if class_id not in classes:
            half.append(f"example {id_} has no class")
        if len(vector) != 4 * Encoder.dim:
            half.append(f"example {id_} has a vector of {len(vector)} bytes")
        if hashlib.sha256(pictures.get(sha256, b"")).digest() != sha256:
            half.append(f"example {id_} has not its picture")
    half += [f"class {label!r} has no examples" for label in set(classes.values()) - set(held.values())]
    half += ["a picture has no example" for sha256 in pictures if sha256 not in held]
    if sum(counted.values()) != len(examples):
        half.append(f"classes() counts {sum(counted.values())} examples, the file {len(examples)}")
    half += _torn(held)
    lost = [f"add {w}" for w in acknowledged if any(held.get(h) != label_of(w) for h in hashes_of(w))]
    return Damage(tuple(lost), tuple(half))


def _torn(held: dict[bytes, str]) -> list[str]:
    """Adds of which some pictures are there and some are not."""
    torn, seen, write = [], 0, 0
    while seen < len(held) and write < 100_000:
        there = sum(h in held for h in hashes_of(write))
        seen += there
        if 0 < there < TOGETHER:
            torn.append(f"{there} of {TOGETHER} pictures of add {write}")
        write += 1
    return torn


def run(kills: int, seed: int) -> dict[str, object]:
    """Kill ``kills`` writers and count the damage."""
    delays = random.Random(seed)
    warm_up()
    acknowledged, lost, half, started = 0, 0, 0, time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        span = seconds_to_kill_within(Path(folder))
        for number in range(kills):
            if number % _FRESH_EVERY == 0:
                path, known, start = Path(folder) / f"{number}.fewshot", [], 0
            answered = kill_one(path, start, delays.uniform(0, span))
            known += answered
            acknowledged += len(answered)
            start += len(answered) + 1  # the add that was cut short may be there or not
            damage = inspect(path, known)
            for problem in (*damage.lost, *damage.half_written):
                print(f"kill {number}: {problem}", file=sys.stderr)
            lost, half = lost + len(damage.lost), half + len(damage.half_written)
    return {
        "kills": kills,
        "acknowledged": acknowledged,
        "lost": lost,
        "half_written": half,
        "seconds": round(time.perf_counter() - started, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-save", action="store_true", help="print the result only")
    given = parser.parse_args()
    result = run(given.kills, given.seed)
    if not given.no_save:
        result["command"] = f"python benchmarks/crash.py --kills {given.kills} --seed {given.seed}"
        RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))
    sys.exit(1 if result["lost"] or result["half_written"] else 0)


if __name__ == "__main__":
    main()
