"""Files that arrive in a folder, once each is completely written."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from time import monotonic

from fewshot.media.cloud_files import is_url
from fewshot.media.medium import Medium
from fewshot.validation import check_extra

SETTLE_SECONDS = 0.5
"""A file is taken for whole once its size and time have stayed the same for so long."""
PATIENCE_SECONDS = 5.0
"""And a file that cannot be read for broken, after so long."""
# Between two looks at what is being written.
_TICK_MILLISECONDS = 200
# Files whose stamps are remembered, so that a change of rights or owner is no arrival.
_MOST_REMEMBERED = 100_000

Stamp = tuple[int, int]


@dataclass(frozen=True)
class _Pending:
    """A file that may still be written: its size and time, since when it has them, and how long it must."""

    stamp: Stamp
    since: float
    wait: float


@dataclass(frozen=True)
class Arrived:
    """What has become of files since the last look.

    Attributes
    ----------
    files : tuple of str
        Those that are whole, by the name of the folder as it was given, in the order in which they came.
    ignored : tuple of str
        Those of another kind, by their suffix.
    gone : tuple of str
        Those that were removed, or renamed, before they were whole.
    """

    files: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()


class Arrivals:
    """Watches a folder and its subfolders for files of a medium that are new or written anew; no hidden ones.

    Parameters
    ----------
    folder : path
    medium : Medium

    Raises
    ------
    MissingExtra : without watchfiles.
    NotADirectoryError : if there is no such folder.
    """

    def __init__(self, folder: str, medium: Medium) -> None:
        check_extra("watch", "watching a folder needs", "watchfiles")
        if is_url(folder):
            raise NotADirectoryError(f"{folder} is a URL, which cannot be watched: give a folder of this machine")
        if not os.path.isdir(folder):
            raise NotADirectoryError(f"no such folder: {folder}")
        self._folder, self._root, self._medium = folder, os.path.realpath(folder), medium
        self._pending: dict[str, _Pending] = {}
        self._seen: dict[str, Stamp] = {}
        self._doubted: dict[str, Stamp] = {}  # could not be read

    def __iter__(self) -> Iterator[Arrived]:
        """Yield what has arrived, again and again, also where that is nothing; the first shows that it watches.

        What happens while the caller is busy is in the next one.

        Raises
        ------
        FileNotFoundError : once the folder is removed.
        """
        from watchfiles import Change, watch

        watching = watch(
            self._root,
            watch_filter=None,
            debounce=_TICK_MILLISECONDS,
            rust_timeout=_TICK_MILLISECONDS,
            yield_on_timeout=True,
            ignore_permission_denied=True,
        )
        for changes in watching:
            if not os.path.isdir(self._root):
                raise FileNotFoundError(f"{self._folder}, which was watched, is gone")
            now = monotonic()
            for change, path in sorted(changes, key=lambda one: one[1]):
                if change != Change.deleted:
                    self._look(path, now)
            yield self._settled(now)

    def again(self, file: str) -> bool:
        """Put back a file that cannot be read, as it may not be whole yet; returns False the second time.

        It arrives again once it has changed, or after ``PATIENCE_SECONDS``.
        """
        path = os.path.join(self._root, os.path.relpath(file, self._folder))
        stamp = _stamp(path)
        if stamp is not None and self._doubted.pop(path, None) == stamp:
            return False
        self._doubted[path] = stamp or (0, 0)
        self._pending[path] = _Pending(stamp or (0, 0), monotonic(), PATIENCE_SECONDS)
        return True

    def _look(self, path: str, now: float) -> None:
        """Note a file, or those in a folder, which may have come before it was watched."""
        if os.path.isdir(path):
            for where, _, names in os.walk(path):
                for name in names:
                    self._look(os.path.join(where, name), now)
            return
        stamp = _stamp(path)
        if stamp is None or stamp == self._seen.get(path) or self._hidden(path):
            return
        known = self._pending.get(path)
        if known is None or known.stamp != stamp:
            self._pending[path] = _Pending(stamp, now, SETTLE_SECONDS)

    def _hidden(self, path: str) -> bool:
        return any(part.startswith(".") for part in os.path.relpath(path, self._root).split(os.sep))

    def _settled(self, now: float) -> Arrived:
        files: list[str] = []
        ignored: list[str] = []
        gone: list[str] = []
        for path, one in list(self._pending.items()):
            stamp = _stamp(path)
            mine = os.path.splitext(path)[1].lower() in self._medium.suffixes
            name = os.path.join(self._folder, os.path.relpath(path, self._root))
            if stamp is None:
                del self._pending[path]
                gone += [name] if mine else []
            elif stamp != one.stamp:
                self._doubted.pop(path, None)
                self._pending[path] = _Pending(stamp, now, SETTLE_SECONDS)
            elif now - one.since >= one.wait:
                del self._pending[path]
                self._remember(path, stamp)
                (files if mine else ignored).append(name)
        return Arrived(tuple(files), tuple(ignored), tuple(gone))

    def _remember(self, path: str, stamp: Stamp) -> None:
        self._seen.pop(path, None)
        self._seen[path] = stamp
        if len(self._seen) > _MOST_REMEMBERED:
            del self._seen[next(iter(self._seen))]


def _stamp(path: str) -> Stamp | None:
    """The size and time of a file; None where there is none, or something else."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return (found.st_size, found.st_mtime_ns) if stat.S_ISREG(found.st_mode) else None
