"""Cut the power at random moments of a registry's changes, keeping what was synced and a random part of the rest.

All that SQLite and Python do to files is recorded: creation, writes, truncation, renaming, removal, and what is synced,
of a file or of its folder. SQLite's own file system layer (the VFS of the library that ``sqlite3`` uses) is watched
from within the process, so the registry runs with its own settings. A cut is a point of that record: files keep what
was synced before it, of what came since nothing, all, or a random part of the 512-byte sectors, with noise where a file
grew; folders likewise. The registry then opens as anyone would, and must hold every acknowledged change.
"""

from __future__ import annotations

import ctypes
import os
import random
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from crash import ENCODERS, State, change, changed, held_by, inspect, perform, same, warm_up

from fewshot import ClassRegistry

SECTOR = 512
_CHANGES = 24  # of one recorded registry
_CUTS = 50  # of one recording
_BACKUP_EVERY = 6
_POINTER = ctypes.c_void_p
Event = tuple[Any, ...]


class _IoMethods(ctypes.Structure):
    _names = (
        "xClose xRead xWrite xTruncate xSync xFileSize xLock xUnlock xCheckReservedLock xFileControl xSectorSize "
        "xDeviceCharacteristics xShmMap xShmLock xShmBarrier xShmUnmap xFetch xUnfetch"
    )
    _fields_ = [("iVersion", ctypes.c_int), *((name, _POINTER) for name in _names.split())]


class _File(ctypes.Structure):
    _fields_ = [("pMethods", ctypes.POINTER(_IoMethods))]


class _Vfs(ctypes.Structure):
    _names = (
        "pNext zName pAppData xOpen xDelete xAccess xFullPathname xDlOpen xDlError xDlSym xDlClose xRandomness xSleep "
        "xCurrentTime xGetLastError xCurrentTimeInt64 xSetSystemCall xGetSystemCall xNextSystemCall"
    )
    _fields_ = [
        *((name, ctypes.c_int) for name in ("iVersion", "szOsFile", "mxPathname")),
        *((name, _POINTER) for name in _names.split()),
    ]


_INT, _TEXT = ctypes.c_int, ctypes.c_char_p
_FILE = ctypes.POINTER(_File)
# SQLite keeps the pointer to a file's name, so that is passed on as it came.
_OPEN = ctypes.CFUNCTYPE(_INT, _POINTER, _POINTER, _FILE, _INT, _POINTER)
_DELETE = ctypes.CFUNCTYPE(_INT, _POINTER, _TEXT, _INT)
_WRITE = ctypes.CFUNCTYPE(_INT, _FILE, _POINTER, _INT, ctypes.c_int64)
_TRUNCATE = ctypes.CFUNCTYPE(_INT, _FILE, ctypes.c_int64)
_SYNC = ctypes.CFUNCTYPE(_INT, _FILE, _INT)
_FOLDER = ctypes.CFUNCTYPE(_INT, _TEXT, _POINTER)
_SET_CALL = ctypes.CFUNCTYPE(_INT, _POINTER, _TEXT, _POINTER)
_GET_CALL = ctypes.CFUNCTYPE(_POINTER, _POINTER, _TEXT)


def _library() -> ctypes.CDLL:
    """The SQLite library that the module ``sqlite3`` uses."""
    with open("/proc/self/maps") as maps:
        loaded = {line.split()[-1] for line in maps if "libsqlite3" in line}
    if not loaded:
        raise RuntimeError(f"SQLite {sqlite3.sqlite_version} is part of this Python, whose files cannot be watched")
    return ctypes.CDLL(loaded.pop())


