"""Kill a process that changes a registry, at random moments, and look at what it left.

The writer adds pictures, removes and renames and merges classes, removes single
examples and embeds everything anew with another encoder. It acknowledges each change after it returned: the registry
must then be as all acknowledged changes made it, with the one that was cut short whole or not at all.
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import sqlite3
import statistics
import struct
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from fewshot import ClassRegistry

TOGETHER = 3  # pictures in one `add`
MOST_BEFORE_KILL = 8  # the kill comes up to so many changes after the start, within about the time that one takes
KINDS = {"add": 8, "remove": 1, "remove_example": 2, "rename": 2, "merge": 2, "reindex": 2}
_FRESH_EVERY = 40  # kills per registry; the first of each falls on an empty file


@dataclass(frozen=True)
class State:
    """What a registry should hold: the numbers of each class's pictures, in the order they came, and whose vectors."""

    classes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    encoder: int = 0


@dataclass(frozen=True)
class Damage:
    """What a killed writer's registry lacks of what was acknowledged, and what it holds that is not whole."""

    lost: tuple[str, ...]
    half_written: tuple[str, ...]


class Encoder:
    """Four numbers of a picture's own bytes, times ``times``."""

    dim = 4

    def __init__(self, times: int) -> None:
        self.times = times
        self.fingerprint = f"first pixels times {times}"

    def encode(self, images: Iterable[Any]) -> np.ndarray:
        """Embed n pictures: (n, d)."""
        return self.times * np.stack([np.asarray(image, np.float32).ravel()[: self.dim] for image in images])


ENCODERS = (Encoder(1), Encoder(2))


def picture(number: int) -> bytes:
    """A tiny picture (BMP, 4 x 2) that no other number has, of a file a few disk pages long."""
    header = struct.pack("<2sIHHI", b"BM", 54 + 24, 0, 0, 54) + struct.pack("<IiiHHIIiiII", 40, 4, 2, 1, 24, *[0] * 6)
    pixels = struct.pack("<Q", number).ljust(24, b"\x07")
    return header + pixels + b"\0" * 10_000


def sha256_of(number: int) -> bytes:
    return hashlib.sha256(picture(number)).digest()


def change(seed: int, number: int, state: State) -> tuple[str, Any]:
    """The kind and the arguments of one change, the same for writer and checker."""
    chance = random.Random(f"{seed}/{number}")
    labels = sorted(state.classes)
    (kind,) = chance.choices(list(KINDS), list(KINDS.values())) if len(labels) > 2 else ("add",)
    if kind == "add":
        known = bool(labels) and chance.random() < 0.5
        label = chance.choice(labels) if known else f"class {number}"
        return kind, (label, tuple(range(TOGETHER * number, TOGETHER * (number + 1))))
    if kind in ("remove", "remove_example"):
        return kind, chance.choice(labels)
    if kind == "rename":
        return kind, (chance.choice(labels), f"class {number}")
    if kind == "merge":
        return kind, (tuple(chance.sample(labels, 2)), chance.choice([*labels, f"class {number}"]))
    return kind, 1 - state.encoder


def changed(state: State, kind: str, given: Any) -> State:
    """The state after a change."""
    classes = dict(state.classes)
    if kind == "add":
        label, numbers = given
        classes[label] = classes.get(label, ()) + numbers
    elif kind == "remove":
        del classes[given]
    elif kind == "remove_example":  # the newest of the class
        left = tuple(sorted(classes.pop(given)))[:-1]
        classes |= {given: left} if left else {}
    elif kind == "rename":
        label, new = given
        classes[new] = classes.pop(label)
    elif kind == "merge":
        labels, into = given
        joined = {number for label in {*labels, into} for number in classes.pop(label, ())}
        classes[into] = tuple(sorted(joined))
    else:
        return replace(state, encoder=given)
    return replace(state, classes=classes)


def perform(registry: ClassRegistry, kind: str, given: Any) -> None:
    """Make a change."""
    if kind == "add":
        label, numbers = given
        registry.add(label, [picture(number) for number in numbers])
    elif kind == "remove_example":
        registry.remove_example(registry.examples(given)[-1][0])
    elif kind == "reindex":
        registry.reindex(ENCODERS[given])
    elif kind == "remove":
        registry.remove(given)
    else:
        getattr(registry, kind)(*given)


def write_on(path: Path, seed: int, start: int, state: State, acknowledge: int) -> None:
    """Change a registry for ever, writing each finished change's number to a pipe; for a process to be killed."""
    with ClassRegistry(path, encoder=ENCODERS[state.encoder]) as registry:
        number = start
        while True:
            kind, given = change(seed, number, state)
            perform(registry, kind, given)
            os.write(acknowledge, struct.pack("<I", number))
            state, number = changed(state, kind, given), number + 1


