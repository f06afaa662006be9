"""Killed at any moment, a registry holds all that was acknowledged and nothing half-written."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest
from fakes import ROOT

from fewshot import ClassRegistry
from fewshot.finetuning.registry_encoder import tune_registry
from fewshot.registry.store import RegistryStore

sys.path.append(str(ROOT / "benchmarks"))
import crash
import crash_tuning
import reliability

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes")


def told_by(job, path) -> str:
    reading, writing = os.pipe()
    job(path, writing)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        return pipe.read()


# Forked with threads, of which the children need none; whoever writes fails by itself if it waits for one.
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_killed_writers_lose_nothing_acknowledged_and_leave_nothing_half_written(capfd):
    result = crash.run(8, 0)
    assert (result["kills"], result["lost"], result["half_written"]) == (8, 0, 0), capfd.readouterr().err
    assert result["acknowledged"] > 4  # the kills fell while it was writing
    assert sum(result["cut_short"].values()) == 8


class Killed(BaseException):
    """The process ends at this point."""


@pytest.mark.parametrize(
    ("place", "name"), [(os, "replace"), (ClassRegistry, "reindex"), (RegistryStore, "set_vectors"), (Path, "chmod")]
)
def test_a_tuning_that_is_cut_short_leaves_the_registry_and_its_encoder_as_they_were(
    place, name, tmp_path, monkeypatch
):
    def killed(*_, **__):
        raise Killed

    fingerprint = told_by(crash_tuning.prepare, tmp_path)
    with ClassRegistry(tmp_path / "r.fewshot") as registry:
        monkeypatch.setattr(place, name, killed)
        with pytest.raises(Killed):
            tune_registry(registry, **crash_tuning.SETTINGS)
        monkeypatch.undo()
    assert json.loads(told_by(crash_tuning.inspect, tmp_path / "r.fewshot")) == [fingerprint, []]
    with ClassRegistry(tmp_path / "r.fewshot") as registry:
        assert tune_registry(registry, **crash_tuning.SETTINGS).examples == 6
    assert json.loads(told_by(crash_tuning.inspect, tmp_path / "r.fewshot"))[1] == []


STATE = crash.State({f"class {n}": (3 * n, 3 * n + 1, 3 * n + 2) for n in range(3)})


@pytest.fixture
def written(tmp_path) -> Path:
    """A registry in the state above."""
    path = tmp_path / "r.fewshot"
    with ClassRegistry(path, encoder=crash.ENCODERS[0]) as registry:
        for label, numbers in STATE.classes.items():
            registry.add(label, [crash.picture(n) for n in numbers])
    return path


def sql(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(statement)
        connection.commit()


def damage(path: Path, before=STATE, after=STATE) -> crash.Damage:
    return crash.inspect(path, (before, after))[1]


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        ("add", ("class 9", (27, 28, 29))),
        ("remove", "class 1"),
        ("remove_example", "class 1"),
        ("rename", ("class 1", "class 9")),
        ("merge", (("class 0", "class 1"), "class 2")),
        ("reindex", 1),
    ],
)
def test_the_checker_foretells_what_each_change_does(written, kind, given):
    after = crash.changed(STATE, kind, given)
    assert crash.inspect(written, (STATE, after)) == (STATE, crash.Damage((), ()))
    with ClassRegistry(written, encoder=crash.ENCODERS[0]) as registry:
        crash.perform(registry, kind, given)
    found, harm = crash.inspect(written, (STATE, after))
    assert crash.same(found, after)
    assert harm == crash.Damage((), ())
    assert not crash.same(found, STATE)


def test_the_checker_notices_what_is_lost(written):
    more = crash.changed(STATE, "add", ("class 3", (9, 10, 11)))
    assert damage(written, more, more).lost == tuple(f"picture {n} of class 3" for n in (9, 10, 11))
    assert len(damage(written.with_name("absent")).lost) == 9
    sql(written, "UPDATE classes SET label = 'other' WHERE label = 'class 1'")
    assert damage(written).lost == tuple(f"picture {n} of class 1" for n in (3, 4, 5))


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        (
            "UPDATE examples SET vector = x'00000000' WHERE id = 2",
            "example 2 has another vector than first pixels times 1",
        ),
        ("UPDATE images SET data = x'00'", "example 1 has not its picture"),
        ("DELETE FROM images", "example 1 has not its picture"),
        ("DELETE FROM classes WHERE id = 1", "example 1 has no class"),
        ("DELETE FROM examples WHERE id = 2", "a picture has no example"),
        ("INSERT INTO classes (label) VALUES ('empty')", "class 'empty' has no examples"),
    ],
)
def test_the_checker_notices_what_is_not_whole(written, statement, message):
    sql(written, statement)
    assert message in damage(written).half_written


def test_the_checker_notices_a_change_made_in_part(written):
    more = crash.changed(STATE, "add", ("class 0", (9, 10, 11)))
    with ClassRegistry(written, encoder=crash.ENCODERS[0]) as registry:
        registry.add("class 0", [crash.picture(9)])
    assert damage(written, STATE, more).half_written == ("a change is there in part",)


def test_the_checker_of_tunings_finds_a_sound_one_sound_and_notices_a_foreign_encoder(tmp_path):
    path = tmp_path / "r.fewshot"
    fingerprint = told_by(crash_tuning.prepare, tmp_path)
    assert json.loads(told_by(crash_tuning.inspect, path)) == [fingerprint, []]
    for name, other in ((fingerprint[:8], False), ("0" * 8, True)):
        shutil.copytree(tmp_path / "network", f"{path}.encoder-{name}")
        wrong = [f"r.fewshot.encoder-{name} holds another encoder"] if other else []
        assert json.loads(told_by(crash_tuning.inspect, path)) == [fingerprint, wrong]


def test_whatever_is_lost_in_any_part_fails_the_whole():
    sound = {"changes": {"kills": 9, "lost": 0, "half_written": 0}, "tune": {"kills": 1, "lost": 0}}
    assert reliability.bad(sound) == 0
    assert reliability.bad({**sound, "tune": {"lost": 1, "half_written": 2}}) == 3
    assert reliability.bad({"images": {"inputs": 5, "failures": 0}, "inputs": 5, "failures": 4}) == 4
