"""Where nothing can be written: what was there stays, nothing half-written does, and the message says what to do."""

from __future__ import annotations

import errno
import os
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from fakes import BLUE, RED, ROOT, FakeEncoder, png

import fewshot.encoders
from fewshot import ClassRegistry, EmbeddingCache, FewShotError, RegistryError
from fewshot.cli import main
from fewshot.files import replacing
from fewshot.registry.store import RegistryStore

sys.path.append(str(ROOT / "benchmarks"))
import faults

# Cases and limits, of the many in benchmarks/reliability.py.
SOME = (
    *(("add to a new registry", "leave_blocks", n) for n in (0, 5, 25)),
    ("add to a new registry", "leave_files", 1),
    *(("add", "leave_blocks", n) for n in (0, 2, 10)),
    ("add", "leave_files", 0),
    ("add many", "leave_blocks", 60),
    ("add with a cache", "leave_blocks", 3),
    ("import to a new registry", "leave_blocks", 12),
    ("reindex", "leave_blocks", 1),
    ("threshold", "make_read_only", 0),
    ("predict", "make_read_only", 0),
    ("predict", "leave_blocks", 0),
    ("export", "leave_blocks", 0),
    ("backup", "leave_files", 0),
    ("backup over an older copy", "leave_blocks", 3),
    ("repair", "leave_blocks", 30),
    ("evaluate --out", "leave_files", 0),
)


@pytest.fixture(scope="module")
def templates(tmp_path_factory):
    """What each case begins with."""
    if why := faults.why_not_here():
        pytest.skip(why)
    found = {}
    for name in {name for name, _, _ in SOME}:
        found[name] = tmp_path_factory.mktemp("template")
        faults.CASES[name].prepare(found[name])
    return found


# Forked with threads: the child starts its own, and ends by itself after a minute should it wait for one of these.
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize("some", SOME, ids=lambda some: " ".join(map(str, some)))
def test_without_room_nothing_is_lost_or_left_in_part_and_with_room_it_succeeds(some, templates):
    name, *limit = some
    first, second = faults.attempt(faults.CASES[name], templates[name], tuple(limit))
    assert first.wrong == []
    assert first.succeeded == (name == "predict")  # which only reads
    assert second is None or second.wrong == []


# -- the judge


CASE = faults.Case(("add", "reg", "cat", "1.png"), "reg", lambda folder: None)
SOUND = "Error: reg was left as it is: the disk is full; free some space and try again"


@pytest.mark.parametrize(
    ("message", "after", "wrong"),
    [
        (SOUND, {"reg": ["row 1", "row 2"]}, None),
        ("Error: [Errno 28] No space left on device", {"reg": ["row 1", "row 2"]}, "the message does not name reg"),
        ("Error: reg is wrong", {"reg": ["row 1", "row 2"]}, "the message says not what to do"),
        (SOUND, {}, "lost: reg"),
        (SOUND, {"reg": ["row 1"]}, "changed: reg, without ['row 2']"),
        (SOUND, {"reg": ["row 1", "row 2", "row 3"]}, "changed: reg, without []"),
        (SOUND, {"reg": ["damaged", "a row"]}, "reg is damaged: ['a row']"),
        (SOUND, {"reg": ["row 1", "row 2"], ".reg.part": "x"}, "left behind: .reg.part"),
        (SOUND, {"reg": ["row 1", "row 2"], "other": "x"}, "left behind: other"),
    ],
)
def test_the_judge_notices_what_is_lost_left_behind_or_not_said(message, after, wrong):
    told = faults.Told(False, message)
    faults.judged(CASE, told, {"reg": ["row 1", "row 2"]}, after)
    assert (wrong is None) == (told.wrong == [])
    assert wrong is None or any(sentence.startswith(wrong) for sentence in told.wrong)


# -- files


@pytest.mark.parametrize(
    ("code", "why"),
    [
        (errno.ENOSPC, "the disk is full; free some space and try again"),
        (errno.EDQUOT, "the disk is full; free some space and try again"),
        (errno.EROFS, "it may not be written to; check its permissions and its folder's, or choose another place"),
        (errno.EACCES, "it may not be written to; check its permissions and its folder's, or choose another place"),
        (errno.EIO, "Input/output error; check the disk, or choose another place"),
    ],
)
def test_a_file_that_cannot_be_moved_into_its_place_leaves_the_older_one(code, why, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(code, os.strerror(code))

    (tmp_path / "file").write_text("older")
    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="cannot write") as error, replacing(tmp_path / "file") as temporary:
        temporary.write_text("newer")
    assert str(error.value) == f"cannot write {tmp_path / 'file'}: {why}"
    assert error.value.errno == code
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "older"


def test_what_another_library_says_of_a_full_disk_is_understood(tmp_path):
    for words in ("I/O error: No space left on device (os error 28)", "database or disk is full"):
        with pytest.raises(OSError, match="file: the disk is full; free some"), replacing(tmp_path / "file"):
            raise RuntimeError(words)