class Recorder:
    """What happens to the files of a folder: (what, file or path, ...), where a file is a number of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.events = os.fspath(folder), list[Event]()
        self._files, self._open, self._count = dict[str, int](), dict[int, int](), 0
        self._kept: list[Any] = []  # else what C calls would be collected

    def _created(self, path: str) -> int:
        self._count += 1
        self._files[path] = self._count
        self.events.append(("create", path, self._count))
        return self._count

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Record while the block runs."""
        find = _library().sqlite3_vfs_find
        find.argtypes, find.restype = [_TEXT], ctypes.POINTER(_Vfs)
        vfs = find(None)
        own, set_call = vfs.contents, _SET_CALL(vfs.contents.xSetSystemCall)
        before = own.xOpen, own.xDelete
        address = ctypes.cast(vfs, _POINTER)
        open_folder = _GET_CALL(own.xGetSystemCall)(address, b"openDirectory")
        watched = [_OPEN(self._opens(_OPEN(before[0]))), _DELETE(self._deletes(_DELETE(before[1])))]
        watched.append(_FOLDER(self._opens_folder(_FOLDER(open_folder))))
        own.xOpen, own.xDelete, folder = (ctypes.cast(one, _POINTER).value for one in watched)
        self._kept += watched
        set_call(address, b"openDirectory", folder)
        try:
            with mock.patch("os.replace", self._replace(os.replace)), mock.patch("os.fsync", self._fsync(os.fsync)):
                yield
        finally:
            own.xOpen, own.xDelete = before
            set_call(address, b"openDirectory", open_folder)

    def _opens(self, system: Callable[..., int]) -> Callable[..., int]:
        def opened(vfs: int, name: int | None, file: Any, flags: int, out: int) -> int:
            path = os.fsdecode(ctypes.string_at(name)) if name else ""
            new = path.startswith(self.folder) and not os.path.exists(path)
            status = system(vfs, name, file, flags, out)
            if not status and path.startswith(self.folder):
                self._watch(file, self._created(path) if new else self._files[path])
            return status

        return opened

    def _deletes(self, system: Callable[..., int]) -> Callable[..., int]:
        def deleted(vfs: int, name: bytes, sync: int) -> int:
            path = os.fsdecode(name)
            if self._files.pop(path, None):
                self.events.append(("unlink", path))
            return system(vfs, name, sync)

        return deleted

    def _opens_folder(self, system: Callable[..., int]) -> Callable[..., int]:
        def opened(name: bytes, out: int) -> int:  # of any file in it; SQLite syncs it at once, and nothing else
            if os.fsdecode(name).startswith(self.folder):
                self.events.append(("sync folder",))
            return system(name, out)

        return opened

    def _watch(self, file: Any, number: int) -> None:
        """Let the methods of one open file record."""
        old = file.contents.pMethods.contents
        new = _IoMethods.from_buffer_copy(old)
        write, truncate, sync = _WRITE(old.xWrite), _TRUNCATE(old.xTruncate), _SYNC(old.xSync)

        def written(file: Any, data: int, size: int, offset: int) -> int:
            self.events.append(("write", number, offset, ctypes.string_at(data, size)))
            return write(file, data, size, offset)

        def truncated(file: Any, size: int) -> int:
            self.events.append(("truncate", number, size))
            return truncate(file, size)

        def synced(file: Any, flags: int) -> int:
            status = sync(file, flags)
            self.events.append(("sync", number))
            return status

        made = [_WRITE(written), _TRUNCATE(truncated), _SYNC(synced)]
        new.xWrite, new.xTruncate, new.xSync = (ctypes.cast(one, _POINTER).value for one in made)
        self._kept += [new, *made]
        file.contents.pMethods = ctypes.pointer(new)

    def _replace(self, system: Callable[..., None]) -> Callable[..., None]:
        def replaced(old: Any, new: Any) -> None:
            system(old, new)
            source, target = os.path.abspath(old), os.path.abspath(new)
            self._files[target] = self._files.pop(source)
            self.events.append(("rename", source, target))

        return replaced

    def _fsync(self, system: Callable[[int], None]) -> Callable[[int], None]:
        def synced(descriptor: int) -> None:
            system(descriptor)
            path = os.readlink(f"/proc/self/fd/{descriptor}")
            self.events.append(("sync folder",) if os.path.isdir(path) else ("sync", self._files[path]))

        return synced


class Disk:
    """A disk to which a record of events is applied: what is surely on it, and what is not yet."""

    def __init__(self) -> None:
        self.entries, self.files = dict[str, int](), dict[int, bytearray]()
        self._waiting, self._moves = dict[int, list[Event]](), list[Event]()

    def apply(self, event: Event) -> None:
        """Go one event on."""
        what, *about = event
        if what in ("create", "unlink", "rename"):
            self._moves.append(event)
            if what == "create":
                self.files[about[1]], self._waiting[about[1]] = bytearray(), []
        elif what == "sync folder":
            for move in self._moves:
                _move(self.entries, move)
            self._moves.clear()
        elif what == "sync":
            for write in self._waiting[about[0]]:
                _write(self.files[about[0]], write)
            self._waiting[about[0]].clear()
        elif what in ("write", "truncate"):
            self._waiting[about[0]].append(event)

    def after_cut(self, chance: random.Random) -> dict[str, bytes]:
        """The files as they may be found: all that was synced, and nothing, all or some of the rest."""
        share = chance.choice((0.0, 1.0, chance.random()))
        entries = dict(self.entries)
        for move in self._moves:
            if chance.random() < share:
                _move(entries, move)
        found = {}
        for path, number in entries.items():
            content = bytearray(self.files[number])
            for event in self._waiting[number]:
                _write_some(content, event, share, chance)
            found[path] = bytes(content)
        return found


