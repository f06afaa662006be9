"""A connection to a registry's file that threads share: each transaction waits for its turn, and so does closing."""

from __future__ import annotations

import errno
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from fewshot.errors import RegistryBusy, RegistryError
from fewshot.files import DOUBT_SECONDS, code_of, why_no_locks
from fewshot.registry.schema import is_busy

_FIRST_PAUSE, _LONGEST_PAUSE = 0.001, 0.05


class SharedConnection:
    """One SQLite connection, used by one thread at a time and closed only when no thread is inside a transaction.

    While another process has the file, threads wait outside: they do not hold up each other, nor closing.

    Parameters
    ----------
    path : str
        The file as the user named it, for messages.
    file : str
        Its absolute path.
    busy_seconds : float
        How long a transaction waits for its turn.
    on_wait : callable, optional
        Called with the seconds of each wait for another process.

    Attributes
    ----------
    raw : sqlite3.Connection
        For statements inside a transaction.
    closing : bool
        Whether it is closed, or about to be.
    lockless : bool
        Whether it was found that no file in the folder can be locked.
    """

    def __init__(self, path: str, file: str, busy_seconds: float, on_wait: Callable[[float], None] | None) -> None:
        self._path, self._busy_seconds, self._on_wait = path, busy_seconds, on_wait
        self._lock = threading.RLock()
        self._process = os.getpid()
        self.closing = self.lockless = False
        self._doubted = False
        # SQLite itself does not wait: its wait cannot be interrupted.
        self.raw = sqlite3.connect(file, timeout=0.0, isolation_level=None, check_same_thread=False)

    @contextmanager
    def transaction(self, kind: str) -> Iterator[sqlite3.Connection]:
        """Hold a transaction, "DEFERRED" or "IMMEDIATE"; what it has not committed at its end is rolled back.

        A deferred one inside another is part of that.

        Raises
        ------
        RegistryBusy : if it is not its turn within ``busy_seconds``.
        RegistryError : if the connection is closed, or was opened before this process was forked.
        """
        nested = self._begin(kind)
        try:
            yield self.raw
        finally:
            if not nested:
                # Of a damaged file COMMIT would fail again; where the disk fails this too, the next to open the file
                # rolls back. Closed by this very thread, there is nothing to roll back.
                with suppress(sqlite3.Error):
                    if self.raw.in_transaction:
                        self.raw.execute("ROLLBACK")
            self._lock.release()

    def commit(self) -> None:
        """Commit the transaction; waits for others that read."""
        for _ in self._waiting():
            try:
                self.raw.execute("COMMIT")
                return
            except sqlite3.OperationalError as error:
                if not is_busy(error):
                    raise

    def run_alone(self, statement: str) -> None:
        """Run a statement that no transaction may surround, such as VACUUM; waits for others that read or write.

        Raises
        ------
        RegistryBusy, RegistryError : as of ``transaction``; also inside a transaction of this thread.
        """
        for left in self._waiting():
            if not self._lock.acquire(timeout=left):
                raise self._busy("another thread of this process, which has been using it")
            try:
                if self.closing:
                    raise self.refusal()
                if self.raw.in_transaction:
                    raise RegistryError(f"{self._path} is being read here: end the block that reads it first")
                self.raw.execute(statement).fetchall()
                return
            except sqlite3.OperationalError as error:
                if not is_busy(error):
                    raise
            finally:
                self._lock.release()

    @contextmanager
    def closed(self, patience: float | None = None) -> Iterator[None]:
        """Close the connection at the end of the block, in which no other thread is inside a transaction.

        Transactions that begin later are refused; those in progress are waited for and, after ``patience`` seconds,
        interrupted.
        """
        self.closing = True
        mine = os.getpid() == self._process  # else a thread that is not in this process may hold the lock for ever
        while mine and not self._lock.acquire(timeout=-1 if patience is None else patience):
            with suppress(sqlite3.ProgrammingError):  # closed by another thread meanwhile
                self.raw.interrupt()
            patience = _LONGEST_PAUSE
        try:
            yield
        finally:
            self.raw.close()
            if mine:
                self._lock.release()

    def refusal(self) -> RegistryError:
        """Return the error for who comes after closing."""
        return RegistryError(f"{self._path} has been closed; open it again")

    def _begin(self, kind: str) -> bool:
        """Take the lock, and begin a transaction unless this thread is in one already, which is returned."""
        if os.getpid() != self._process:
            raise RegistryError(f"{self._path} was opened before this process was forked; open it again in the child")
        for left in self._waiting():
            if not self._lock.acquire(timeout=left):
                raise self._busy("another thread of this process, which has been using it")
            entered = False
            try:
                nested = kind == "DEFERRED" and self.raw.in_transaction
                entered = nested or self._begun(kind, left)
                if entered:
                    return nested
            finally:
                if not entered:
                    self._lock.release()
        raise AssertionError  # the wait has ended with an error

    def _begun(self, kind: str, left: float) -> bool:
        """Begin a transaction, or return False where another process has the file."""
        if self.closing:
            raise self.refusal()
        try:
            self.raw.execute(f"BEGIN {kind}")
            self.raw.execute("SELECT 1 FROM sqlite_master").fetchone()  # a deferred one takes its lock only now
            return True
        except BaseException as error:
            with suppress(sqlite3.Error):
                if self.raw.in_transaction:
                    self.raw.execute("ROLLBACK")
            long = left <= max(0.0, self._busy_seconds - DOUBT_SECONDS)
            if (is_busy(error) and long) or code_of(error) == errno.EIO:
                self._check_locks(error)
            if not is_busy(error):
                raise
            return False

    def _check_locks(self, cause: BaseException) -> None:
        """Raise if no file in the folder can be locked: network drives without locks say of each file that it is."""
        why = None if self._doubted else why_no_locks(self._path)
        self._doubted, self.lockless = True, why is not None
        if why is not None:
            raise RegistryError(f"{why}; nothing is wrong with the registry") from cause

    def _waiting(self) -> Iterator[float]:
        """Yield the seconds left, again after a pause each time, until there are none."""
        start, pause = time.monotonic(), _FIRST_PAUSE
        try:
            while True:
                left = max(0.0, start + self._busy_seconds - time.monotonic())
                yield left
                if left == 0.0:
                    raise self._busy("another process, which has been writing to it")
                time.sleep(min(pause, left))
                pause = min(2.0 * pause, _LONGEST_PAUSE)
        finally:
            if self._on_wait is not None and pause > _FIRST_PAUSE:
                self._on_wait(time.monotonic() - start)

    def _busy(self, who: str) -> RegistryBusy:
        return RegistryBusy(
            f"{self._path} is in use by {who} for longer than {self._busy_seconds:g} s, as a large import or a reindex "
            "may. Wait for that to end, then try again"
        )
