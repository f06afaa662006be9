"""What is served: one registry or a folder of them, and nothing beside it."""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager

import pytest
import torch
from fakes import BLUE, GREEN, RED, FakeEncoder, png
from service_client import client, files, problem, ready

from fewshot import ClassRegistry
from fewshot.errors import RegistryBusy, RegistryError
from fewshot.service.batching import DEADLINE, Overloaded, set_torch_threads
from fewshot.service.limits import Limits
from fewshot.service.problems import problem_of
from fewshot.service.registry_pool import RegistryPool


def make(path, label="red", colour=RED, **encoder):
    with ClassRegistry(path, encoder=FakeEncoder(**encoder)) as registry:
        registry.add(label, [png(colour)])
    return path


def labels(registries, name):
    with registries.use(name) as registry:
        return list(registry.classes())


@pytest.fixture
def served(tmp_path):
    registries = RegistryPool(tmp_path / "served", encoder=FakeEncoder(name="colours"))
    yield registries
    registries.close()


def test_a_folder_is_created_and_registries_in_it(tmp_path):
    with client(tmp_path / "deep" / "served") as http:
        assert http.get("/v1/registries").json() == {"registries": [], "can_create": True}
        assert http.post("/v1/registries", json={"name": "b-1"}).status_code == 201
        assert http.post("/v1/registries", json={"name": "A.2"}).json()["examples"] == 0
        assert "there is a registry b-1 already" in problem(http.post("/v1/registries", json={"name": "b-1"}), 409)
        http.post("/v1/registries/b-1/examples", data={"label": "red"}, files=files(png(RED)))
        listed = http.get("/v1/registries").json()["registries"]
        assert [(one["name"], one["classes"], one["examples"]) for one in listed] == [("A.2", 0, 0), ("b-1", 1, 1)]
        (answer,) = http.post("/v1/registries/b-1/predict", files=files(png(BLUE))).json()["predictions"]
        assert answer["label"] == "red"
        assert http.get("/v1/registries/A.2").json()["classes"] == 0
    assert sorted(os.listdir(tmp_path / "deep" / "served")) == ["A.2.fewshot", "b-1.fewshot"]


@pytest.mark.parametrize(
    "name", ["../other", "..", ".", "", ".hidden", "a/b", "a\\b", "a b", "a\0", "é", "x" * 101, "a\n", "%2e%2e"]
)
def test_a_name_that_could_lead_elsewhere_names_nothing(served, name):
    make(served.folder.parent / "other.fewshot")
    with pytest.raises(ValueError, match="cannot name a registry"), served.use(name):
        pass
    with pytest.raises(ValueError, match="cannot name a registry"):
        served.create(name)
    assert os.listdir(served.folder) == []


def test_no_path_in_an_url_leads_out_of_the_folder(tmp_path):
    make(tmp_path / "other.fewshot")
    with client(tmp_path / "served") as http:
        for name in ("../other", "..%2fother", "%2e%2e%2fother", "....//other", "..%5cother", "%2e%2e/other"):
            answer = http.get(f"/v1/registries/{name}/classes")
            assert answer.status_code in (404, 422), name
            assert "red" not in answer.text


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_a_link_out_of_the_folder_is_not_followed_and_one_within_is(served):
    outside, inside = make(served.folder.parent / "other.fewshot"), make(served.folder / "a.fewshot")
    os.symlink(outside, served.folder / "out.fewshot")
    os.symlink(inside, served.folder / "same.fewshot")
    os.symlink(served.folder.parent / "nowhere.fewshot", served.folder / "loose.fewshot")
    assert served.names() == ["a", "same"]
    for name in ("out", "loose"):
        with pytest.raises(KeyError, match=f"no registry '{name}'"), served.use(name):
            pass
    with pytest.raises(FileExistsError):
        served.create("loose")
    assert not (served.folder.parent / "nowhere.fewshot").exists()


