"""The registry's file: what may be opened, what is migrated, and that a change is whole or not at all."""

from __future__ import annotations

import difflib
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from fakes import FakeEncoder, png

from fewshot import ClassRegistry, RegistryError
from fewshot.cli import main
from fewshot.registry import store
from fewshot.registry.schema import m006_labels
from fewshot.registry.snapshot_cache import SnapshotCache
from fewshot.registry.store import MIGRATIONS, NewExample, RegistryStore


def example(label="cat", digest=b"\1" * 32, vector=(1.0, 2.0), data=b"picture") -> NewExample:
    return NewExample(label, digest, "cat.png", None, np.array(vector, np.float32), data)


def opened(path: Path, *, create=True):
    return closing(RegistryStore(path, create=create))


def test_a_new_file_has_the_newest_schema_and_no_examples(tmp_path):
    with opened(tmp_path / "new.fewshot") as made, made.read() as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)
        assert made.is_empty()
        assert made.classes() == {}


def test_an_example_is_read_back_as_it_was_written(tmp_path):
    with opened(tmp_path / "r.fewshot") as made:
        with made.write(append=True):
            made.set_meta(dim=2)
            made.insert([example("cat", b"\1" * 32, (1.5, -2.0)), example("dog", b"\2" * 32, (0.25, 4.0))])
        found = SnapshotCache(made).current()
    assert found.ids.tolist() == [1, 2]
    assert [found.label_of(0), found.label_of(1)] == ["cat", "dog"]
    assert found.vectors.tolist() == [[1.5, -2.0], [0.25, 4.0]]
    assert found.vectors.dtype == np.float32


def test_an_example_read_page_by_page_names_the_maker_of_its_vector_though_that_changes_between_pages(tmp_path):
    with ClassRegistry(tmp_path / "r.fewshot", encoder=FakeEncoder(name="a")) as registry:
        registry.add("cat", [png((n, 0, 0)) for n in (51, 102)])
        (first,) = registry.export_page(after=0, limit=1)
        registry.reindex(FakeEncoder(times=2.0, name="b"))
        (second,) = registry.export_page(after=first.id, limit=1)
    assert (first.fingerprint, second.fingerprint) == ("mean colour times 1.0, 0 more", "mean colour times 2.0, 0 more")
    assert (first.vector[0], second.vector[0]) == (pytest.approx(0.2), pytest.approx(0.8))


def test_an_id_is_not_given_again_after_its_example_is_removed(tmp_path):
    with opened(tmp_path / "r.fewshot") as made:
        for n in (1, 2, 3):
            with made.write():
                made.insert([example("cat", bytes([n]) * 32)])
                made.delete([n])
        with made.write():
            made.set_meta(dim=2)
            made.insert([example()])
        assert SnapshotCache(made).current().ids.tolist() == [4]


def test_removing_asks_nothing_of_sqlite_that_came_after_3_31(tmp_path):
    with ClassRegistry(tmp_path / "my.fewshot", encoder=FakeEncoder()) as registry:
        registry.add("red", [png((255, 0, 0))])
        said = []
        registry._store._connection.set_trace_callback(said.append)
        registry.remove("red")
        assert any(statement.startswith("DELETE") for statement in said)
        assert not any("RETURNING" in statement for statement in said)


def test_an_error_inside_a_write_undoes_all_of_it(tmp_path):
    with opened(tmp_path / "r.fewshot") as made:
        before = made.state()

        def insert_and_fail():
            with made.write():
                made.insert([example("cat")])
                made.class_id("dog")

        with pytest.raises(KeyError, match="no class 'dog'"):
            insert_and_fail()
        assert made.is_empty()
        assert made.counts() == (0, 0, 0)
        assert made.state() == before


def test_appending_raises_the_revision_and_any_other_change_draws_the_rewrites_anew(tmp_path):
    with opened(tmp_path / "r.fewshot") as made:
        revision, rewrites = made.state()
        with made.write(append=True):
            made.insert([example()])
        assert made.state() == (revision + 1, rewrites)
        with made.write():
            made.delete([1])
        assert made.state()[0] == revision + 2
        assert made.state()[1] != rewrites


