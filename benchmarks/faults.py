"""Full disks and read-only folders under everything that writes, one block, one file at a time.

A command runs on a small disk of its own (a tmpfs in a mount namespace; Linux) that has room for n more blocks of
4,096 bytes, for n = 0, 1, 2 ... until it succeeds; then with room for n more files; then on a disk that is read-only.
Whatever the room, what was there before must still be there and sound, nothing half-written may be left, and the
message must name the file and say what to do in one line. With room again, the same command must succeed.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import sqlite3
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from click.testing import CliRunner
from crash import Encoder, picture
from crash_tuning import asked
from crash_tuning import prepare as prepare_tuning

import fewshot.encoders
from fewshot import ClassRegistry, VectorIndex
from fewshot.cli import main as command_line
from fewshot.registry.backup import problems_of
from fewshot.registry.store import RegistryStore

BLOCK = 4096
_ROOM = {"size": 64 * 2**20, "nr_inodes": 10_000}
_SECONDS = 60
_EACH = 24  # so many blocks one by one, then ever larger steps
_REMEDIES = ("free some space", "permissions", "choose another", "make room", "another name")
_NEWNS, _NEWUSER, _PRIVATE, _READ_ONLY, _REMOUNT = 0x20000, 0x10000000, (1 << 18) | (1 << 14), 1, 32


class Named(Encoder):
    """The killer's encoder under a name that a registry remembers."""

    def __init__(self, name: str, times: int) -> None:
        super().__init__(times)
        self.spec = {"name": name}


ENCODERS = {"pocket": Named("pocket", 1), "other": Named("other", 2)}


@dataclass(frozen=True)
class Case:
    """Something that writes.

    Attributes
    ----------
    act : words after ``fewshot``, or a function
        Run in the folder that ``prepare`` has filled.
    writes : str
        The file that a refusal must name; of two, parted by a space, one of them.
    prepare : function of the folder
    leaves : tuple of str
        Patterns of what an interrupted run may keep, because the next one goes on from it.
    succeeds : bool
        Whether it must succeed however full the disk is: it only reads.
    real : bool
        Whether it needs a real network.
    """

    act: Sequence[str] | Callable[[], object]
    writes: str
    prepare: Callable[[Path], object]
    leaves: tuple[str, ...] = ()
    succeeds: bool = False
    real: bool = False


@dataclass
class Told:
    """What one run came to: whether it succeeded, its message, and what was wrong with how it went."""

    succeeded: bool
    message: str
    wrong: list[str] = field(default_factory=list)


def _registry(folder: Path, pictures: int = 6) -> None:
    with ClassRegistry(folder / "r.fewshot", encoder=ENCODERS["pocket"]) as registry:
        for n in range(pictures):
            registry.add(f"class {n % 3}", [picture(n)])


def _pictures(folder: Path, first: int = 100, count: int = 4) -> None:
    for n in range(first, first + count):
        place = folder / "photos" / f"kind {n % 2}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{n}.bmp").write_bytes(picture(n))


def _both(folder: Path) -> None:
    _registry(folder)
    _pictures(folder)


def _many(folder: Path) -> None:
    _registry(folder)
    _pictures(folder, count=70)


def _exported(folder: Path) -> None:
    _registry(folder, pictures=40)
    with ClassRegistry(folder / "r.fewshot", encoder=ENCODERS["pocket"]) as registry:
        registry.export(folder / "v.npz")
    (folder / "r.fewshot").unlink()


def _with_export(folder: Path) -> None:
    _exported(folder)
    with ClassRegistry(folder / "r.fewshot", encoder=ENCODERS["pocket"]) as registry:
        registry.add("class 9", [picture(99)])


def _copied(folder: Path) -> None:
    _registry(folder)
    with ClassRegistry(folder / "r.fewshot", encoder=ENCODERS["pocket"]) as registry:
        registry.backup(folder / "copy")
        registry.remove("class 0")


def _vectors(folder: Path) -> None:
    rng = np.random.default_rng(0)
    centres = np.repeat(rng.normal(size=(24, 8)), 24, axis=0)
    vectors = (centres + rng.normal(size=centres.shape)).astype(np.float32)
    np.savez(folder / "v.npz", vectors=vectors, labels=np.repeat([f"class {n}" for n in range(24)], 24))


def _limited(folder: Path) -> None:
    _registry(folder, pictures=9)
    rng = np.random.default_rng(0)
    np.savez(folder / "v.npz", vectors=rng.normal(size=(60, 4)).astype(np.float32), labels=np.repeat(range(20), 3))
    with ClassRegistry(folder / "r.fewshot", encoder=ENCODERS["pocket"]) as registry:
        registry.rejection.set(0.2)
    _pictures(folder)