def forked(job: Callable[..., object], *given: object) -> tuple[int, int]:
    """Start a job in a child, its last argument a pipe to write to; returns the child's id and the end to read from."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            job(*given, writing)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    os.close(writing)
    return child, reading


def warm_up() -> None:
    """Import here, once, all that a writer imports, so that no forked one has to."""
    with tempfile.TemporaryDirectory() as folder, ClassRegistry(f"{folder}/warm", encoder=ENCODERS[0]) as registry:
        registry.add("warm", [picture(0)])
        registry.reindex(ENCODERS[1])


def kill(child: int, reading: int) -> bytes:
    """Kill a writer; returns what it told and nobody has read."""
    os.kill(child, signal.SIGKILL)
    with os.fdopen(reading, "rb") as pipe:
        data = pipe.read()
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status):
        raise RuntimeError("the writer failed by itself")
    return data


def seconds_of_a_change(folder: Path) -> float:
    """The median time of a writer's changes, the first one with the opening of the file."""
    times = []
    for trial in range(5):
        started = time.perf_counter()
        child, reading = forked(write_on, folder / f"timed {trial}.fewshot", trial, 0, State())
        for _ in range(MOST_BEFORE_KILL):
            os.read(reading, 4)
        times.append((time.perf_counter() - started) / MOST_BEFORE_KILL)
        kill(child, reading)
    return statistics.median(times)


def held_by(path: Path) -> tuple[State, list[str]]:
    """Open a registry as anyone would, then look at every row of its file: its state, and what is not whole."""
    if not path.exists():
        return State(), []
    with ClassRegistry(path) as registry:
        counted = registry.classes()
    with closing(sqlite3.connect(path)) as connection:
        half = [str(row[0]) for row in connection.execute("PRAGMA integrity_check") if row[0] != "ok"]
        half += [f"broken reference in {row[0]}" for row in connection.execute("PRAGMA foreign_key_check")]
        labels = dict(connection.execute("SELECT id, label FROM classes").fetchall())
        examples = connection.execute("SELECT id, class_id, sha256, vector FROM examples ORDER BY id").fetchall()
        pictures = dict(connection.execute("SELECT sha256, data FROM images").fetchall())
        meta = dict(connection.execute("SELECT key, value FROM meta").fetchall())
    encoder = next((i for i, e in enumerate(ENCODERS) if e.fingerprint == meta.get("fingerprint")), 0)
    classes: dict[str, tuple[int, ...]] = {}
    for id_, class_id, sha256, vector in examples:
        if class_id not in labels:
            half.append(f"example {id_} has no class")
        elif hashlib.sha256(pictures.get(sha256, b"")).digest() != sha256:
            half.append(f"example {id_} has not its picture")
        else:
            label, (number,) = labels[class_id], struct.unpack_from("<Q", pictures[sha256], 54)
            classes[label] = (*classes.get(label, ()), number)
            pixels = np.frombuffer(struct.pack("<Q", number).ljust(24, b"\x07"), np.uint8).reshape(2, 4, 3)
            own = ENCODERS[encoder].times * pixels[::-1, :, ::-1].astype("<f4").ravel()[: Encoder.dim]
            if vector != own.tobytes():
                half.append(f"example {id_} has another vector than {ENCODERS[encoder].fingerprint}")
    half += [f"class {label!r} has no examples" for label in set(labels.values()) - set(classes)]
    half += ["a picture has no example" for sha256 in pictures if sha256 not in {row[2] for row in examples}]
    if sum(counted.values()) != len(examples):
        half.append(f"classes() counts {sum(counted.values())} examples, the file {len(examples)}")
    return State(classes, encoder), half


def inspect(path: Path, allowed: tuple[State, State]) -> tuple[State, Damage]:
    """Compare a registry with the states it may be in: after the last acknowledged change, or the one after it."""
    found, half = held_by(path)
    where = {number: label for label, numbers in found.classes.items() for number in numbers}
    owed = [{(n, label) for label, numbers in state.classes.items() for n in numbers} for state in allowed]
    lost = [f"picture {n} of {label}" for n, label in sorted(owed[0] & owed[1]) if where.get(n) != label]
    if not lost and not any(same(found, state) for state in allowed):
        half.append("a change is there in part")
    return found, Damage(tuple(lost), tuple(half))


def same(one: State, other: State) -> bool:
    """Whether two states are equal, but for the order in which classes and examples came."""
    if one.encoder != other.encoder and one.classes and other.classes:
        return False
    return {k: sorted(v) for k, v in one.classes.items()} == {k: sorted(v) for k, v in other.classes.items()}


def run(kills: int, seed: int) -> dict[str, object]:
    """Kill ``kills`` writers and count the damage."""
    delays = random.Random(seed)
    warm_up()
    acknowledged, lost, half, started = 0, 0, 0, time.perf_counter()
    cut_short: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        span = seconds_of_a_change(Path(folder))
        for number in range(kills):
            if number % _FRESH_EVERY == 0:
                path, state, start = Path(folder) / f"{number}.fewshot", State(), 0
            child, reading = forked(write_on, path, seed + number, start, state)
            waited = delays.randrange(MOST_BEFORE_KILL + 1)
            for _ in range(waited):
                os.read(reading, 4)
            time.sleep(delays.uniform(0, span))
            answered = waited + len(kill(child, reading)) // 4
            for done in range(start, start + answered):
                state = changed(state, *change(seed + number, done, state))
            kind, given = change(seed + number, start + answered, state)
            cut_short[kind] += 1
            state, damage = inspect(path, (state, changed(state, kind, given)))
            acknowledged, start = acknowledged + answered, start + answered + 1
            for problem in (*damage.lost, *damage.half_written):
                print(f"kill {number}, in {kind}: {problem}", file=sys.stderr)
            lost, half = lost + len(damage.lost), half + len(damage.half_written)
    return {
        "kills": kills,
        "cut_short": dict(sorted(cut_short.items())),
        "acknowledged": acknowledged,
        "lost": lost,
        "half_written": half,
        "seconds": round(time.perf_counter() - started, 1),
    }
