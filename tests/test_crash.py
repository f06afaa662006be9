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


def test_a_hundred_killed_writers_lose_nothing_acknowledged_and_leave_nothing_half_written():
    # In a process of its own: it forks, and this one may have threads.
    done = run_python("import sys, crash; sys.argv = ['crash', '--kills', '100', '--no-save']; crash.main()")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["kills"], result["lost"], result["half_written"]) == (100, 0, 0), done.stderr
    assert result["acknowledged"] > 50  # the kills fell while it was writing


@pytest.fixture
def written(tmp_path) -> Path:
    """A registry of the crash writer's, with the adds 0, 1 and 2 acknowledged."""
    path = tmp_path / "r.fewshot"
    with ClassRegistry(path, encoder=crash.Encoder()) as registry:
        for write in range(3):
            pictures = [crash.picture(crash.TOGETHER * write + n) for n in range(crash.TOGETHER)]
            registry.add(crash.label_of(write), pictures)
    return path


def change(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(statement)
        connection.commit()


def test_the_checker_finds_a_whole_registry_whole(written):
    assert crash.inspect(written, [0, 1, 2]) == crash.Damage((), ())


def test_the_checker_notices_a_lost_add(written):
    assert crash.inspect(written, [0, 1, 2, 3]).lost == ("add 3",)
    assert crash.inspect(written.with_name("absent"), [0]).lost == ("add 0",)


def test_the_checker_notices_an_add_under_a_wrong_label(written):
    change(written, "UPDATE classes SET label = 'other' WHERE label = 'class 1'")
    assert crash.inspect(written, [0, 1, 2]).lost == ("add 1",)


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("UPDATE examples SET vector = x'00000000' WHERE id = 2", "example 2 has a vector of 4 bytes"),
        ("UPDATE images SET data = x'00'", "example 1 has not its picture"),
        ("DELETE FROM images", "example 1 has not its picture"),
        ("DELETE FROM classes WHERE id = 1", "example 1 has no class"),
        ("DELETE FROM examples WHERE id = 2", "2 of 3 pictures of add 0"),
        ("DELETE FROM examples WHERE id = 2", "a picture has no example"),
        ("INSERT INTO classes (label) VALUES ('empty')", "class 'empty' has no examples"),
    ],
)
def test_the_checker_notices_a_half_written_example(written, statement, message):
    change(written, statement)
    assert message in crash.inspect(written, []).half_written