def _index() -> None:
    index = VectorIndex(4, metric="cosine")
    index.add(np.eye(4, dtype=np.float32).repeat(700, axis=0), list(range(2800)))
    index.save("v.index")


CASES: dict[str, Case] = {
    "add to a new registry": Case(("add", "r.fewshot", "a", "photos"), "r.fewshot", _pictures),
    "add": Case(("add", "r.fewshot", "class 1", "photos"), "r.fewshot", _both),
    "add many": Case(("add", "r.fewshot", "--from-folder", "photos"), "r.fewshot", _many, ("r.fewshot",)),
    "add with a cache": Case(
        ("add", "r.fewshot", "a", "photos", "--cache", "v.db"), "v.db r.fewshot", _both, ("v.db",)
    ),
    "add --negative": Case(("add", "r.fewshot", "--negative", "photos"), "r.fewshot", _both),
    "remove": Case(("remove", "r.fewshot", "class 1"), "r.fewshot", _registry),
    "remove --example": Case(("remove", "r.fewshot", "--example", "2"), "r.fewshot", _registry),
    "rename": Case(("rename", "r.fewshot", "class 1", "b"), "r.fewshot", _registry),
    "merge": Case(("merge", "r.fewshot", "class 1", "class 2", "--into", "b"), "r.fewshot", _registry),
    "import to a new registry": Case(("import", "r.fewshot", "v.npz"), "r.fewshot", _exported),
    "import": Case(("import", "r.fewshot", "v.npz"), "r.fewshot", _with_export),
    "reindex": Case(("reindex", "r.fewshot", "--encoder", "other"), "r.fewshot", _registry),
    "threshold": Case(
        ("threshold", "r.fewshot", "--max-false-accept", "0.2", "--background", "v.npz"), "r.fewshot", _limited
    ),
    "threshold --forget": Case(("threshold", "r.fewshot", "--forget"), "r.fewshot", _limited),
    "predict": Case(("predict", "r.fewshot", "photos"), "r.fewshot", _limited, succeeds=True),
    "classes": Case(("classes", "r.fewshot"), "r.fewshot", _registry, succeeds=True),
    "export": Case(("export", "r.fewshot", "out.npz"), "out.npz", _registry),
    "export to parquet": Case(("export", "r.fewshot", "out.parquet"), "out.parquet", _registry),
    "backup": Case(("backup", "r.fewshot", "copy"), "copy", _registry),
    "backup over an older copy": Case(("backup", "r.fewshot", "copy"), "copy", _copied),
    "repair": Case(("repair", "r.fewshot", "new.fewshot"), "new.fewshot", _registry),
    "evaluate --out": Case(("evaluate", "r.fewshot", "photos", "--out", "rows.csv"), "rows.csv", _both),
    "demo --picture": Case(("demo", "--picture", "demo.png"), "demo.png", lambda _: None),
    "VectorIndex.save": Case(_index, "v.index", lambda _: None),
    "bench": Case(
        ("bench", "v.npz", "--methods", "prototype,nearest", "--episodes", "20", "--shots", "1", "--out", "out"),
        "out",
        _vectors,
        ("out", "out/*", "out/*/*"),
    ),
    "bench --open-set": Case(
        ("bench", "v.npz", "--open-set", "--episodes", "20", "--shots", "1", "--out", "out"),
        "out",
        _vectors,
        ("out", "out/*", "out/*/*"),
    ),
    "calibrate": Case(
        ("calibrate", "v.npz", "--episodes", "2", "--out", "sure.json", "--picture", "sure.png"),
        "sure.",
        _vectors,
        ("sure.json",),
    ),
    "tune": Case(
        ("tune", "r.fewshot", "--trainable", "last", "--steps", "1", "--learning-rate", "0.01", "--views", "1"),
        "r.fewshot",
        lambda folder: asked(prepare_tuning, folder),
        ("r.fewshot.encoder-*", "r.fewshot.encoder-*/*"),
        real=True,
    ),
    "train": Case(
        (
            *"train photos --arch conv4 --size 16 --epochs 1 --ways 2 --hold-out 0 --batch-size 8".split(),
            "--out",
            "net",
        ),
        "net",
        lambda folder: _pictures(folder, count=16),
        ("net.training", "net.training/*", "net.training/*/*"),
        real=True,
    ),
}


def _check(code: int) -> None:
    if code:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