def test_only_a_files_own_bytes_are_stored_and_none_is_a_pickle(tmp_path):
    path = tmp_path / "r.fewshot"
    with ClassRegistry(path, encoder=FakeEncoder()) as registry:
        registry.add("cat", [png()])
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT data FROM images").fetchall() == [(png(),)]
        assert connection.execute("SELECT vector FROM examples").fetchall() == [(np.array([1, 0, 0], "<f4").tobytes(),)]
    assert not any(b"pickle" in p.read_bytes() for p in Path(store.__file__).parent.rglob("*.py"))


@pytest.mark.parametrize("content", [b"hi", b"just some text\n" * 1000, b"SQLite format 4\0" + b"\0" * 4080, b"PK\3\4"])
def test_a_file_that_is_no_registry_is_refused_and_left_as_it_is(tmp_path, content):
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with pytest.raises(RegistryError, match=r"notes\.txt is not a fewshot registry; it was left as it is"):
        RegistryStore(path, create=True)
    assert path.read_bytes() == content
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_another_programs_sqlite_file_is_refused_and_left_as_it_is(tmp_path):
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE theirs (x)")
        connection.commit()
    content = path.read_bytes()
    with pytest.raises(RegistryError, match="SQLite file of another program, not a fewshot registry"):
        RegistryStore(path, create=True)
    assert path.read_bytes() == content


def test_a_newer_schema_is_refused_with_the_numbers_and_the_upgrade(tmp_path):
    path = tmp_path / "r.fewshot"
    RegistryStore(path, create=True).close()
    newer = len(MIGRATIONS) + 3
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {newer}")
    with pytest.raises(
        RegistryError,
        match=rf"newer fewshot \(schema {newer}; this one knows {len(MIGRATIONS)}\).*pip install --upgrade fewshot",
    ):
        RegistryStore(path, create=True)


def test_a_folder_is_refused_as_one(tmp_path):
    with pytest.raises(RegistryError, match="is a folder; a registry is one file"):
        RegistryStore(tmp_path, create=True)


@pytest.mark.parametrize("create", [True, False])
def test_an_empty_path_is_refused_not_kept_in_memory(create):
    with pytest.raises(RegistryError, match="is a folder"):
        RegistryStore("", create=create)


def test_a_path_that_sqlite_takes_for_memory_is_a_file_like_any_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    RegistryStore(":memory:", create=True).close()
    assert (tmp_path / ":memory:").stat().st_size > 0


def test_a_file_stays_the_same_one_when_the_working_folder_changes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    with ClassRegistry("r.fewshot", encoder=FakeEncoder()) as registry:
        monkeypatch.chdir(tmp_path / "elsewhere")
        registry.add("cat", [png()])
        assert registry.info().bytes == (tmp_path / "r.fewshot").stat().st_size


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(RegistryError, match=rf"cannot make .*r\.fewshot: there is no folder {tmp_path}/nowhere"):
        RegistryStore(tmp_path / "nowhere" / "r.fewshot", create=True)


def test_a_missing_file_is_made_only_when_asked(tmp_path):
    path = tmp_path / "r.fewshot"
    with pytest.raises(RegistryError, match=r"there is no registry .*make it with: fewshot add .*r\.fewshot LABEL"):
        RegistryStore(path, create=False)
    assert not path.exists()


def test_an_empty_file_is_taken_for_a_new_registry(tmp_path):
    path = tmp_path / "r.fewshot"
    path.touch()
    with opened(path) as made:
        assert made.counts() == (0, 0, 0)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write to anything")
def test_a_read_only_file_can_be_asked_but_not_changed(tmp_path):
    path = tmp_path / "r.fewshot"
    with ClassRegistry(path, encoder=FakeEncoder()) as registry:
        registry.add("cat", [png()])
    path.chmod(0o444)
    with ClassRegistry(path, encoder=FakeEncoder()) as registry:
        assert registry.classes() == {"cat": 1}
        with pytest.raises(RegistryError, match="may not be written to; check its permissions"):
            registry.rename("cat", "dog")


def test_a_write_that_sqlite_refuses_says_so_and_leaves_the_file_as_it_was(tmp_path):
    with opened(tmp_path / "r.fewshot") as made:
        made._connection.execute("PRAGMA query_only = ON")  # SQLite then says what it says of a read-only file
        with (
            pytest.raises(RegistryError, match=r"r\.fewshot was left as it is: it may not be written to; check"),
            made.write(),
        ):
            made.insert([example()])
        assert made.is_empty()