def test_other_files_and_folders_are_no_registries(served):
    make(served.folder / "a.fewshot")
    for name in ("b.fewshot.vectors.index", "c.txt", ".d.fewshot", "a b.fewshot"):
        (served.folder / name).write_text("x")
    (served.folder / "e.fewshot").mkdir()
    assert served.names() == ["a"]


def test_one_that_cannot_be_opened_is_listed_with_the_reason_and_stops_no_other(tmp_path, caplog):
    caplog.set_level("WARNING", logger="fewshot.service")
    make(tmp_path / "good.fewshot")
    (tmp_path / "bad.fewshot").write_bytes(b"not a database, but long enough to be taken for something" * 20)
    with client(tmp_path) as http:
        bad, good = http.get("/v1/registries").json()["registries"]
        assert (bad["name"], bad["classes"], "is not a fewshot registry" in bad["problem"]) == ("bad", None, True)
        assert (good["name"], good["classes"], good["problem"]) == ("good", 1, None)
        said = problem(http.get("/v1/registries/bad"), 503)
        assert said.startswith("bad.fewshot is not a fewshot registry")
        assert str(tmp_path) not in said + bad["problem"]
    assert [str(tmp_path) in record.fields["detail"] for record in caplog.records] == [True]


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("/srv/a b/x.fewshot is damaged (at '/srv/a b/x.fewshot')", "x.fewshot is damaged (at 'x.fewshot')"),
        ("no weights in local-dir:/home/me/enc; see https://host.org/a/b", "no weights in local-dir:enc; see https://host.org/a/b"),
        ("[Errno 13] Permission denied: '/home/some one/key'", "[Errno 13] Permission denied: 'key'"),
        (r"cannot read C:\Users\me\x.bin, d/e or /f", "cannot read x.bin, d/e or /f"),
    ],
)  # fmt: skip
def test_folders_of_this_machine_are_in_the_log_only(said, told):
    problem = problem_of(RegistryError(said), "/srv/a b/x.fewshot", "x")
    assert (problem.status_code, problem.detail, problem.cause) == (503, told, said)


