"""Feed damaged and nonsensical inputs to every door of the library, and count what becomes of them.

    python benchmarks/fuzz.py --inputs 10000

writes benchmarks/results/fuzz.json. The doors: pictures, registries (opening, reading, repairing), exported files,
indexes, and the command line. Each input gets an answer or one of our errors; anything else is a failure: another
error, a process that dies, one that takes over 20 seconds, or more than 2 GiB beyond what it started with.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import random
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from click.testing import CliRunner
from crash import ENCODERS, picture
from PIL import Image

from fewshot import ClassRegistry, FewShotError, ImageError, VectorIndex, open_image
from fewshot.cli import main as fewshot
from fewshot.safekeeping import repair

RESULTS = Path(__file__).parent / "results" / "fuzz.json"
SECONDS, MEMORY = 20, 2 * 2**30
_FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP")
_WORDS = (
    *"add predict evaluate classes remove rename merge export import reindex info backup repair encoders bench".split(),
    *"train demo --help --version --top --out --nearest --encoder --from-folder --metric --example --into".split(),
    *"--methods --ways --shots --classifier r.fewshot new.fewshot a.png broken.png folder missing x.npz . ..".split(),
    *"cat dog 0 1 -1 999999999999999999999 nan 1,5 cosine nearest prototype pocket [ * **/* %s {} - --".split(),
    *("local-dir:missing", "resnet18", "", "\0", "a\nb", "\ud800", "\u00e4" * 300),
)


def damaged(data: bytes, chance: random.Random) -> bytes:
    """Cut, flip, overwrite, repeat or remove some of it; now and then it is noise altogether."""
    made = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        at, length = chance.randrange(len(made) + 1), chance.choice((1, 1, 2, 4, 64, 4096))
        kind = chance.randrange(6)
        if kind == 0:
            del made[at:]
        elif kind == 1:
            del made[at : at + length]
        elif kind == 2:
            made[at:at] = made[at : at + length]
        elif kind == 3:
            made[at : at + length] = chance.randbytes(min(length, len(made) - at))
        elif kind == 4:
            made[at : at + length] = chance.choice((b"\0", b"\xff", b"\x7f")) * min(length, len(made) - at)
        elif at < len(made):
            made[at] ^= 1 << chance.randrange(8)
    return chance.randbytes(len(made)) if chance.random() < 0.02 else bytes(made)


class Doors:
    """What is tried, in a folder of its own; each takes a source of chance, and raises what the library raises."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        noise = np.random.default_rng(0).integers(0, 256, (20, 24, 3), np.uint8)
        self.pictures = []
        for name in _FORMATS:
            out = io.BytesIO()
            Image.fromarray(noise).save(out, format=name)
            self.pictures.append(out.getvalue())
        with ClassRegistry(folder / "whole.fewshot", encoder=ENCODERS[0]) as registry:
            for n in range(8):
                registry.add(f"class {n % 3}", [picture(n)])
            registry.export(folder / "whole.npz")
        index = VectorIndex(4, metric="cosine")
        index.add(np.eye(4, dtype=np.float32), list(range(4)))
        index.save(folder / "whole.index")
        self.whole = {name: (folder / name).read_bytes() for name in ("whole.fewshot", "whole.npz", "whole.index")}
        (folder / "a.png").write_bytes(self.pictures[0])
        (folder / "broken.png").write_bytes(self.pictures[0][:90])
        (folder / "folder").mkdir()

    def images(self, chance: random.Random) -> None:
        """A damaged picture, from bytes."""
        open_image(damaged(chance.choice(self.pictures), chance))

    def registries(self, chance: random.Random) -> None:
        """A damaged registry: listed, asked, and repaired."""
        path, new = self.folder / "damaged.fewshot", self.folder / "repaired.fewshot"
        path.write_bytes(damaged(self.whole["whole.fewshot"], chance))
        new.unlink(missing_ok=True)
        try:
            with ClassRegistry(path, encoder=ENCODERS[0]) as registry:
                registry.classes()
                registry.predict([picture(1)])
        finally:
            with suppress(FewShotError):
                repair(path, new)
                with ClassRegistry(new, encoder=ENCODERS[0]) as registry:
                    registry.classes()

    def exports(self, chance: random.Random) -> None:
        """A damaged exported file, imported into a new registry."""
        path, new = self.folder / "damaged.npz", self.folder / "imported.fewshot"
        path.write_bytes(damaged(self.whole["whole.npz"], chance))
        new.unlink(missing_ok=True)
        with ClassRegistry(new, encoder=ENCODERS[0]) as registry:
            registry.import_examples(path)

    def indexes(self, chance: random.Random) -> None:
        """A damaged index file."""
        path = self.folder / "damaged.index"
        path.write_bytes(damaged(self.whole["whole.index"], chance))
        VectorIndex.load(path).search(np.ones((1, 4), np.float32), 2)

    def commands(self, chance: random.Random) -> None:
        """Words in any order after `fewshot`."""
        (self.folder / "r.fewshot").write_bytes(self.whole["whole.fewshot"])
        words = [chance.choice(_WORDS) for _ in range(chance.randrange(1, 7))]
        with tempfile.TemporaryDirectory(dir=self.folder) as own, _inside(self.folder if "bench" in words else own):
            for name in ("r.fewshot", "a.png", "broken.png"):
                if not Path(name).exists():
                    Path(name).write_bytes((self.folder / name).read_bytes())
            result = CliRunner().invoke(fewshot, words)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise AssertionError(f"{words}: {result.exception!r}") from result.exception
        if result.exit_code not in (0, 1, 2):
            raise AssertionError(f"{words}: exit status {result.exit_code}")
        if result.exit_code:
            raise FewShotError(result.stderr)