def test_a_full_disk_says_so_and_leaves_the_file_as_it_was(tmp_path):
    with opened(tmp_path / "r.fewshot") as made:
        made._connection.execute("PRAGMA max_page_count = 20")
        with pytest.raises(RegistryError, match="was left as it is: the disk is full; free some space"), made.write():
            made.insert([example(data=b"x" * 1_000_000)])
        assert made.is_empty()


def test_a_damaged_file_is_named_as_unreadable(tmp_path):
    path = tmp_path / "r.fewshot"
    with opened(path) as made, made.write():
        made.insert([example(digest=bytes([n]) * 32, data=bytes(4000)) for n in range(50)])
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    path.write_bytes(content)
    with pytest.raises(RegistryError, match=r"r\.fewshot cannot be read: .*malformed"), opened(path) as damaged:
        SnapshotCache(damaged).current()


def test_a_closed_store_says_that_it_is_closed(tmp_path):
    made = RegistryStore(tmp_path / "r.fewshot", create=True)
    made.close()
    made.close()
    with pytest.raises(RegistryError, match=r"r\.fewshot has been closed; open it again"):
        made.meta()
    with pytest.raises(RegistryError, match="has been closed"), made.write():
        pass


def test_a_store_carried_into_a_forked_process_refuses_to_work_there(tmp_path, monkeypatch):
    with opened(tmp_path / "r.fewshot") as made:
        monkeypatch.setattr(os, "getpid", lambda: -1)
        with pytest.raises(RegistryError, match="opened before this process was forked; open it again in the child"):
            made.meta()


def write_locked(path: Path) -> bool:
    locks = Path("/proc/locks").read_text().splitlines()
    return any(f":{path.stat().st_ino} " in line and " WRITE " in line for line in locks)


@pytest.mark.skipif(not Path("/proc/locks").exists(), reason="locks are listed on Linux only")
def test_opening_a_registry_again_does_not_drop_the_locks_of_the_first(tmp_path):
    """POSIX drops a process's locks on a file when it closes any handle to it: only SQLite may open the file."""
    path = tmp_path / "r.fewshot"
    with opened(path) as first, first.write():
        first.insert([example()])
        with opened(path):
            pass
        assert write_locked(path)
        path.read_bytes()  # what must not be done
        assert not write_locked(path)


def m002_notes(connection: sqlite3.Connection) -> None:
    connection.execute("ALTER TABLE examples ADD COLUMN note TEXT NOT NULL DEFAULT 'none'")


def m002_fails(connection: sqlite3.Connection) -> None:
    m002_notes(connection)
    connection.execute("DROP TABLE images")
    connection.execute("INSERT INTO nonsense VALUES (1)")


def m002_raises(connection: sqlite3.Connection) -> None:
    m002_notes(connection)
    raise ZeroDivisionError("a mistake of ours")


def test_an_older_schema_is_migrated_with_its_examples(tmp_path, monkeypatch):
    path = tmp_path / "r.fewshot"
    with ClassRegistry(path, encoder=FakeEncoder()) as registry:
        registry.add("cat", [png()])
    monkeypatch.setattr(store, "MIGRATIONS", [*MIGRATIONS, m002_notes])
    with ClassRegistry(path, encoder=FakeEncoder()) as registry:
        assert registry.classes() == {"cat": 1}
        registry.add("dog", [png((0, 255, 0))])
        assert registry.predict([png()])[0].label == "cat"
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT note FROM examples").fetchall() == [("none",), ("none",)]
        assert connection.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS) + 1,)


@pytest.mark.parametrize(
    ("migration", "error", "message"),
    [(m002_fails, RegistryError, "no such table: nonsense"), (m002_raises, ZeroDivisionError, "a mistake of ours")],
)
def test_a_migration_that_fails_leaves_the_file_as_it_was(tmp_path, monkeypatch, migration, error, message):
    path = tmp_path / "r.fewshot"
    with ClassRegistry(path, encoder=FakeEncoder()) as registry:
        registry.add("cat", [png()])
    content = path.read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(store, "MIGRATIONS", [*MIGRATIONS, migration])
        with pytest.raises(error, match=message):
            RegistryStore(path, create=True)
    assert path.read_bytes() == content
    with ClassRegistry(path, encoder=FakeEncoder()) as registry:
        assert registry.classes() == {"cat": 1}


