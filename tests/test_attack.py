"""Power cuts, bit flips and hostile conditions cost nothing acknowledged; the scenarios would notice if they did."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
from fakes import ROOT

sys.path.append(str(ROOT / "benchmarks"))
import attack
import bit_flips
import power_cut
import reliability
from served import Answer

linux = pytest.mark.skipif(sys.platform != "linux", reason="looks through /proc")


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


def test_a_flipped_bit_is_noticed_or_changes_nothing_and_is_never_repaired_into_what_was_not_stored(capfd):
    result = bit_flips.run(3, 0)
    assert result["survived"] == result["tried"] == 3 * (result["pages"] + 1), capfd.readouterr().err
    assert result["lost"] == 0
    assert result["noticed"] > 30
    assert result["repaired"] > 30


def test_a_flipped_bit_that_nobody_notices_is_counted_as_lost(monkeypatch, capfd):
    monkeypatch.setattr(bit_flips, "noticed", lambda path: False)
    result = bit_flips.run(1, 0)
    assert 0 < result["lost"] == result["tried"] - result["survived"]
    assert "unnoticed" in capfd.readouterr().err


# Trials of each, of the many in benchmarks/reliability.py.
FEW = {
    "sigterm": 2,
    "sigkill": 1,
    "low_memory": 2,
    "vanishing_folder": 1,
    "many_requests": 300,
}


@linux
@pytest.mark.parametrize("name", FEW)
def test_the_service_under_attack_loses_nothing_and_is_well_again(name, capfd):
    result = attack.SCENARIOS[name](FEW[name], 0)
    assert reliability.bad(result) == 0, capfd.readouterr().err
    assert result["survived"] == result["tried"] > 0
    assert result["requests"] > 5


@linux
def test_a_service_with_few_descriptors_loses_nothing_and_is_well_again(capfd):
    result = attack.few_descriptors(1, 0, clients=4)  # two at a time wait for seconds before they are refused
    assert reliability.bad(result) == 0, capfd.readouterr().err
    assert result["survived"] == 1
    assert result["unavailable"] > 0


@linux
def test_hosts_that_drip_their_images_do_not_hold_up_others(capfd):
    result = attack.dripping(1, 0, image_seconds=1.0)
    assert reliability.bad(result) == 0, capfd.readouterr().err


def test_every_scenario_is_tried_here():
    assert (
        {*FEW, "power_cut", "bit_flips", "few_descriptors", "dripping_hosts"}
        == set(attack.SCENARIOS)
        == set(attack.TRIALS)
    )


def test_an_answer_of_the_server_is_faulty_unless_it_is_a_503_that_says_why():
    said = {"detail": "the disk is full"}
    faulty = [
        Answer("", status, 0.0, body).faulty for status, body in [(500, said), (503, b""), (503, {}), (502, said)]
    ]
    assert faulty == [True] * 4
    assert not any(
        Answer("", status, 0.0, body).faulty for status, body in [(503, said), (200, {}), (404, {}), (0, b"")]
    )
    count = attack.Count()
    count.answers([Answer("add", 500, 1.5, b""), Answer("add", 200, 0.5, {})])
    assert (count.failures, count.requests, count.worst) == (1, 2, 1.5)
    assert reliability.bad({"sigterm": count.result()}) == 1


def test_a_lost_acknowledged_picture_is_noticed(tmp_path, capsys):
    count = attack.Count()
    with count.trial("lost") as folder:
        load = attack.Load(SimpleNamespace(folder=folder), acknowledged={1, 777})
        count.kept(load)
    assert (count.tried, count.survived, count.lost) == (1, 0, 1)
    assert "picture 777 is lost" in capsys.readouterr().err