def _move(entries: dict[str, int], event: Event) -> None:
    if event[0] == "create":
        entries[event[1]] = event[2]
    elif event[0] == "unlink":
        entries.pop(event[1], None)
    elif event[1] in entries:
        entries[event[2]] = entries.pop(event[1])


def _write(content: bytearray, event: Event) -> None:
    if event[0] == "truncate":
        del content[event[2] :]
        return
    _, _, offset, data = event
    content.extend(bytes(max(0, offset + len(data) - len(content))))
    content[offset : offset + len(data)] = data


def _write_some(content: bytearray, event: Event, share: float, chance: random.Random) -> None:
    """Write each sector of an event, or not; where the file grows, there may be noise instead."""
    if event[0] == "truncate":
        if chance.random() < share:
            _write(content, event)
        return
    _, number, offset, data = event
    at = 0
    while at < len(data):
        end = min(len(data), at + SECTOR - (offset + at) % SECTOR)
        if chance.random() < share:
            if offset + at > len(content):
                content.extend(chance.randbytes(offset + at - len(content)))
            _write(content, ("write", number, offset + at, data[at:end]))
        elif chance.random() < share / 2 and offset + at >= len(content):
            content.extend(chance.randbytes(offset + end - len(content)))
        at = end


def record(folder: Path, seed: int, changes: int) -> tuple[list[Event], list[State]]:
    """Change a registry, acknowledging each change; returns the events and the state after each change."""
    recorder, state, states = Recorder(folder), State(), [State()]
    with recorder.watching(), ClassRegistry(folder / "r.fewshot", encoder=ENCODERS[0]) as registry:
        for number in range(changes):
            kind, given = change(seed, number, state)
            perform(registry, kind, given)
            state = changed(state, kind, given)
            states.append(state)
            recorder.events.append(("acknowledged", kind))
            if number % _BACKUP_EVERY == _BACKUP_EVERY - 1:
                registry.backup(folder / "copy.fewshot")
                recorder.events.append(("copied", len(states) - 1))
    return recorder.events, states


def problems_at(events: list[Event], states: list[State], cut: int, chance: random.Random, folder: Path) -> list[str]:
    """Say what a cut before event ``cut`` has cost of what was acknowledged."""
    disk, done, copied = Disk(), 0, 0
    for event in events[:cut]:
        disk.apply(event)
        done += event[0] == "acknowledged"
        copied = event[1] if event[0] == "copied" else copied
    for path, content in disk.after_cut(chance).items():
        (folder / Path(path).name).write_bytes(content)
    following = states[min(done + 1, len(states) - 1)]
    try:
        _, damage = inspect(folder / "r.fewshot", (states[done], following))
        problems = [*(f"lost: {one}" for one in damage.lost), *damage.half_written]
        if not (folder / "copy.fewshot").exists():
            return [*problems, "lost: the copy"] if copied else problems
        held, half = held_by(folder / "copy.fewshot")
        if not any(same(held, state) for state in states[copied:]):
            problems.append("lost: the copy's state")
        return problems + [f"copy: {one}" for one in half]
    except Exception as error:
        return [f"lost: cannot be opened: {error}"]


def run(cuts: int, seed: int, alter: Callable[[list[Event]], list[Event]] = lambda events: events) -> dict[str, Any]:
    """Cut the power ``cuts`` times; ``alter`` changes the record first, for a test that losses are noticed."""
    chance, worst, bad = random.Random(seed), 0.0, {"lost": 0, "half_written": 0}
    warm_up()
    survived = 0
    for start in range(0, cuts, _CUTS):
        with tempfile.TemporaryDirectory() as folder:
            events, states = record(Path(folder), seed + start, _CHANGES)
        events = alter(events)
        for number in range(start, min(cuts, start + _CUTS)):
            cut = chance.randrange(len(events) + 1)
            with tempfile.TemporaryDirectory() as folder:
                begun = time.perf_counter()
                problems = problems_at(events, states, cut, chance, Path(folder))
                worst = max(worst, time.perf_counter() - begun)
            survived += not problems
            for problem in problems:
                bad["lost" if problem.startswith("lost") else "half_written"] += 1
                print(f"cut {number}, before event {cut}: {problem}", file=sys.stderr)
    return {"tried": cuts, "survived": survived, **bad, "worst_seconds": round(worst, 3)}
