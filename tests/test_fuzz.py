"""Damaged inputs get an answer or one of our errors; and the fuzzer would notice if they did not."""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections import Counter

import pytest
from fakes import ROOT
from hypothesis import Phase, given, seed, settings
from hypothesis import strategies as st

sys.path.append(str(ROOT / "benchmarks"))
import fuzz

# Inputs of each door; thousands in benchmarks/reliability.py.
FEW = {
    "images": 30,
    "zips": 15,
    "registries": 5,
    "settings": 8,
    "exports": 15,
    "indexes": 15,
    "encoders": 8,
    "tables": 15,
    "commands": 10,
}


@pytest.fixture(scope="module")
def doors(tmp_path_factory):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return fuzz.Doors(tmp_path_factory.mktemp("doors"))


@pytest.mark.filterwarnings("ignore")  # what numpy, Pillow and timm say of nonsense
@pytest.mark.parametrize("door", fuzz.DOORS)
def test_damaged_inputs_are_answered_or_refused_with_our_errors(door, doors):
    outcomes = Counter()

    def each(action):
        try:
            action()
            outcomes["answered"] += 1
        except fuzz.DOORS[door]:  # anything else fails the test
            outcomes["refused"] += 1

    fuzz.inputs_of(door, doors, FEW[door], 7, each)
    assert outcomes["refused"] > FEW[door] // 10
    assert outcomes["answered"] or door not in ("images", "registries")


class Broken:
    """Doors that answer, but for the second input."""

    mark = None

    def __init__(self, folder):
        self.tried = 0

    def second(self):
        self.tried += 1
        return self.tried == 2

    def images(self, draw):
        draw(st.integers())
        if self.second():
            raise KeyError("a mistake of ours")

    def zips(self, draw):
        draw(st.integers())
        if self.second() and not self.mark.exists():
            self.mark.touch()
            os._exit(3)

    def tables(self, draw):
        draw(st.integers())
        if self.second():
            time.sleep(9)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="each door is tried in a forked process")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # it has threads; the child needs none of them
@pytest.mark.parametrize(
    ("door", "message"),
    [
        ("images", "images, seed 7, input 1: KeyError: 'a mistake of ours'"),
        ("zips", "zips, seed 7, input 1: the process died (3)"),
        ("tables", "tables, seed 7, input 1: TimeoutError: over 0.2 s"),
    ],
)
def test_whatever_else_happens_is_a_failure_and_the_rest_is_tried(door, message, monkeypatch, capfd, tmp_path):
    monkeypatch.setattr(fuzz, "SECONDS", 0.2)
    monkeypatch.setattr(Broken, "mark", tmp_path / "died")
    found = fuzz.try_door(door, 5, 7, Broken)
    assert (found["inputs"], found["answered"], found["failures"]) == (5, 4, 1)
    assert message in capfd.readouterr().err


@seed(0)
@settings(max_examples=60, database=None, deadline=None, derandomize=False, phases=[Phase.generate])
@given(st.data())
def damaged_now_and_then(data):
    SEEN.append(data.draw(fuzz.damages(WHOLE)))


WHOLE, SEEN = bytes(range(256)) * 4, []


def test_damage_is_damage_and_the_same_each_time():
    damaged_now_and_then()
    first = list(SEEN)
    SEEN.clear()
    damaged_now_and_then()
    assert first == SEEN
    assert sum(one == WHOLE for one in first) < len(first) // 4
    assert len(set(first)) > len(first) // 4  # Hypothesis draws otherwise in another environment


def test_changed_json_differs_from_what_it_came_from():
    value = {"a": [1, 2, {"b": None}], "c": "text"}
    seen = []

    @seed(0)
    @settings(max_examples=40, database=None, deadline=None, phases=[Phase.generate])
    @given(fuzz.changed_json(value))
    def one(made):
        seen.append(made)

    one()
    assert sum(made == value for made in seen) < len(seen) // 4
    assert any(isinstance(made, dict) and made.get("c") == "text" and made.get("a") != value["a"] for made in seen)
