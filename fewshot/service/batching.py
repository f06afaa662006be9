"""Micro-batching: what several threads ask for while a batch is computed is computed together in the next one."""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from starlette.requests import ClientDisconnect

from fewshot.errors import FewShotError, RegistryBusy

# After a worker found no memory to go on with.
_PAUSE = 0.05

Item = TypeVar("Item")
Result = TypeVar("Result")

DEADLINE: ContextVar[float | None] = ContextVar("DEADLINE", default=None)
"""When the current request must be done, by ``time.monotonic``; None: it may wait, and is never refused."""

DISCONNECTED: ContextVar[threading.Event | None] = ContextVar("DISCONNECTED", default=None)
"""Set once the client of the current request has disconnected; None: its work is done anyway."""


class Overloaded(FewShotError):
    """More is asked for than can be computed in time; retry later."""


class ClientDisconnected(ClientDisconnect):
    """The client of the request has disconnected, so that its work was dropped."""


def set_torch_threads(number: int) -> None:
    """Set how many threads torch uses for what the calling thread computes.

    Threads that share an operator wait for each other in a loop: where others want the cores too, a product with a
    matrix of a few rows then takes tens of milliseconds.
    """
    torch: Any = sys.modules.get("torch")  # a bundle is served without it
    if torch is not None and torch.get_num_threads() != number:
        torch.set_num_threads(number)


@dataclass(frozen=True)
class Batch(Generic[Item]):
    """Items of several jobs with equal options.

    Attributes
    ----------
    items : list
    options : Any
        As given to ``MicroBatcher.submit``.
    alone : bool
        Whether no other worker was computing when this one began.
    """

    items: list[Item]
    options: Any
    alone: bool


@dataclass(eq=False)
class _Job(Generic[Item, Result]):
    """The items of one caller, and their results so far."""

    items: list[Item]
    options: Any
    disconnected: threading.Event | None
    taken: int = 0
    results: dict[int, Result] = field(default_factory=dict)
    error: BaseException | None = None
    finished: threading.Event = field(default_factory=threading.Event)

    @property
    def dropped(self) -> bool:
        """Whether nothing more is to be computed for it."""
        return self.error is not None or (self.disconnected is not None and self.disconnected.is_set())

    @property
    def left(self) -> int:
        """How many items are still to be taken."""
        return 0 if self.dropped else len(self.items) - self.taken

    def take(self, count: int) -> _Part[Item, Result]:
        start, self.taken = self.taken, self.taken + count
        return _Part(self, start, self.items[start : self.taken])

    def fail(self, error: BaseException) -> None:
        self.error = self.error or error
        self.finished.set()


@dataclass(frozen=True)
class _Part(Generic[Item, Result]):
    """Consecutive items of a job, computed in one batch."""

    job: _Job[Item, Result]
    start: int
    items: list[Item]

    def finish(self, results: Sequence[Result]) -> None:
        job = self.job
        job.results.update(enumerate(results, start=self.start))
        if len(job.results) == len(job.items):
            job.finished.set()