class SmallDisk:
    """A disk of this process alone, mounted on a folder; for a forked process, which takes it away at its end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._libc = ctypes.CDLL(None, use_errno=True)
        user, group = os.geteuid(), os.getegid()
        _check(self._libc.unshare(_NEWNS | (_NEWUSER if user else 0)))
        if user:
            for name, text in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
                Path("/proc/self", name).write_text(text)
        _check(self._libc.mount(b"none", b"/", None, _PRIVATE, None))
        self._mount(0, **_ROOM)

    def _mount(self, flags: int, **options: int) -> None:
        text = ",".join(f"{name}={value}" for name, value in options.items())
        _check(self._libc.mount(b"tmpfs", os.fsencode(self.folder), b"tmpfs", flags, text.encode()))

    def leave_blocks(self, n: int) -> None:
        """Let there be room for n more blocks."""
        space = os.statvfs(self.folder)
        self._mount(_REMOUNT, size=max(1, space.f_blocks - space.f_bfree + n) * space.f_frsize)  # 0: without limit

    def leave_files(self, n: int) -> None:
        """Let there be room for n new files and folders."""
        space = os.statvfs(self.folder)
        self._mount(_REMOUNT, nr_inodes=space.f_files - space.f_ffree + n)

    def make_read_only(self) -> None:
        """Let nothing be written."""
        self._mount(_REMOUNT | _READ_ONLY)

    def make_room(self) -> None:
        """Take every limit away."""
        self._mount(_REMOUNT, **_ROOM)


def why_not_here() -> str:
    """Say why no small disk can be made here; "" where it can."""
    if not sys.platform.startswith("linux"):
        return "no small disk can be made here: it takes Linux's mount namespaces"
    with tempfile.TemporaryDirectory() as folder:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                SmallDisk(Path(folder))
                status = 0
            finally:
                os._exit(status)
        _, status = os.waitpid(child, 0)
    return "no small disk can be made here: this process may not mount one" if status else ""


def contents(folder: Path) -> dict[str, Any]:
    """Every file and folder, by name: of a registry its rows, of others a hash."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        found[name] = None if path.is_dir() else _registry_rows(path) or sha256(path.read_bytes()).hexdigest()
    return found


def _registry_rows(path: Path) -> list[Any] | None:
    """What a registry holds, or what is wrong with it; None of another file."""
    with open(path, "rb") as file:
        if b"FEWS" not in file.read(100):
            return None
    with closing(RegistryStore(path, create=False)) as store:
        if problems := problems_of(store):
            return ["damaged", *problems]
    with closing(sqlite3.connect(path)) as connection:
        rows: list[Any] = []
        for table in ("classes", "examples", "images", "outsiders", "meta"):
            columns = [c[1] for c in connection.execute(f"PRAGMA table_info({table})") if c[1] != "added_at"]
            rows += [(table, *row) for row in connection.execute(f"SELECT {', '.join(columns)} FROM {table}")]
    return sorted(repr(row) for row in rows if row[1] not in ("revision", "rewrites"))


def perform(case: Case) -> Told:
    """Run it in the working folder; what a person must never see is wrong."""
    if callable(case.act):
        try:
            case.act()
        except OSError as error:
            return Told(False, str(error))
        except Exception:
            return Told(False, "", [traceback.format_exc()])
        return Told(True, "")
    result = CliRunner().invoke(command_line, list(case.act))
    told = Told(result.exit_code == 0, result.stderr.strip())
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        told.wrong.append("".join(traceback.format_exception(result.exception)))
    if result.exit_code == 0 and not isinstance(json.loads(result.stdout), (dict, list)):
        told.wrong.append(f"no JSON: {result.stdout!r}")
    return told


def judged(case: Case, told: Told, before: dict[str, Any], after: dict[str, Any]) -> None:
    """Add to what is wrong whatever was lost, left behind, or not said."""
    if not told.succeeded and not told.wrong:
        told.wrong += _unsaid(case, told.message.splitlines()[-1] if told.message else "")
    told.wrong += _left_behind(case, told, before, after)
    for name, held in before.items():
        gone = set(held) - set(after.get(name) or ()) if isinstance(held, list) else set()
        if name not in after:
            told.wrong.append(f"lost: {name}")
        elif not told.succeeded and held != after[name] and (name not in case.leaves or gone):
            told.wrong.append(f"changed: {name}, without {sorted(gone)[:3]}")


