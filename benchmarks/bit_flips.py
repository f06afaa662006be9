"""Flip one bit at a time in every page of a small registry, and see whether that is noticed and what can be recovered.

A flip may change nothing that is read (free space), be refused at opening or found by ``check``; what differs from what
was stored without either is lost. After each that was noticed, ``repair`` refuses, or makes a registry that holds
nothing but what was stored.
"""

from __future__ import annotations

import random
import sqlite3
import sys
import tempfile
import time
import warnings
from contextlib import closing
from pathlib import Path
from typing import Any

from crash import ENCODERS, picture

from fewshot import ClassRegistry, FewShotError
from fewshot.registry.repair import repair_registry

_CLASSES, _EXAMPLES, _NEGATIVES = 6, 4, 6
_HEADER = 100
_SHORT = 54 + 24  # bytes of such a picture without padding: of each class one fills pages of its own
Rows = dict[str, list[tuple[Any, ...]]]


def make(path: Path) -> None:
    """Write the registry: classes with images, negatives, and a limit on false accepts."""
    with ClassRegistry(path, encoder=ENCODERS[0]) as registry:
        for number in range(_CLASSES):
            first = _EXAMPLES * number
            images = [picture(1 + n) for n in range(first, first + _EXAMPLES)]
            registry.add(f"class {number}", [images[0], *(image[:_SHORT] for image in images[1:])])
        registry.rejection.add_negatives([picture(1000 + n)[:_SHORT] for n in range(_NEGATIVES)])
        registry.rejection.set(0.5)


def rows_of(path: Path) -> Rows:
    """All that a file holds, table by table."""
    with closing(sqlite3.connect(path)) as connection:
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name").fetchall()
        return {name: sorted(connection.execute(f"SELECT * FROM {name}"), key=repr) for (name,) in tables}


def noticed(path: Path) -> bool:
    """Whether a registry is refused, or its check finds something."""
    try:
        with ClassRegistry(path, create=False) as registry:
            return bool(registry.check())
    except FewShotError:
        return True


def misread(path: Path, stored: Rows) -> str | None:
    """Say how a file that is said to be sound differs from what was stored."""
    try:
        found = rows_of(path)
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        return f"cannot be read, unnoticed: {error}"
    return next((f"{name} changed, unnoticed" for name in stored if found.get(name) != stored[name]), None)


def invented(path: Path, stored: Rows) -> str | None:
    """Say what a repaired registry holds that was never stored: an example, its class, or an image."""
    found, labels = rows_of(path), dict(stored["classes"])
    known = {(row[0], *row[2:]): row[1] for row in stored["examples"]}
    new_labels = dict(found["classes"])
    for row in found["examples"]:
        class_id = known.get((row[0], *row[2:]))
        if class_id is None:
            return f"example {row[0]} is not what was stored"
        if new_labels[row[1]] not in (labels[class_id], f"recovered-{class_id}"):
            return f"example {row[0]} is in class {new_labels[row[1]]!r}, not {labels[class_id]!r}"
    if set(found["images"]) - set(stored["images"]):
        return "an image is not what was stored"
    settings = {key: value for key, value in found["meta"] if key not in ("revision", "rewrites")}
    if settings.items() - dict(stored["meta"]).items():
        return "a setting is not what was stored"
    negatives = {row[:7]: row[7] for row in stored["outsiders"]}  # one whose image is damaged stays without it
    if any(row[7] not in (None, negatives.get(row[:7], b"")) or row[:7] not in negatives for row in found["outsiders"]):
        return "a negative is not what was stored"
    return None


def recovered(path: Path, new: Path, stored: Rows) -> tuple[str, str | None]:
    """Repair a registry: whether it could be, and what is wrong with the result."""
    try:
        repair_registry(path, new)
    except FewShotError:
        return "refused", None
    return "repaired", invented(new, stored)


def run(flips: int, seed: int) -> dict[str, Any]:
    """Flip ``flips`` bits of each page, one at a time, and as many of the file's header."""
    chance, worst = random.Random(seed), 0.0
    counts = dict.fromkeys(("harmless", "noticed", "repaired", "refused", "lost"), 0)
    with tempfile.TemporaryDirectory() as place, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a schema version that a flip made older
        folder = Path(place)
        make(folder / "sound.fewshot")
        stored, sound = rows_of(folder / "sound.fewshot"), (folder / "sound.fewshot").read_bytes()
        size = int.from_bytes(sound[16:18], "big")
        starts = [(start, size) for start in range(0, len(sound), size)] + [(0, _HEADER)]
        places = [start + chance.randrange(span) for start, span in starts for _ in range(flips)]
        for number, at in enumerate(places):
            content = bytearray(sound)
            content[at] ^= 1 << chance.randrange(8)
            path, new = folder / f"{number}.fewshot", folder / f"{number}-new.fewshot"
            path.write_bytes(content)
            begun = time.perf_counter()
            if noticed(path):
                outcome, problem = recovered(path, new, stored)
                counts["noticed"] += 1
                counts[outcome] += 1
            else:
                problem = misread(path, stored)
                counts["harmless"] += problem is None
            worst = max(worst, time.perf_counter() - begun)
            if problem:
                counts["lost"] += 1
                print(f"byte {at} of page {at // size + 1}: {problem}", file=sys.stderr)
            for one in (path, new):
                one.unlink(missing_ok=True)
    tried = len(places)
    return {
        "pages": len(starts) - 1,
        "tried": tried,
        "survived": tried - counts["lost"],
        **counts,
        "worst_seconds": round(worst, 3),
    }
