"""Damaged inputs get an answer or one of our errors; and the fuzzer would notice if they did not."""

from __future__ import annotations

import json
import os
import random
import sys

import pytest
from fakes import ROOT, run_python

sys.path.append(str(ROOT / "benchmarks"))
import fuzz

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="each door is tried in a forked process")

TRY = """
import json, os, sys, time
import fuzz

{change}
print(json.dumps({{door: fuzz.try_door(door, int(n), 7) for door, n in zip(sys.argv[1::2], sys.argv[2::2])}}))
"""


def tried(*doors: object, change: str = "") -> tuple[dict[str, dict[str, int]], str]:
    # In a process of its own: it forks, and this one may have threads.
    done = run_python(TRY.format(change=change), *doors)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def test_damaged_inputs_are_answered_or_refused_with_our_errors():
    found, told = tried("images", 100, "registries", 6, "exports", 20, "indexes", 20, "commands", 6)
    assert {door: result["failures"] for door, result in found.items()} == dict.fromkeys(found, 0), told
    for result in found.values():
        assert result["answered"] + result["refused"] == result["inputs"]
    assert found["images"]["answered"] > 15
    assert found["images"]["refused"] > 15


@pytest.mark.parametrize(
    ("action", "message"),
    [
        ("raise KeyError('a mistake of ours')", "indexes 1: KeyError: 'a mistake of ours'"),
        ("os._exit(3)", "indexes 1: the process died (3)"),
        ("time.sleep(9)", "indexes 1: TimeoutError: over 1 s"),
    ],
)
def test_whatever_else_happens_is_a_failure_and_the_rest_is_tried(action, message):
    change = (
        "fuzz.SECONDS = 1\n"
        "def indexes(self, chance):\n"
        "    self.tried = getattr(self, 'tried', 0) + 1\n"
        "    if not os.path.exists(mark) and self.tried == 2:\n"
        f"        open(mark, 'w').close(); {action}\n"
        "fuzz.Doors.indexes = indexes\n"
        "import tempfile; mark = tempfile.mkdtemp() + '/mark'"
    )
    found, told = tried("indexes", 4, change=change)
    assert found["indexes"]["failures"] == 1
    assert found["indexes"]["answered"] == 3
    assert message in told


def test_damage_is_damage_and_the_same_each_time():
    data = bytes(range(256)) * 4
    made = [fuzz.damaged(data, random.Random(n)) for n in range(200)]
    assert sum(one == data for one in made) < 10
    assert made == [fuzz.damaged(data, random.Random(n)) for n in range(200)]
