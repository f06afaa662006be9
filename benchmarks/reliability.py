"""What a registry survives: kills, damaged inputs, crowds, full disks.

    python benchmarks/reliability.py                        # all of it, some ten minutes
    python benchmarks/reliability.py kills --kills 1000     # SIGKILL at random moments of every kind of change
    python benchmarks/reliability.py fuzz --inputs 10000    # damaged and nonsensical inputs at every door
    python benchmarks/reliability.py crowd --seconds 60     # many writers and readers at once
    python benchmarks/reliability.py faults                 # full disks and read-only folders under every command
    python benchmarks/reliability.py attack                 # power cuts, bit flips, and the service under attack

writes benchmarks/results/reliability.json, each part beside those of earlier runs, and attack.json; exit status 1 if
anything was lost, left in part, or answered otherwise than with a result or one of our errors.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: processes are forked, which threads do not survive

import attack
import common
import crash
import crash_tuning
import crowd
import faults
import fuzz
import torch

_TUNED = 10  # one kill in so many falls on `fewshot tune`
_BAD = ("lost", "half_written", "failures", "died", "seen_in_part")


def kills(given: argparse.Namespace) -> dict[str, Any]:
    """Kill writers."""
    tuned = crash_tuning.run(given.kills // _TUNED, given.seed)  # first: the other's checks compute in this process
    return {"changes": crash.run(given.kills - given.kills // _TUNED, given.seed), "tune": tuned}


def fuzzed(given: argparse.Namespace) -> dict[str, Any]:
    """Try damaged inputs."""
    return fuzz.run(given.inputs, given.seed, tuple(given.only))


def crowded(given: argparse.Namespace) -> dict[str, Any]:
    """Let writers and readers loose."""
    return crowd.run(given.writers, given.readers, given.seconds)


def faulty(given: argparse.Namespace) -> dict[str, Any]:
    """Fill disks."""
    return faults.run(given.only, lambda text: print(text, file=sys.stderr))


def attacked(given: argparse.Namespace) -> dict[str, Any]:
    """Attack the service and the store."""
    return attack.run(given.only, given.share, given.seed)


PARTS: dict[str, tuple[Callable[[argparse.Namespace], dict[str, Any]], tuple[str, ...]]] = {
    "kills": (kills, ("kills", "seed")),
    "fuzz": (fuzzed, ("inputs", "seed")),
    "crowd": (crowded, ("writers", "readers", "seconds")),
    "faults": (faulty, ()),
    "attack": (attacked, ("share", "seed")),
}


def bad(result: dict[str, Any]) -> int:
    """Count what must not be, in a part and the parts of it."""
    own = sum(int(result.get(name, 0)) for name in _BAD)
    return own + sum(bad(part) for part in result.values() if isinstance(part, dict))


def _keep(name: str, result: dict[str, Any]) -> None:
    place = common.RESULTS / ("attack.json" if name == "attack" else "reliability.json")
    others = json.loads(place.read_text()) if place.exists() else {}
    place.write_text(json.dumps({**others, "machine": common.machine(), name: result}, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; by default all")
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--inputs", type=int, default=10_000, help="of the fuzzer, in all")
    parser.add_argument("--writers", type=int, default=8)
    parser.add_argument("--readers", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--only", action="append", default=[], metavar="NAME", help="this door of fuzz, case of faults, attack"
    )
    parser.add_argument("--share", type=float, default=1.0, help="of the trials of each attack")
    parser.add_argument("--no-save", action="store_true", help="print the result only")
    given = parser.parse_args()
    if wrong := set(given.parts) - set(PARTS):
        parser.error(f"no part is called {', '.join(sorted(wrong))}; there are {', '.join(PARTS)}")
    torch.set_num_threads(1)
    found = {}
    for name in given.parts or PARTS:
        part, options = PARTS[name]
        told = " ".join(f"--{option} {getattr(given, option):g}" for option in options)
        found[name] = {"command": f"python benchmarks/reliability.py {name} {told}".strip(), **part(given)}
        print(json.dumps({name: found[name]}))
        if not (given.no_save or given.only):
            _keep(name, found[name])
    sys.exit(1 if any(bad(part) for part in found.values()) else 0)


if __name__ == "__main__":
    main()