class MicroBatcher(Generic[Item, Result]):
    """Lets any number of threads share one computation, which takes little longer for many items than for one.

    Worker threads take a batch as soon as they are free: an item that comes alone is computed alone, those that come
    meanwhile together. An error is the error of the caller whose items cause it, and of no other.

    Parameters
    ----------
    compute : callable
        Turns a ``Batch`` into one result an item, in their order.
    batch_size : int
        Items of a batch.
    turn : int, optional
        Items of one caller before it is the next one's turn, so that one with many does not hold up the others. By
        default the items of a caller are computed in one batch, however many they are.
    workers : int, default 1
        Threads that compute; started with the first job.
    queue_size : int, optional
        Items that may wait; a job with a ``DEADLINE`` that does not fit in is refused. Unlimited by default.
    name : str
        What the items are, for errors and the threads' names.
    on_batch : callable, optional
        Called after each batch with its number of items and the seconds it took.
    """

    def __init__(
        self,
        compute: Callable[[Batch[Item]], Iterable[Result]],
        *,
        batch_size: int,
        turn: int | None = None,
        workers: int = 1,
        queue_size: int | None = None,
        name: str = "items",
        on_batch: Callable[[int, float], None] | None = None,
    ) -> None:
        self.batch_size, self.workers = batch_size, workers
        self._compute, self._turn, self._queue_size = compute, turn, queue_size
        self._name, self._on_batch = name, on_batch
        self._changed = threading.Condition()
        self._queue: deque[_Job[Item, Result]] = deque()
        self._threads: list[threading.Thread] = []
        self._idle = 0
        self._closed = False

    @property
    def queued(self) -> int:
        """How many items wait to be computed."""
        with self._changed:
            return sum(job.left for job in self._queue)

    def submit(self, items: Iterable[Item], options: Any = None) -> list[Result]:
        """Return one result an item; waits until all are computed.

        Raises
        ------
        Overloaded : if too many wait, or they are not computed by ``DEADLINE``; nothing more is computed for them then.
        ClientDisconnected : if ``DISCONNECTED`` was set before all were computed.
        """
        job: _Job[Item, Result] = _Job(list(items), options, DISCONNECTED.get())
        if not job.items:
            return []
        deadline = DEADLINE.get()
        self._enqueue(job, deadline)
        if not job.finished.wait(None if deadline is None else max(0.0, deadline - time.monotonic())):
            with self._changed:
                late = "were not computed in time, and nothing was changed; send fewer, or retry later"
                job.fail(Overloaded(f"the {self._name} {late}"))
        if job.error is not None:
            raise job.error
        return [job.results[n] for n in range(len(job.items))]

    def close(self) -> None:
        """Compute what waits, and stop; what is submitted later is refused."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _enqueue(self, job: _Job[Item, Result], deadline: float | None) -> None:
        with self._changed:
            if self._closed:
                raise Overloaded("the server is stopping")
            ahead = sum(other.left for other in self._queue)
            limit = None if deadline is None else self._queue_size
            if limit is not None and ahead and ahead + len(job.items) > limit:
                raise Overloaded(f"{ahead} {self._name} are queued already; retry later")
            self._queue.append(job)
            try:
                self._start_workers()
            except (RuntimeError, MemoryError):  # there is no memory for one more; fewer do, too
                if not self._threads:
                    self._queue.remove(job)
                    raise
            self._changed.notify_all()

    def _start_workers(self) -> None:
        while len(self._threads) < self.workers:
            thread = threading.Thread(target=self._work, name=f"fewshot {self._name}", daemon=True)
            thread.start()
            self._threads.append(thread)
            self._idle += 1

    def _work(self) -> None:
        while True:
            try:
                with self._changed:
                    while not (parts := self._next()):
                        if self._closed:
                            return
                        self._changed.wait()
                    alone = self._idle == len(self._threads)
                    self._idle -= 1
            except MemoryError:  # of this thread's own: the next try may find some
                time.sleep(_PAUSE)
                continue
            start = time.perf_counter()
            try:
                self._run(parts, alone=alone)
                if self._on_batch is not None:
                    self._on_batch(sum(len(part.items) for part in parts), time.perf_counter() - start)
            except BaseException as error:  # a worker lives on; whoever has no results yet is told
                for part in parts:
                    if not part.job.finished.is_set():
                        part.job.fail(error)
            with self._changed:
                self._idle += 1

    def _next(self) -> list[_Part[Item, Result]]:
        """Take a batch off the queue: that of the job which has waited longest, filled with others of equal options."""
        # A share of what waits, while other workers are idle.
        room = min(self.batch_size, -(-sum(job.left for job in self._queue) // self._idle))
        parts: list[_Part[Item, Result]] = []
        unfit: list[_Job[Item, Result]] = []
        taken: list[_Job[Item, Result]] = []
        try:
            while self._queue and (room > 0 or self._queue[0].dropped):
                taken.append(job := self._queue.popleft())
                if job.dropped:
                    job.fail(ClientDisconnected())
                    continue
                size = job.left if self._turn is None else min(room, self._turn, job.left)
                if parts and (size > room or job.options != parts[0].job.options):
                    unfit.append(job)
                    continue
                parts.append(job.take(size))
                room -= size
                if job.left:
                    self._queue.append(job)
            self._queue.extendleft(reversed(unfit))
        except MemoryError as error:
            for job in taken:  # else nobody would compute them
                job.fail(error)
            raise
        return parts

    def _run(self, parts: list[_Part[Item, Result]], *, alone: bool) -> None:
        items = [item for part in parts for item in part.items]
        try:
            results = list(self._compute(Batch(items, parts[0].job.options, alone)))
            if len(results) != len(items):
                raise RuntimeError(f"{len(results)} results of {len(items)} {self._name}")
        except BaseException as error:
            if len(parts) > 1 and not isinstance(
                error, RegistryBusy
            ):  # whose items cause it shows when each caller's are computed alone
                for part in parts:
                    self._run([part], alone=alone)
            else:
                with self._changed:
                    for part in parts:
                        part.job.fail(error)
            return
        with self._changed:
            for part in parts:
                part.finish(results[: len(part.items)])
                del results[: len(part.items)]
