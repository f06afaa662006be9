"""A registry's connection, shared by threads: nobody is inside when it is closed, and nobody waits for ever."""

from __future__ import annotations

import errno
import os
import sqlite3
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager

import pytest
from fakes import FakeEncoder, png, run_python
from no_locks import without_locks

from fewshot import ClassRegistry, RegistryBusy, RegistryError
from fewshot.registry.store import RegistryStore


@contextmanager
def locked(path):
    """A registry that another connection is writing to."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield


_CLOSED_WHILE_READ = """
import faulthandler, sys, threading
from fakes import FakeEncoder, png
from fewshot import ClassRegistry, RegistryError

faulthandler.enable()

def read(registry, said):
    try:
        while True:
            registry.classes()
            registry.predict([png()], nearest=0)
    except RegistryError as error:
        said.append(str(error))

with ClassRegistry(sys.argv[1], encoder=FakeEncoder()) as registry:
    registry.add("red", [png((n, 0, 0)) for n in range(200)])
for _ in range(40):
    registry, said = ClassRegistry(sys.argv[1], encoder=FakeEncoder()), []
    threads = [threading.Thread(target=read, args=(registry, said)) for _ in range(4)]
    for thread in threads:
        thread.start()
    registry.classes()
    registry.close()
    for thread in threads:
        thread.join()
    assert said == [f"{sys.argv[1]} has been closed; open it again"] * 4, said
"""


def test_a_registry_closed_while_threads_read_it_tells_them_and_the_process_lives(tmp_path, warm_python):
    ended = run_python(_CLOSED_WHILE_READ, tmp_path / "r.fewshot", python=warm_python)
    assert ended.returncode == 0, ended.stderr[-2000:]


def test_closing_waits_for_a_thread_that_reads_and_refuses_those_that_come_later(tmp_path):
    store, inside, go = RegistryStore(tmp_path / "r.fewshot", create=True), threading.Event(), threading.Event()

    def reads():
        with store.read() as connection:
            inside.set()
            assert go.wait(20)
            return connection.execute("SELECT count(*) FROM classes").fetchone()

    with ThreadPoolExecutor(3) as threads:
        reading = threads.submit(reads)
        assert inside.wait(20)
        shutting = threads.submit(store.close)
        while not store.shared.closing:
            pass
        later = threads.submit(store.classes)
        assert not shutting.done()
        go.set()
        assert reading.result(20) == (0,)
        assert shutting.result(20) is None
        with pytest.raises(RegistryError, match="has been closed; open it again"):
            later.result(20)


def test_closing_with_a_patience_interrupts_what_takes_longer(tmp_path):
    store, inside = RegistryStore(tmp_path / "r.fewshot", create=True), threading.Event()

    def reads_for_ever():
        with store.read() as connection:
            inside.set()
            connection.execute(
                "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
            ).fetchone()

    with ThreadPoolExecutor(1) as threads:
        reading = threads.submit(reads_for_ever)
        assert inside.wait(20)
        store.close(patience=0.01)
        with pytest.raises(RegistryError, match="has been closed; open it again"):
            reading.result(20)


@pytest.mark.parametrize("use", [lambda registry: registry.classes(), lambda registry: registry.remove("red")])
def test_who_waits_for_another_process_holds_up_neither_closing_nor_the_message(tmp_path, use):
    path = tmp_path / "r.fewshot"
    registry = ClassRegistry(path, encoder=FakeEncoder())
    registry.add("red", [png()])
    with locked(path), ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(use, registry)
        assert not waiting.done()
        registry.close()
        with pytest.raises(RegistryError, match="has been closed; open it again"):
            waiting.result(20)


def test_another_process_is_waited_for_as_long_as_asked_and_each_wait_is_counted(tmp_path):
    path, waits = tmp_path / "r.fewshot", []
    with ClassRegistry(path, encoder=FakeEncoder(), busy_seconds=0.05, on_wait=waits.append) as registry:
        registry.add("red", [png()])
        assert waits == []
        with locked(path):
            with pytest.raises(RegistryBusy, match=r"is in use by another process, .* for longer than 0\.05 s"):
                registry.classes()
            with pytest.raises(RegistryBusy, match=r"longer than 0\.02 s"):
                ClassRegistry(path, busy_seconds=0.02, on_wait=waits.append)
        assert (len(waits), waits[0] >= 0.05, waits[1] >= 0.02) == (2, True, True)
        assert registry.classes() == {"red": 1}


def test_a_thread_that_waits_for_another_of_its_process_is_told_of_that(tmp_path):
    store = RegistryStore(tmp_path / "r.fewshot", create=True, busy_seconds=0.02)
    with store.read(), ThreadPoolExecutor(1) as threads:
        with pytest.raises(RegistryBusy, match="in use by another thread of this process"):
            threads.submit(store.classes).result(20)
    store.close()


def test_a_writer_whose_commit_waits_for_another_process_that_reads_gives_up_and_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "r.fewshot"
    with ClassRegistry(path, encoder=FakeEncoder(), busy_seconds=0.05) as registry:
        registry.add("red", [png()])
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN")
            assert other.execute("SELECT label FROM classes").fetchall() == [("red",)]
            with pytest.raises(RegistryBusy, match="is in use by another process"):
                registry.rename("red", "blue")
            assert registry.classes() == {"red": 1}
        registry.rename("red", "blue")
        assert registry.classes() == {"blue": 1}


@pytest.mark.skipif(sys.platform != "linux", reason="replaces a system call of SQLite")
@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EIO], ids=["NFS", "SMB"])
def test_a_folder_without_locks_is_named_as_one_at_opening_and_nothing_is_left_there(tmp_path, code):
    path = tmp_path / "r.fewshot"
    with ClassRegistry(path, encoder=FakeEncoder()) as registry:
        registry.add("red", [png()])
    for name in ("r.fewshot", "new.fewshot"):
        with (
            without_locks(code),
            pytest.raises(RegistryError, match=r"no file can be locked in the folder of .*Keep it on a disk of this"),
        ):
            ClassRegistry(tmp_path / name)
    assert os.listdir(tmp_path) == ["r.fewshot"]


def test_a_connection_is_closed_by_the_thread_that_is_inside_it(tmp_path):
    store = RegistryStore(tmp_path / "r.fewshot", create=True)
    with store.read():
        store.close()
    with pytest.raises(RegistryError, match="has been closed; open it again"):
        store.classes()
