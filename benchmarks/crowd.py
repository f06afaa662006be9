"""Many writers and readers of one registry at once, and whether anyone sees what is not whole.

A writer adds a class of three pictures at a time, acknowledges it, and removes
every fourth again; a reader lists the classes and recognises a picture. Every acknowledged class must be there at the
end, whole, and no reader may see one that has other than three pictures, or a registry that has lost one.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import IO

from crash import ENCODERS, picture, warm_up

from fewshot import ClassRegistry

TOGETHER = 3
_REMOVED = 4


def write(path: Path, writer: int, until: float, told: IO[str]) -> None:
    """Add and remove classes, telling of each change once it is done."""
    with ClassRegistry(path, encoder=ENCODERS[0]) as registry:
        number = 0
        while time.monotonic() < until:
            label, first = f"writer {writer}, {number}", 1_000_000 * (writer + 1) + TOGETHER * number
            registry.add(label, [picture(first + n) for n in range(TOGETHER)])
            print("+", label, file=told, flush=True)
            if number % _REMOVED == _REMOVED - 1:
                print("-", label, file=told, flush=True)  # told before: from here on a reader may miss it
                registry.remove(label)
            number += 1


def read(path: Path, reader: int, until: float, told: IO[str]) -> None:
    """Look at the registry over and over, telling of everything that is not whole."""
    last: dict[str, int] = {}
    with ClassRegistry(path, encoder=ENCODERS[0]) as registry:
        while time.monotonic() < until:
            classes = registry.classes()
            torn = {label: count for label, count in classes.items() if count not in (1, TOGETHER)}
            torn |= {label: count for label, count in classes.items() if count == 1 and label != "first"}
            gone = [label for label in last if label not in classes and not _removed(label)]
            answer = registry.predict([picture(0)], nearest=0)[0]
            for what in (*(f"{label}: {count} pictures" for label, count in torn.items()), *gone):
                print("!", what, file=told, flush=True)
            if answer.label != "first":
                print("!", f"{answer.label} for the first class's own picture", file=told, flush=True)
            print("?", len(classes), file=told, flush=True)
            last = classes


def _removed(label: str) -> bool:
    number = int(label.rpartition(" ")[2]) if label != "first" else 0
    return number % _REMOVED == _REMOVED - 1


def run(writers: int, readers: int, seconds: float) -> dict[str, object]:
    """Let them all loose, and look at what is left."""
    warm_up()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "r.fewshot"
        with ClassRegistry(path, encoder=ENCODERS[0]) as registry:
            registry.add("first", [picture(0)])
        until = time.monotonic() + seconds
        jobs = [(write, n) for n in range(writers)] + [(read, n) for n in range(readers)]
        children = []
        for number, (job, own) in enumerate(jobs):
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    with open(Path(folder) / f"told {number}", "w") as told:
                        job(path, own, until, told)
                    status = 0
                finally:
                    os._exit(status)
            children.append(child)
        died = sum(os.waitpid(child, 0)[1] != 0 for child in children)
        lines = [line for n in range(len(jobs)) for line in (Path(folder) / f"told {n}").read_text().splitlines()]
        with ClassRegistry(path, encoder=ENCODERS[0]) as registry:
            left = registry.classes()
            healthy = registry.backup(Path(folder) / "copy") > 0
    added = {line[2:] for line in lines if line[0] == "+"}
    kept = added - {line[2:] for line in lines if line[0] == "-"}
    wrong = [line[2:] for line in lines if line[0] == "!"]
    lost = [label for label in kept if left.get(label) != TOGETHER]
    more = [label for label in left if label not in kept and label != "first"]
    for problem in (*wrong, *(f"lost: {label}" for label in lost), *(f"not taken away: {label}" for label in more)):
        print(problem, file=sys.stderr)
    return {
        "writers": writers,
        "readers": readers,
        "seconds": seconds,
        "added": len(added),
        "removed": len(added) - len(kept),
        "reads": sum(line[0] == "?" for line in lines),
        "died": died,
        "lost": len(lost) + len(more),
        "seen_in_part": len(wrong),
        "sound_at_the_end": healthy,
    }
