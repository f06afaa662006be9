"""Copies made while others write, and what is recovered from damaged files."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from fakes import FakeEncoder, png, run_python

from fewshot import ClassRegistry, RegistryError
from fewshot.cli import main
from fewshot.registry.backup import backup, problems_in, problems_of
from fewshot.registry.repair import repair_registry
from fewshot.registry.schema import MIGRATIONS, m001_tables
from fewshot.registry.snapshot_cache import SnapshotCache
from fewshot.registry.store import NewExample, RegistryStore

D = 16
PAGE = 4096


def picture(n: int) -> bytes:
    return np.random.default_rng(n).bytes(500 + 37 * n)


def vector(n: int) -> np.ndarray:
    return np.random.default_rng(n).normal(size=D).astype(np.float32)


@pytest.fixture
def path(tmp_path) -> Path:
    """A registry of 60 examples of 6 classes, each with a picture."""
    file = tmp_path / "r.fewshot"
    with closing(RegistryStore(file, create=True)) as store, store.write():
        store.set_meta(metric="cosine", keep_images=1, dim=D, fingerprint="f", encoder='{"name": "pocket"}')
        store.insert(
            NewExample(f"class {n % 6}", hashlib.sha256(picture(n)).digest(), f"{n}.png", None, vector(n), picture(n))
            for n in range(60)
        )
    return file


def contents(file: Path) -> dict[int, tuple[str, str, bytes]]:
    """Label, source and vector of each example, read without the library."""
    with closing(sqlite3.connect(file)) as connection:
        return {
            id_: row
            for id_, *row in connection.execute(
                "SELECT examples.id, label, source, vector FROM examples JOIN classes ON classes.id = class_id"
            )
        }


def change_byte_of_vector(file: Path, n: int) -> None:
    raw = file.read_bytes()
    at = raw.index(vector(n).tobytes())
    file.write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])


def test_a_copy_made_while_others_write_is_one_state_of_the_registry(tmp_path):
    with ClassRegistry(tmp_path / "r.fewshot", encoder=FakeEncoder()) as registry:
        registry.add("class 0", [png((0, 0, 0))])

        def add() -> None:
            for n in range(1, 30):
                registry.add(f"class {n}", [png((n, 0, 0)), png((n, 1, 0))])

        writer = threading.Thread(target=add)
        writer.start()
        copies = []
        while writer.is_alive():
            copies.append(tmp_path / f"copy {len(copies)}")
            registry.backup(copies[-1])
        writer.join()
    for copy in copies:
        with closing(RegistryStore(copy, create=False)) as store:
            assert problems_of(store) == []
            classes = store.classes()
            # An addition is in the copy whole, after all before it, or not at all.
            assert classes == {f"class {n}": 1 if n == 0 else 2 for n in range(len(classes))}
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["r.fewshot", *(p.name for p in copies)])


def older_copy(place):
    """An empty registry, as an older copy may be; returns its bytes."""
    RegistryStore(place, create=True).close()
    return place.read_bytes()


def test_a_file_that_is_no_registry_is_never_replaced_by_a_copy(path, tmp_path):
    notes = tmp_path / "notes.txt"
    notes.write_text("precious")
    with (
        ClassRegistry(path, create=False) as registry,
        pytest.raises(RegistryError, match=r"notes\.txt is no registry.*another file"),
    ):
        registry.backup(notes)
    assert notes.read_text() == "precious"
    other = tmp_path / "other.sqlite"
    with closing(sqlite3.connect(other)) as connection, connection:
        connection.execute("CREATE TABLE mine (id)")
    with ClassRegistry(path, create=False) as registry, pytest.raises(RegistryError, match="is no registry"):
        registry.backup(other)


def test_a_copy_replaces_an_older_one_and_says_its_size(path, tmp_path):
    older_copy(tmp_path / "copy")
    with closing(RegistryStore(path, create=False)) as store:
        assert backup(store, tmp_path / "copy") == path.stat().st_size
    assert contents(tmp_path / "copy") == contents(path)


def test_a_copy_ends_while_others_never_stop_writing(tmp_path):
    with closing(RegistryStore(tmp_path / "r.fewshot", create=True)) as store:
        with store.write():
            store.set_meta(metric="cosine", keep_images=1, dim=D, fingerprint="f", encoder='{"name": "pocket"}')
            pictures = [bytes([n]) * 2**20 for n in range(8)]
            store.insert(
                NewExample("a", hashlib.sha256(data).digest(), "a.png", None, vector(0), data) for data in pictures
            )
        stop = threading.Event()

        def write() -> None:
            with closing(RegistryStore(tmp_path / "r.fewshot", create=False)) as other:
                number = 0
                while not stop.is_set():
                    with other.write():
                        other.set_meta(number=number)
                    number += 1

        writer = threading.Thread(target=write)
        writer.start()
        try:
            backup(store, tmp_path / "copy")
        finally:
            stop.set()
            writer.join()
    assert len(contents(tmp_path / "copy")) == 8


def test_what_cannot_be_written_is_not_called_damage(path, tmp_path):
    with closing(RegistryStore(path, create=False)) as store:
        with pytest.raises(IsADirectoryError, match="it is a folder; give a file"):
            backup(store, tmp_path)
        with pytest.raises(FileNotFoundError, match="there is no folder"):
            backup(store, tmp_path / "none" / "copy")


def test_a_full_disk_is_not_called_damage(path, tmp_path):
    code = (
        "import resource, signal, sys\n"
        "from fewshot.registry.backup import backup; from fewshot.registry.store import RegistryStore\n"
        "store = RegistryStore(sys.argv[1], create=False)\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (20480, 20480))\n"
        "try: backup(store, sys.argv[2])\n"
        "except OSError as error: print(error)"
    )
    older = older_copy(tmp_path / "copy")
    told = run_python(code, path, tmp_path / "copy")
    assert told.stdout.startswith(f"cannot write {tmp_path / 'copy'}: "), told.stderr
    assert (tmp_path / "copy").read_bytes() == older


def test_a_file_cut_to_nothing_is_no_registry_and_never_replaces_a_copy(path, tmp_path):
    good = CliRunner().invoke(main, ["backup", str(path), str(tmp_path / "copy")])
    assert good.exit_code == 0
    path.write_bytes(b"")
    bad = CliRunner().invoke(main, ["backup", str(path), str(tmp_path / "copy")])
    assert bad.exit_code == 1
    assert "is empty, not a registry" in bad.stderr
    assert len(contents(tmp_path / "copy")) == 60
    assert path.read_bytes() == b""


def test_a_registry_is_not_copied_onto_itself(path, tmp_path):
    (tmp_path / "link").symlink_to(path)
    with closing(RegistryStore(path, create=False)) as store, pytest.raises(RegistryError, match="the registry itself"):
        backup(store, tmp_path / "link")


def test_a_changed_byte_of_a_vector_is_noticed_when_read_and_never_copied(path, tmp_path):
    change_byte_of_vector(path, 17)
    older = older_copy(tmp_path / "copy")
    wrong = r"example 18, 17\.png,? is not what was stored"
    with closing(RegistryStore(path, create=False)) as store:
        with pytest.raises(RegistryError, match=rf"r\.fewshot is damaged: {wrong}.*fewshot repair .*r\.fewshot NEW"):
            SnapshotCache(store).current()
        with pytest.raises(RegistryError, match=rf"was not copied, and .*copy is as it was: {wrong}"):
            backup(store, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == older


def test_repair_leaves_out_only_the_example_that_changed(path, tmp_path):
    before = contents(path)
    change_byte_of_vector(path, 17)
    found = repair_registry(path, tmp_path / "new.fewshot")
    del before[18]
    assert contents(tmp_path / "new.fewshot") == before
    assert (found.classes, found.examples, found.images) == (6, 59, 59)
    assert found.lost == ("example 18: what is left of it is not an example",)


def test_repair_leaves_out_only_the_picture_that_changed(path, tmp_path):
    raw = path.read_bytes()
    at = raw.index(picture(3)[:100])
    path.write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
    with closing(RegistryStore(path, create=False)) as store:
        assert problems_of(store) == [f"the image {hashlib.sha256(picture(3)).hexdigest()[:8]} has changed in the file"]
    found = repair_registry(path, tmp_path / "new.fewshot")
    assert (found.examples, found.images) == (60, 59)
    assert found.lost == ("the image of example 4, 3.png: its vector is there",)


def test_the_command_line_checks_a_registry_and_names_what_changed_and_what_to_do(path):
    whole = CliRunner().invoke(main, ["check", str(path)])
    assert (whole.exit_code, json.loads(whole.stdout)["problems"], whole.stderr) == (0, [], "")
    raw = path.read_bytes()
    at = raw.index(picture(3)[:100])
    path.write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
    problem = f"the image {hashlib.sha256(picture(3)).hexdigest()[:8]} has changed in the file"
    damaged = CliRunner().invoke(main, ["check", str(path)])
    assert (damaged.exit_code, json.loads(damaged.stdout)["problems"]) == (1, [problem])
    assert problem in damaged.stderr
    assert f"fewshot repair {path} NEW" in damaged.stderr


@pytest.mark.parametrize("seed", range(6))
def test_what_is_had_back_from_bad_pages_is_what_was_there(path, tmp_path, seed):
    before, raw, chance = contents(path), bytearray(path.read_bytes()), random.Random(seed)
    for page in chance.sample(range(3, len(raw) // PAGE), 2):  # not the tables' list nor the settings
        raw[page * PAGE : (page + 1) * PAGE] = chance.randbytes(PAGE)
    path.write_bytes(raw)
    found = repair_registry(path, tmp_path / "new.fewshot")
    after = contents(tmp_path / "new.fewshot")
    for id_, (label, *rest) in after.items():
        assert rest == before[id_][1:]
        assert label == before[id_][0] or label.startswith("recovered-")
    assert len(after) == found.examples
    assert found.lost or (len(after), found.images) == (60, 60)
    with closing(RegistryStore(tmp_path / "new.fewshot", create=False)) as store:
        assert problems_of(store) == []
    assert path.read_bytes() == raw  # left as it is


def test_the_readable_part_of_a_cut_file_is_had_back(path, tmp_path):
    before, raw = contents(path), path.read_bytes()
    path.write_bytes(raw[: len(raw) * 2 // 3])
    with pytest.raises(RegistryError, match=r"malformed\. Put a copy of it back, or .* fewshot repair"):
        SnapshotCache(RegistryStore(path, create=False)).current()
    found = repair_registry(path, tmp_path / "new.fewshot")
    after = contents(tmp_path / "new.fewshot")
    assert 0 < len(after) == found.examples
    assert all(after[id_][1:] == before[id_][1:] for id_ in after)


def test_a_change_that_was_cut_short_is_taken_back(path, tmp_path):
    before = contents(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA cache_size = 1")  # so that pages reach the file before the end
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("UPDATE examples SET vector = zeroblob(64)")
        for suffix in ("", "-journal"):
            shutil.copy(f"{path}{suffix}", f"{tmp_path / 'killed.fewshot'}{suffix}")
        connection.execute("ROLLBACK")
    assert (tmp_path / "killed.fewshot").read_bytes() != path.read_bytes()
    found = repair_registry(tmp_path / "killed.fewshot", tmp_path / "new.fewshot")
    assert found.lost == ()
    assert contents(tmp_path / "new.fewshot") == before


def test_examples_whose_class_is_gone_are_noticed_and_had_back_under_another_name(path, tmp_path):
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DELETE FROM classes WHERE label = 'class 2'")
        connection.commit()
    with closing(RegistryStore(path, create=False)) as store:
        with pytest.raises(RegistryError, match="is damaged: 10 of its examples are of no class"):
            SnapshotCache(store).current()
    repair_registry(path, tmp_path / "new.fewshot")
    labels = [label for label, *_ in contents(tmp_path / "new.fewshot").values()]
    assert len(labels) == 60
    assert labels.count("recovered-3") == 10


def test_ids_of_a_long_history_are_all_had_back(path, tmp_path):
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE examples SET id = id * 1000000007")
        connection.commit()
    before = contents(path)
    assert repair_registry(path, tmp_path / "new.fewshot").lost == ()
    assert contents(tmp_path / "new.fewshot") == before


def test_repair_says_what_it_cannot_do(path, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no registry .*none"):
        repair_registry(tmp_path / "none", tmp_path / "new")
    with pytest.raises(FileExistsError, match=r"r\.fewshot exists: give a new file"):
        repair_registry(path, path)
    (tmp_path / "text").write_text("no database at all")
    with pytest.raises(RegistryError, match=r"text cannot be repaired: its settings.*not a database"):
        repair_registry(tmp_path / "text", tmp_path / "new")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["r.fewshot", "text"]


def test_a_file_from_before_checksums_is_given_them(path, tmp_path):
    old = tmp_path / "old.fewshot"
    with closing(sqlite3.connect(old, isolation_level=None)) as connection:
        m001_tables(connection)
        connection.execute("PRAGMA user_version = 1")
        connection.execute("PRAGMA application_id = 1178949459")
        connection.execute("ATTACH ? AS new", (str(path),))
        connection.execute("INSERT OR REPLACE INTO meta SELECT * FROM new.meta")
        for table, columns in (
            ("classes", "id, label"),
            ("examples", "id, class_id, sha256, source, path, vector, added_at"),
            ("images", "sha256, data"),
        ):
            connection.execute(f"INSERT INTO {table} ({columns}) SELECT {columns} FROM new.{table}")
    shutil.copy(old, tmp_path / "older.fewshot")
    with closing(RegistryStore(old, create=False)) as store:
        assert problems_of(store) == []
        assert len(SnapshotCache(store).current()) == 60
    with closing(sqlite3.connect(old)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)
    assert repair_registry(tmp_path / "older.fewshot", tmp_path / "new.fewshot").lost == ()
    assert contents(tmp_path / "new.fewshot") == contents(path)


def test_a_repaired_registry_answers_as_the_one_it_came_from(tmp_path):
    colours = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
    with ClassRegistry(tmp_path / "r.fewshot", encoder=FakeEncoder()) as registry:
        for label, colour in colours.items():
            registry.add(label, [png(colour)])
    repair_registry(tmp_path / "r.fewshot", tmp_path / "new.fewshot")
    with ClassRegistry(tmp_path / "new.fewshot", encoder=FakeEncoder()) as registry:
        assert [p.label for p in registry.predict([png(c, 5) for c in colours.values()])] == list(colours)


def test_what_is_of_no_class_is_had_back_too(tmp_path):
    with ClassRegistry(tmp_path / "r.fewshot", encoder=FakeEncoder()) as registry:
        registry.add("red", [png((255, 0, 0))])
        registry.rejection.add_negatives([png((0, 0, 255)), png((0, 255, 255))])
    assert repair_registry(tmp_path / "r.fewshot", tmp_path / "new.fewshot").lost == ()
    with ClassRegistry(tmp_path / "new.fewshot", encoder=FakeEncoder()) as registry:
        assert registry.rejection.n_negatives == 2


def test_what_annotations_have_taught_is_had_back_too(path, tmp_path):
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("INSERT INTO annotations VALUES (7, 1, 1000, 'learned', NULL, NULL)")
        connection.execute("INSERT INTO annotations VALUES (8, 1, 2000, x'00', NULL, NULL)")  # damaged
        connection.execute("INSERT INTO deleted_tasks VALUES (3)")
        for number, example in ((1, 18), (2, 20)):
            connection.execute(
                f"INSERT INTO lessons VALUES ({number}, 7, 'choice', 'r{number}', 'class 5', {example}, NULL)"
            )
        connection.commit()
    change_byte_of_vector(path, 17)  # of example 18
    found = repair_registry(path, tmp_path / "new.fewshot")
    assert found.lost == (
        "example 18: what is left of it is not an example",
        "some of the annotations: learn their project from its export again",
    )
    with closing(sqlite3.connect(tmp_path / "new.fewshot")) as connection:
        assert connection.execute("SELECT id, updated FROM annotations").fetchall() == [(7, 1000)]
        assert connection.execute("SELECT id FROM deleted_tasks").fetchall() == [(3,)]
        assert connection.execute("SELECT id, example FROM lessons").fetchall() == [(1, None), (2, 20)]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("dim", None),
        ("dim", "4"),
        ("dim", 0),
        ("metric", "manhattan"),
        ("keep_images", "yes"),
        ("fingerprint", 7),
        ("encoder", "{"),
        ("encoder", "[]"),
        ("encoder", '{"name": 5}'),
        ("encoder", '{"name": "pocket", "layer": [1]}'),
        ("max_false_accept", "high"),
        ("max_false_accept", 7),
        ("revision", "x"),
        ("rewrites", None),
    ],
)
def test_settings_that_were_never_stored_are_called_damage(key, value, path):
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))
        connection.commit()
    with pytest.raises(RegistryError, match=rf"damaged: its settings say {key} is .*fewshot repair") as error:
        ClassRegistry(path)
    assert repr(value) in str(error.value)


def test_the_commands_say_what_they_did(path, tmp_path):
    run = CliRunner().invoke(main, ["backup", str(path), str(tmp_path / "copy")])
    assert json.loads(run.stdout) == {"file": str(tmp_path / "copy"), "bytes": path.stat().st_size, "examples": 60}
    change_byte_of_vector(path, 17)
    run = CliRunner().invoke(main, ["backup", str(path), str(tmp_path / "copy")])
    assert run.exit_code == 1
    assert "is damaged, so it was not copied" in run.stderr
    run = CliRunner().invoke(main, ["repair", str(path), str(tmp_path / "new")])
    assert json.loads(run.stdout) == {
        "path": str(tmp_path / "new"),
        "classes": 6,
        "examples": 59,
        "images": 59,
        "lost": ["example 18: what is left of it is not an example"],
    }
    assert "lost: example 18" in run.stderr


@pytest.mark.parametrize(
    ("stored", "left"),
    [
        ("Quokka", [{"Quokka": 1, "Emu": 1}, {"recovered-1": 1, "Emu": 1}]),  # a label
        ("2031-05-06", [{"Emu": 1}]),  # when an example was added
        ("sqeuclidean", []),  # the metric: without it nothing can be compared
        ("a limit", [{"Quokka": 1, "Emu": 1}]),  # another setting
    ],
)
def test_what_has_no_checksum_is_stored_twice_and_a_change_of_either_is_noticed_and_not_recovered_as_if_it_were_true(
    stored, left, tmp_path
):
    sound, damaged = tmp_path / "sound.fewshot", tmp_path / "damaged.fewshot"
    with ClassRegistry(sound, encoder=FakeEncoder(), metric="sqeuclidean") as registry:
        registry.add("Quokka", [png()])
        registry.add("Emu", [png((0, 0, 255))])
    with closing(sqlite3.connect(sound)) as connection, connection:
        connection.execute("UPDATE examples SET added_at = '2031-05-06' WHERE id = 1")
        connection.execute("INSERT INTO meta VALUES ('other', 'a limit')")
    content = sound.read_bytes()
    places = [at for at in range(len(content)) if content.startswith(stored.encode(), at)]
    assert len(places) == 2
    for number, at in enumerate(places):
        damaged.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        with closing(sqlite3.connect(damaged)) as connection:
            assert problems_in(connection)
        if not left:
            with pytest.raises(RegistryError, match="metric: two copies that differ"):
                repair_registry(damaged, tmp_path / "new.fewshot")
            continue
        repaired = repair_registry(damaged, tmp_path / f"{number}.fewshot")
        assert repaired.lost
        with ClassRegistry(repaired.path) as registry:
            assert registry.check() == []
            assert registry.classes() in left