def test_an_error_about_another_file_or_none_is_left_as_it_is(tmp_path):
    (tmp_path / "source").write_text("")
    for error in (
        PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "source")),
        ValueError("no number"),
    ):
        with pytest.raises(type(error)) as raised, replacing(tmp_path / "file"):
            raise error
        assert raised.value is error


def test_a_registry_that_may_not_grow_keeps_what_it_holds_and_takes_more_later(tmp_path):
    with ClassRegistry(tmp_path / "r.fewshot", encoder=FakeEncoder()) as registry:
        registry.add("red", [png(RED)])
        connection = registry._store._connection
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages}")
        rng = np.random.default_rng(0)
        noise = [rng.integers(0, 256, (64, 64, 3), np.uint8) for _ in range(3)]
        with pytest.raises(RegistryError, match=r"r\.fewshot was left as it is: the disk is full; free some space"):
            registry.add("noise", noise)
        assert registry.classes() == {"red": 1}
        assert registry.check() == []
        connection.execute("PRAGMA max_page_count = 100000")
        assert registry.add("noise", noise).added == 3


def test_a_cache_that_cannot_be_kept_says_so(tmp_path, monkeypatch):
    cache = EmbeddingCache(FakeEncoder(), tmp_path / "v.db")
    cache.encode([png()])

    class Full(sqlite3.Connection):
        def executemany(self, *_):
            raise sqlite3.OperationalError("database or disk is full")

    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *a, **k: connect(*a, **k, factory=Full))
    with pytest.raises(ValueError, match=r"v\.db cannot be used as an embedding cache: the disk is full; free some"):
        cache.encode([png(BLUE)])
    monkeypatch.undo()
    assert cache.encode([png(), png(BLUE)]).shape == (2, 3)


# -- registries that never held anything, and those that are gone


@pytest.mark.parametrize(
    "words",
    [
        ("add", "r.fewshot", "cat", "missing.jpg"),
        ("add", "r.fewshot", "cat", "text.jpg"),
        ("add", "r.fewshot", "--negative", "missing.jpg"),
        ("add", "r.fewshot", "cat", "text.jpg", "--metric", "sqeuclidean"),
        ("import", "r.fewshot", "text.npz"),
    ],
)
def test_a_first_command_that_stores_nothing_leaves_no_registry_behind(words, tmp_path, monkeypatch):
    monkeypatch.setattr(fewshot.encoders, "load_encoder", lambda name="pocket", **_: FakeEncoder(name=name))
    monkeypatch.chdir(tmp_path)
    for name in ("text.jpg", "text.npz"):
        Path(name).write_text("no picture")
    assert CliRunner().invoke(main, words).exit_code == 1
    assert sorted(os.listdir()) == ["text.jpg", "text.npz"]
    with closing(RegistryStore("r.fewshot", create=True)):
        pass
    assert CliRunner().invoke(main, words).exit_code == 1
    assert "r.fewshot" in os.listdir()  # one that was there, however empty, stays


def test_a_registry_opened_by_name_stays_though_empty_and_so_does_one_that_holds_something(tmp_path):
    with ClassRegistry(tmp_path / "empty.fewshot", encoder=FakeEncoder()):
        pass

    def store_and_fail():
        with ClassRegistry(tmp_path / "r.fewshot", encoder=FakeEncoder()) as registry:
            registry.add("red", [png(RED)])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        store_and_fail()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty.fewshot", "r.fewshot"]


def test_who_opened_a_registry_that_was_taken_away_loses_nothing_unnoticed(tmp_path):
    first = RegistryStore(tmp_path / "r.fewshot", create=True)
    second = RegistryStore(tmp_path / "r.fewshot", create=True)
    first.close(unmake=True)
    assert not (tmp_path / "r.fewshot").exists()
    with (
        pytest.raises(RegistryError, match="was removed or replaced since it was opened; open it again"),
        second.write(),
    ):
        second.set_meta(metric="cosine")
    second.close(unmake=True)
    third, fourth = (RegistryStore(tmp_path / "r.fewshot", create=True) for _ in range(2))
    with fourth.write() as connection:
        connection.execute("INSERT INTO classes (label) VALUES ('red')")
    third.close(unmake=True)  # made by it, but by now of use to another
    fourth.close()
    assert (tmp_path / "r.fewshot").exists()


def test_a_registry_replaced_under_an_open_one_takes_no_more_changes_from_it(tmp_path):
    with ClassRegistry(tmp_path / "r.fewshot", encoder=FakeEncoder()) as registry:
        registry.add("red", [png(RED)])
        registry.backup(tmp_path / "copy")
        registry.add("blue", [png(BLUE)])
        os.replace(tmp_path / "copy", tmp_path / "r.fewshot")
        with pytest.raises(FewShotError, match="was removed or replaced"):
            registry.add("blue", [png(BLUE, 9)])
    with ClassRegistry(tmp_path / "r.fewshot", encoder=FakeEncoder()) as registry:
        assert registry.classes() == {"red": 1}