class _inside:
    """The working folder, for a while."""

    def __init__(self, folder: str | Path) -> None:
        self._folder = folder

    def __enter__(self) -> None:
        self._before = os.getcwd()
        os.chdir(self._folder)

    def __exit__(self, *_: object) -> None:
        os.chdir(self._before)


# What may be raised at each door.
DOORS: dict[str, tuple[type[Exception], ...]] = {
    "images": (ImageError,),
    "registries": (FewShotError,),
    "exports": (FewShotError, ValueError),
    "indexes": (ValueError,),
    "commands": (FewShotError,),
}


def work(door: str, seed: int, first: int, last: int, told: Any) -> None:
    """Try inputs first to last - 1, telling of each before and after."""
    import warnings

    warnings.simplefilter("ignore")
    signal.signal(signal.SIGALRM, _too_long)
    with tempfile.TemporaryDirectory() as folder:
        doors = Doors(Path(folder))
        action: Callable[[random.Random], None] = getattr(doors, door)
        held = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for number in range(first, last):
            told.send(("begun", number, ""))
            signal.alarm(SECONDS)
            started = time.perf_counter()
            try:
                action(random.Random(f"{seed}/{door}/{number}"))
                outcome = "answered"
            except DOORS[door]:
                outcome = "refused"
            except BaseException as error:
                outcome = f"{type(error).__name__}: {error}"
            signal.alarm(0)
            grown = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - held
            if grown > MEMORY:
                outcome = f"took {grown / 2**30:.1f} GiB"
            told.send((outcome, number, time.perf_counter() - started))
    told.send(("done", last, ""))


def _too_long(*_: object) -> None:
    raise TimeoutError(f"over {SECONDS} s")


def try_door(door: str, inputs: int, seed: int) -> dict[str, Any]:
    """Try a door in a process of its own, a new one after each death."""
    context = multiprocessing.get_context("fork")
    counts: Counter[str] = Counter()
    failures: list[str] = []
    slowest, begun, started = 0.0, 0, time.perf_counter()
    while begun < inputs:
        hearing, telling = context.Pipe(duplex=False)
        process = context.Process(target=work, args=(door, seed, begun, inputs, telling))
        process.start()
        telling.close()
        at = begun
        try:
            while True:
                outcome, number, seconds = hearing.recv()
                if outcome == "done":
                    begun = inputs
                    break
                at = number
                if outcome == "begun":
                    continue
                begun, slowest = number + 1, max(slowest, seconds)
                if outcome in ("answered", "refused"):
                    counts[outcome] += 1
                else:
                    failures.append(f"{door} {number}: {outcome}")
        except EOFError:
            process.join()
            failures.append(f"{door} {at}: the process died ({process.exitcode})")
            begun = at + 1
        process.join()
    for failure in failures:
        print(failure, file=sys.stderr)
    return {
        "inputs": inputs,
        "answered": counts["answered"],
        "refused": counts["refused"],
        "failures": len(failures),
        "slowest_seconds": round(slowest, 2),
        "seconds": round(time.perf_counter() - started, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=10_000, help="in all")
    parser.add_argument("--doors", default=",".join(DOORS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-save", action="store_true", help="print the result only")
    given = parser.parse_args()
    names = given.doors.split(",")
    result: dict[str, Any] = {name: try_door(name, given.inputs // len(names), given.seed) for name in names}
    result["failures"] = sum(found["failures"] for found in result.values())
    if not given.no_save:
        result["command"] = f"python benchmarks/fuzz.py --inputs {given.inputs} --seed {given.seed}"
        RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))
    sys.exit(1 if result["failures"] else 0)


if __name__ == "__main__":
    main()
