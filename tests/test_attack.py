"""Power cuts, bit flips and hostile conditions cost nothing acknowledged; the scenarios would notice if they did."""

from __future__ import annotations

import sys

import pytest
from fakes import ROOT

sys.path.append(str(ROOT / "benchmarks"))
import power_cut

linux = pytest.mark.skipif(sys.platform != "linux", reason="watches SQLite's library through /proc")


@linux
def test_a_power_cut_costs_nothing_that_was_acknowledged(capfd):
    result = power_cut.run(60, 0)
    assert (result["tried"], result["survived"], result["lost"], result["half_written"]) == (60, 60, 0, 0), (
        capfd.readouterr().err
    )


def without(*kinds):
    """A record in which so much was never synced."""
    return lambda events: [event for event in events if event[0] not in kinds]


@linux
@pytest.mark.parametrize("unsynced", [("sync folder",), ("sync",), ("sync", "sync folder")])
def test_a_power_cut_shows_what_is_lost_where_something_is_not_synced(unsynced):
    result = power_cut.run(30, 0, without(*unsynced))
    assert result["lost"] + result["half_written"] > 0
    assert result["survived"] < 30


def test_after_a_cut_there_is_what_was_synced_and_at_most_some_of_the_rest():
    disk = power_cut.Disk()
    for event in (("create", "a", 1), ("write", 1, 0, b"x" * 512), ("sync", 1), ("sync folder",)):
        disk.apply(event)
    for event in (("write", 1, 0, b"y" * 1024), ("create", "b", 2), ("rename", "a", "c")):
        disk.apply(event)
    found = [disk.after_cut(power_cut.random.Random(seed)) for seed in range(200)]
    assert {path for files in found for path in files} == {"a", "b", "c"}
    assert all(("a" in files) != ("c" in files) for files in found)
    contents = {files.get("a", files.get("c")) for files in found}
    assert {content[:512] for content in contents} == {b"x" * 512, b"y" * 512}
    assert {b"x" * 512, b"y" * 1024, b"y" * 512} <= contents
    assert any(len(content) == 1024 and b"x" * 8 not in content[512:] for content in contents)