@contextmanager
def locked(path):
    """A registry that another connection has locked, and so cannot be opened meanwhile."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        try:
            yield
        finally:
            other.execute("ROLLBACK")


def test_a_locked_registry_holds_up_no_request_for_another_and_is_there_once_it_is_free(served, monkeypatch):
    opening, connect = threading.Event(), sqlite3.connect

    def watched(path, *args, **settings):
        if os.path.basename(path) == "locked.fewshot":
            opening.set()
        return connect(path, *args, **settings)

    make(served.folder / "locked.fewshot"), make(served.folder / "free.fewshot", label="green", colour=GREEN)
    with ThreadPoolExecutor(4) as threads:
        with locked(served.folder / "locked.fewshot"):
            monkeypatch.setattr(sqlite3, "connect", watched)
            waiting = threads.submit(labels, served, "locked")
            assert opening.wait(20)
            assert threads.submit(labels, served, "free").result(20) == ["green"]
            assert threads.submit(served.create, "new").result(20) is None
            assert threads.submit(lambda: served.encoders).result(20)
            assert not waiting.done()

            def late():
                DEADLINE.set(time.monotonic() + 0.01)
                return labels(served, "locked")

            with pytest.raises(Overloaded, match="registry locked is being opened"):
                threads.submit(late).result(20)
        assert waiting.result(20) == ["red"]


def test_requests_for_a_locked_registry_are_answered_before_their_limit_and_counted(tmp_path):
    make(tmp_path / "a.fewshot"), make(tmp_path / "b.fewshot")
    with client(tmp_path, limits=Limits(busy_seconds=0.05)) as http:
        ready(http)
        assert http.get("/v1/registries/a").status_code == 200
        for name in "ab":  # one that is open, one that is not
            with locked(tmp_path / f"{name}.fewshot"):
                answer = http.get(f"/v1/registries/{name}/classes")
                assert f"{name}.fewshot is in use by another process" in problem(answer, 503)
                assert answer.headers["retry-after"] == "5"
            assert http.get(f"/v1/registries/{name}/classes").status_code == 200
        text = http.get("/metrics").text
    assert "fewshot_registry_wait_seconds_count 2.0" in text
    assert 'fewshot_registry_wait_seconds_bucket{le="0.025"} 0.0' in text


def test_a_wait_for_a_locked_registry_is_shorter_than_the_limit_of_a_request(tmp_path):
    assert RegistryPool(tmp_path).waiting["busy_seconds"] == 10.0
    assert RegistryPool(tmp_path, limits=Limits(timeout_seconds=8.0)).waiting["busy_seconds"] == 4.0


def test_those_who_waited_while_another_request_found_a_registry_busy_do_not_wait_again(served, monkeypatch):
    make(served.folder / "a.fewshot")
    opened, coming, gate = [], [], threading.Event()
    exists = served._exists

    def busy(path):
        opened.append(path)
        assert gate.wait(20)
        raise RegistryBusy("in use")

    monkeypatch.setattr(served, "_opened", busy)
    monkeypatch.setattr(served, "_exists", lambda path: coming.append(path) or exists(path))
    with ThreadPoolExecutor(4) as threads:
        jobs = [threads.submit(labels, served, "a") for _ in range(4)]
        while len(coming) < 4:
            time.sleep(0.001)
        time.sleep(0.2)  # until the last of them waits, too
        gate.set()
        for job in jobs:
            with pytest.raises(RegistryBusy, match="in use"):
                job.result(20)
    assert len(opened) == 1
    with pytest.raises(RegistryBusy):
        labels(served, "a")
    assert len(opened) == 2


def test_a_locked_registry_is_listed_with_the_reason_and_stops_no_other(tmp_path, monkeypatch):
    monkeypatch.setattr("fewshot.service.routes.registry_routes._LIST_SECONDS", 0.2)
    make(tmp_path / "a.fewshot"), make(tmp_path / "b.fewshot")
    with client(tmp_path) as http:
        ready(http)
        assert http.get("/v1/registries/b").json()["classes"] == 1
        with locked(tmp_path / "a.fewshot"):
            a, b = http.get("/v1/registries").json()["registries"]
            assert (a["name"], a["classes"], a["problem"]) == (
                "a", None, "it could not be opened within 0.2 s; retry later"
            )  # fmt: skip
            assert (b["name"], b["classes"], b["problem"]) == ("b", 1, None)


def test_equal_encoders_are_one_in_memory_and_each_registry_has_its_own(served):
    make(served.folder / "a.fewshot"), make(served.folder / "b.fewshot")
    with served.use("a") as a, served.use("b") as b:
        assert a.encoder is b.encoder
    make(served.folder / "c.fewshot", times=2.0)  # of an encoder that has no name to load it by
    with pytest.raises(RegistryError, match=r"give it to create_app as encoder="), served.use("c"):
        pass
    assert [encoder.ready for encoder in served.encoders] == [True]


def test_an_encoder_is_loaded_by_its_name_once_for_all_registries_and_when_needed(served, monkeypatch):
    asked = []

    def load(name="pocket", **settings):
        asked.append((name, settings))
        return FakeEncoder(times=2.0, name=name)

    monkeypatch.setattr("fewshot.encoders.load_encoder", load)
    for name in ("a", "b"):
        make(served.folder / f"{name}.fewshot", times=2.0, name="doubled")
    with served.use("a") as a, served.use("b") as b:
        assert a.encoder is b.encoder
        assert a.classes() == {"red": 1}
        assert asked == []
        assert a.predict([png(RED)])[0].label == b.predict([png(RED)])[0].label == "red"
    assert asked == [("doubled", {})]


def test_an_encoder_loaded_in_a_request_uses_all_cores_though_the_request_uses_one(tmp_path, monkeypatch):
    had = []

    def load(name):
        had.append(torch.get_num_threads())
        return FakeEncoder(times=2.0, name=name)

    monkeypatch.setattr("fewshot.encoders.load_encoder", load)
    make(tmp_path / "a.fewshot", times=2.0, name="doubled")
    before = torch.get_num_threads()
    try:
        set_torch_threads(3)
        registries = RegistryPool(tmp_path, encoder=FakeEncoder())
        set_torch_threads(1)
        with registries.use("a") as opened:
            opened.predict([png(RED)])
        registries.close()
    finally:
        set_torch_threads(before)
    assert had == [3]


def test_a_registry_that_was_restored_or_removed_is_noticed(served):
    path = make(served.folder / "a.fewshot")
    shutil.copy(path, served.folder.parent / "copy")
    with served.use("a") as registry:
        registry.add("blue", [png(BLUE)])
    assert labels(served, "a") == ["red", "blue"]
    with served.use("a") as in_use:
        os.replace(served.folder.parent / "copy", path)
        assert labels(served, "a") == ["red"]
        assert list(in_use.classes()) == ["red", "blue"]  # whoever had it before has it still
    with pytest.raises(RegistryError, match="has been closed"):
        in_use.classes()
    os.remove(path)
    with pytest.raises(KeyError, match="no registry 'a'"), served.use("a"):
        pass


def test_a_registry_reindexed_by_another_process_is_opened_again(served, monkeypatch):
    monkeypatch.setattr("fewshot.encoders.load_encoder", lambda name: FakeEncoder(times=2.0, name=name))
    path = make(served.folder / "a.fewshot")
    with served.use("a") as registry:
        assert registry.predict([png(RED)])[0].label == "red"
    with ClassRegistry(path, encoder=FakeEncoder()) as elsewhere:
        elsewhere.reindex(FakeEncoder(times=2.0, name="doubled"))
    with pytest.raises(RegistryError, match="cannot be compared"), served.use("a") as registry:
        registry.predict([png(RED)])
    with served.use("a") as registry:
        assert registry.predict([png(RED)])[0].label == "red"
        assert registry.encoder.spec == {"name": "doubled"}


def test_the_least_recently_used_are_closed_and_opened_again(tmp_path):
    registries = RegistryPool(tmp_path, encoder=FakeEncoder(), limits=Limits(max_open_registries=2))
    for name in "abcd":
        make(tmp_path / f"{name}.fewshot", label=name)
    with registries.use("a") as a:
        for name in "bcd":
            labels(registries, name)
        assert list(a.classes()) == ["a"]  # in use, so it stays open
    assert [labels(registries, name) for name in "abcd"] == [["a"], ["b"], ["c"], ["d"]]
    assert len(registries._open) == 2
    registries.close()


def test_many_threads_add_and_predict_with_one_registry_and_nothing_is_lost(served):
    served.create("a")
    with served.use("a") as registry:
        registry.add("start", [png(GREEN)])
    errors = []

    def work(number):
        try:
            for n in range(3):
                with served.use("a") as registry:
                    registry.add(f"class {number}", [png((number, n, 1))])
                    registry.predict([png(RED)])
                    assert f"class {number}" in registry.classes()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    with served.use("a") as registry:
        assert registry.classes() == {"start": 1, **{f"class {n}": 3 for n in range(6)}} | registry.classes()
        assert sum(registry.classes().values()) == 19


def test_a_single_registry_is_created_when_missing_and_no_other_is_served(tmp_path):
    make(tmp_path / "other.fewshot")
    registries = RegistryPool(tmp_path / "my parts.fewshot", encoder=FakeEncoder())
    assert (registries.names(), registries.can_create) == (["my_parts"], False)
    assert labels(registries, "my_parts") == []
    with pytest.raises(KeyError, match="there is 'my_parts'"), registries.use("other"):
        pass
    with pytest.raises(RegistryError, match="one registry is served"):
        registries.create("new")
    registries.close()


@pytest.mark.parametrize(
    ("name", "says"),
    [("photo.jpg", "is named as an image"), ("notes.txt", "is not a fewshot registry"), ("file/below", "cannot make")],
)
def test_what_can_be_no_registry_is_refused_with_the_reason(tmp_path, name, says):
    for file in ("photo.jpg", "notes.txt", "file"):
        (tmp_path / file).write_bytes(b"some words that are no database, and more of them " * 9)
    with pytest.raises(RegistryError, match=says):
        RegistryPool(tmp_path / name).warm()


# What is served vanishes, and comes back


def gone_and_back(tmp_path, http, name, missing, back):
    """What a server answers while what it serves is gone, and that all is well when it is back."""
    ready(http)
    assert http.get(f"/v1/registries/{name}").json()["classes"] == 1
    missing()
    assert http.get("/healthz").status_code == 200
    status = http.get("/readyz")
    told = [
        problem(http.get("/v1/registries"), 503),
        problem(http.get(f"/v1/registries/{name}/classes"), 503),
        problem(http.post(f"/v1/registries/{name}/predict", files=files(png(RED))), 503),
    ]
    if http.app.state.registries.can_create:
        told.append(problem(http.post("/v1/registries", json={"name": "new"}), 503))
    back()
    assert http.get("/readyz").json()["status"] == "ok"
    assert http.get(f"/v1/registries/{name}").json()["classes"] == 1
    assert [one["classes"] for one in http.get("/v1/registries").json()["registries"]] == [1]
    assert (status.status_code, {status.json()["detail"], *told}) == (503, {told[0]})
    assert str(tmp_path) not in told[0]
    return told[0]


@pytest.mark.parametrize("served", ["served", "served/parts.fewshot"], ids=["a folder", "a registry"])
def test_a_served_folder_that_is_removed_is_a_503_with_the_remedy_until_it_is_back(tmp_path, caplog, served):
    (tmp_path / "served").mkdir()
    make(tmp_path / "served" / "parts.fewshot")
    with client(tmp_path / served) as http:
        told = gone_and_back(
            tmp_path, http, "parts",
            lambda: os.rename(tmp_path / "served", tmp_path / "away"),
            lambda: os.rename(tmp_path / "away", tmp_path / "served"),
        )  # fmt: skip
    assert told == (
        "the served folder served cannot be read (No such file or directory): put it back, or mount its disk again; "
        "the server then goes on by itself"
    )
    assert not [record for record in caplog.records if record.exc_info]
    assert any(str(tmp_path) in record.fields["detail"] for record in caplog.records)  # the log says where


def test_a_served_registry_that_is_removed_is_not_made_anew(tmp_path):
    path = make(tmp_path / "parts.fewshot")
    with client(path) as http:
        told = gone_and_back(
            tmp_path, http, "parts",
            lambda: os.rename(path, tmp_path / "away"), lambda: os.rename(tmp_path / "away", path),
        )  # fmt: skip
    assert told.startswith("the served registry parts.fewshot is not there any more: put it back")


def test_a_served_folder_whose_disk_is_unmounted_is_not_taken_for_an_empty_one(tmp_path, monkeypatch):
    served, mounted = tmp_path / "served", [str(tmp_path / "served")]
    served.mkdir()
    make(served / "parts.fewshot")
    is_mount = os.path.ismount
    monkeypatch.setattr(os.path, "ismount", lambda path: str(path) in mounted or is_mount(path))

    def unmount():
        os.rename(served, tmp_path / "away")
        served.mkdir()
        mounted.clear()

    def mount():
        served.rmdir()
        os.rename(tmp_path / "away", served)
        mounted.append(str(served))

    with client(served) as http:
        told = gone_and_back(tmp_path, http, "parts", unmount, mount)
    assert told.startswith("the served folder served is on another disk than at the start: put it back, or mount")


def test_what_could_not_be_loaded_at_the_start_is_loaded_once_it_can_be(tmp_path):
    path = make(tmp_path / "parts.fewshot")
    with ExitStack() as held:
        held.enter_context(locked(path))  # before the server starts to load
        with client(path, limits=Limits(busy_seconds=0.01)) as http:
            ready(http)
            assert http.get("/readyz").json()["status"] == "failing"
            held.close()
            assert http.get("/readyz").json()["status"] == "ok"