def _unsaid(case: Case, last: str) -> Iterator[str]:
    if not any(name in last for name in case.writes.split()):
        yield f"the message does not name {case.writes}: {last!r}"
    if not any(remedy in last.lower() for remedy in _REMEDIES):
        yield f"the message says not what to do: {last!r}"
    if case.succeeds:
        yield f"it only reads, and failed: {last!r}"


def _left_behind(case: Case, told: Told, before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    for name, held in after.items():
        base = name.rpartition("/")[2]
        if base.startswith(".") or base.endswith(("-journal", ".part")):
            yield f"left behind: {name}"
        elif isinstance(held, list) and held[:1] == ["damaged"]:
            yield f"{name} is damaged: {held[1:]}"
        elif not told.succeeded and name not in before and not any(Path(name).match(p) for p in case.leaves):
            yield f"left behind: {name}"


def _once(case: Case, template: Path, limit: tuple[str, int], place: Path) -> tuple[Told, Told | None]:
    disk = SmallDisk(place)
    shutil.copytree(template, place, dirs_exist_ok=True)
    os.chdir(place)
    before = contents(place)
    kind, n = limit
    getattr(disk, kind)(*([] if kind == "make_read_only" else [n]))
    told = perform(case)
    disk.make_room()
    judged(case, told, before, contents(place))
    if told.succeeded:
        return told, None
    again = perform(case)
    if not again.succeeded and not again.wrong:
        again.wrong.append(f"it fails with room too: {again.message}")
    again.succeeded = True  # so that what it made is not called left behind
    judged(case, again, before if not case.writes else {}, contents(place))
    return told, again


def attempt(case: Case, template: Path, limit: tuple[str, int]) -> tuple[Told, Told | None]:
    """Try it once in a process of its own, whose disk ends with it."""
    reading, writing = os.pipe()
    place = Path(tempfile.mkdtemp())
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            signal.alarm(_SECONDS * (10 if case.real else 1))
            fakes = {} if case.real else {"load_encoder": lambda name="pocket", **_: ENCODERS[name]}
            with mock.patch.multiple(fewshot.encoders, **fakes) if fakes else mock.patch.dict({}):
                told = _once(case, template, limit, place)
            text = json.dumps([None if t is None else vars(t) for t in told])
        except BaseException:
            text = json.dumps([vars(Told(False, "", [traceback.format_exc()])), None])
        os.chdir("/")
        with os.fdopen(writing, "w") as pipe:
            pipe.write(text)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    _, status = os.waitpid(child, 0)
    place.rmdir()
    if not text:
        return Told(False, "", [f"the process died ({status}), or took over {_SECONDS} s"]), None
    first, second = json.loads(text)
    return Told(**first), None if second is None else Told(**second)


def _limits(kind: str, each: int) -> Iterator[int]:
    n = 0
    while n < _ROOM["nr_inodes"]:
        yield n
        n += 1 if n < each or kind == "leave_files" else max(1, 3 * n // each)


Run = tuple[str, int, Told, "Told | None"]


def tried(case: Case) -> list[Run]:
    """Try a case with ever more room: the kind and the number of each limit, the run under it, and the one after."""
    found: list[Run] = []
    with tempfile.TemporaryDirectory() as folder:
        template = Path(folder)
        case.prepare(template)
        enough = ("leave_blocks", _ROOM["nr_inodes"])
        free, _ = attempt(case, template, enough)
        if not free.succeeded:
            free.wrong.append(f"it fails with room: {free.message}")
            return [(*enough, free, None)]
        for kind in ("leave_blocks", "leave_files", "make_read_only"):
            for n in _limits(kind, _EACH // 4 if case.real else _EACH):
                first, second = attempt(case, template, (kind, n))
                found.append((kind, n, first, second))
                if first.succeeded or kind == "make_read_only":
                    break
    return found


def run(names: Sequence[str] = (), told: Callable[[str], object] = print) -> dict[str, Any]:
    """Try every case, or those named; each failure is told."""
    if why := why_not_here():
        sys.exit(why)
    counts = {"cases": 0, "tried": 0, "refused": 0, "failures": 0}
    for name, case in CASES.items():
        if names and name not in names:
            continue
        found = tried(case)
        counts["cases"] += 1
        seen = set()
        for kind, n, first, second in found:
            counts["tried"] += 1
            counts["refused"] += not first.succeeded
            wrong = first.wrong + (second.wrong if second else [])
            counts["failures"] += bool(wrong)
            for problem in wrong:
                told(f"{name}, {kind} {n}: {problem}")
            if not first.succeeded and (kind, first.message) not in seen:
                seen.add((kind, first.message))
                told(f"-- {name}, {kind} {n}: {first.message}")
    return counts