def test_at_rest_a_registry_is_one_file(tmp_path):
    with ClassRegistry(tmp_path / "r.fewshot", encoder=FakeEncoder()) as registry:
        registry.add("cat", [png()])
        assert [p.name for p in tmp_path.iterdir()] == ["r.fewshot"]


# Busy is not damaged


@pytest.fixture
def written_to(tmp_path, monkeypatch):
    """A registry that another process is in the middle of writing to, and that is not waited for."""
    path = tmp_path / "busy.fewshot"
    with ClassRegistry(path, encoder=FakeEncoder()) as registry:
        registry.add("red", [png()])
    monkeypatch.setattr(store, "_BUSY_SECONDS", 0.01)
    with ClassRegistry(path, encoder=FakeEncoder()) as opened, closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield opened


@pytest.mark.parametrize(
    "use",
    [
        lambda registry: registry.classes(),
        lambda registry: registry.predict([png()]),
        lambda registry: registry.check(),
        lambda registry: registry.backup(f"{registry.path}.copy"),
        lambda registry: registry.export(f"{registry.path}.npz"),
        lambda registry: registry.add("red", [png(size=9)]),
        lambda registry: registry.remove("red"),
        lambda registry: ClassRegistry(registry.path, create=False),
    ],
)
def test_whoever_waits_in_vain_for_a_writer_is_told_of_it_and_of_no_damage(written_to, use):
    with pytest.raises(RegistryError) as caught:
        use(written_to)
    assert str(caught.value) == (
        f"{written_to.path} is in use by another process, which has been writing to it for longer than 0.01 s, as a "
        "large import or a reindex may. Wait for that to end, then try again"
    )


@pytest.mark.parametrize("command", ["check", "classes"])
def test_on_the_command_line_a_busy_registry_is_an_error_that_suggests_to_wait(written_to, command):
    result = CliRunner().invoke(main, [command, str(written_to.path)])
    assert result.exit_code == 1
    assert "Wait for that to end, then try again" in result.stderr
    assert "repair" not in result.stderr
    assert "copy" not in result.stderr


def test_classes_that_older_versions_kept_apart_by_unicode_form_are_merged_with_their_examples_and_named(tmp_path):
    path, composed, decomposed = tmp_path / "r.fewshot", "Caf\u00e9", "Cafe\u0301"
    with ClassRegistry(path, encoder=FakeEncoder()) as registry:
        registry.add(composed, [png()])
        registry.add("twin", [png(), png((0, 255, 0))], allow_conflict=True)
        registry.add("Lemon", [png((0, 0, 255))])
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE classes SET label = ? WHERE label = 'twin'", (decomposed,))
        connection.execute("UPDATE classes SET label = ' Lemon ' WHERE label = 'Lemon'")
        connection.execute(f"PRAGMA user_version = {MIGRATIONS.index(m006_labels)}")
    with pytest.warns(UserWarning, match="was brought up to date") as warned:
        registry = ClassRegistry(path, encoder=FakeEncoder())
    with registry:
        assert registry.classes() == {composed: 2, "Lemon": 1}
        assert registry.predict([png((0, 255, 0))])[0].label == composed
    told = sorted(str(warning.message) for warning in warned)
    assert told[0].endswith("class ' Lemon ' is now called 'Lemon'")
    assert told[1].endswith(
        "class 'Cafe\\u0301' was merged into 'Caf\\xe9', the same label written otherwise: 1 of its 2 examples are "
        "new there"
    )


def test_a_class_that_is_not_there_is_compared_with_few_labels_however_many_there_are(tmp_path, monkeypatch):
    compared = []
    found = difflib.get_close_matches

    def counted(word, possibilities, **settings):
        compared.append(len(possibilities))
        return found(word, possibilities, **settings)

    monkeypatch.setattr(difflib, "get_close_matches", counted)
    with opened(tmp_path / "r.fewshot") as made:
        with made.write():
            made.insert(
                [example(f"part number {n:05d} of the catalogue", n.to_bytes(32, "big")) for n in range(1, 1001)]
            )
        with pytest.raises(KeyError, match="did you mean 'part number 00700 of the catalogue'"):
            made.class_id("Part number 00700 of the catalogue")
    assert compared == [200]
