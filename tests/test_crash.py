"""Killed at any moment, a registry holds all that was acknowledged and nothing half-written."""

from __future__ import annotations

import json
import os
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest
from fakes import ROOT, run_python

from fewshot import ClassRegistry

sys.path.append(str(ROOT / "benchmarks"))
import crash

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes")


def test_forty_killed_writers_lose_nothing_acknowledged_and_leave_nothing_half_written():
    # In a process of its own: it forks, and this one may have threads.
    done = run_python("import sys, crash; sys.argv = ['crash', '--kills', '40', '--no-save']; crash.main()")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["kills"], result["lost"], result["half_written"]) == (40, 0, 0), done.stderr
    assert result["acknowledged"] > 20  # the kills fell while it was writing
    assert sum(result["cut_short"].values()) == 40


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
