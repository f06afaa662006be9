"""One encoder for many requests: what they ask for at the same time is computed in one batch."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from starlette.requests import ClientDisconnect

from fewshot.encoders import Encoded, all_or_raise, check_image_batch, encode_valid
from fewshot.errors import EncoderMismatch, FewShotError
from fewshot.media import ImageSource

if TYPE_CHECKING:
    from fewshot.encoders import Encoder

# Pictures of one batch where the encoder does not say: it parts them further itself.
_BATCH = 64
# Pictures that one caller is given before it is the next one's turn.
_TURN = 8

DEADLINE: ContextVar[float | None] = ContextVar("DEADLINE", default=None)
"""When the request in work must have its pictures, by ``time.monotonic``; None: it can wait, and is never refused."""

GONE: ContextVar[threading.Event | None] = ContextVar("GONE", default=None)
"""Set once the client of the request in work has gone; None: what it asks for is done anyway."""


class Busy(FewShotError):
    """More is asked for than can be computed in time; ask again later."""


class Gone(ClientDisconnect):
    """Nobody waits for these pictures any more."""


def use_cores(number: int) -> None:
    """Have torch use so many cores for what this thread computes.

    Threads that share an operator wait for each other in a loop: where others want the cores too, a matrix of a few
    rows then takes tens of milliseconds of both.
    """
    if torch.get_num_threads() != number:
        torch.set_num_threads(number)


@dataclass(eq=False)
class _Job:
    """One caller's pictures, and what has become of them so far."""

    images: list[ImageSource]
    gone: threading.Event | None = None
    taken: int = 0
    done: int = 0
    parts: list[tuple[int, Encoded]] = field(default_factory=list)
    error: BaseException | None = None
    finished: threading.Event = field(default_factory=threading.Event)

    @property
    def left(self) -> int:
        """Pictures that are still to be taken."""
        return 0 if self.dropped else len(self.images) - self.taken

    @property
    def dropped(self) -> bool:
        """Whether nothing more is to be computed for it."""
        return self.error is not None or (self.gone is not None and self.gone.is_set())

    def take(self, most: int) -> _Part:
        start, self.taken = self.taken, min(len(self.images), self.taken + most)
        return _Part(self, start, self.images[start : self.taken])

    def settle(self, part: _Part, encoded: Encoded | None, error: BaseException | None) -> None:
        """Take in the outcome of a part; wake the caller once there is nothing left to wait for."""
        self.done += len(part.images)
        self.error = self.error or error
        if encoded is not None:
            self.parts.append((part.start, encoded))
        if self.error is not None or self.done == len(self.images):
            self.finished.set()


@dataclass(frozen=True)
class _Part:
    job: _Job
    start: int
    images: list[ImageSource]


@dataclass(frozen=True)
class Identity:
    """What is known of an encoder before it is loaded: its fingerprint, embedding size d, and how to load it."""

    fingerprint: str
    dim: int
    spec: dict[str, Any]


class BatchingEncoder:
    """An encoder that any number of threads may ask at once; threads of its own compute what they ask in batches.

    There are as many as the encoder has ``lanes``, else one. They wait for nobody: a picture that comes alone is
    computed alone, and those that come meanwhile together. Callers take turns, so that one with many pictures does not
    hold up the others. One caller's unreadable picture, or one that the encoder fails at, is that caller's error only.

    Parameters
    ----------
    load : callable
        Gives the encoder, when first needed.
    identity : Identity, optional
        What it is known to be; until it is loaded, it answers for it.
    waiting : int
        Pictures that may wait, see ``Limits``.
    seen : callable, optional
        Told of each batch: how many pictures, and the seconds they took.
    cores : int, optional
        How many it may compute with; by default those that torch uses in this thread.
    """

    def __init__(
        self,
        load: Callable[[], Encoder],
        identity: Identity | None = None,
        *,
        waiting: int,
        seen: Callable[[int, float], None] | None = None,
        cores: int | None = None,
    ) -> None:
        self._load, self._identity = load, identity
        self._most, self._seen = waiting, seen
        self._cores = cores or torch.get_num_threads()
        self._loading = threading.Lock()
        self._encoder: Encoder | None = None
        self._lanes: tuple[int, int] | None = None
        self._changed = threading.Condition()
        self._queue: deque[_Job] = deque()
        self._threads: list[threading.Thread] = []
        self._idle = 0
        self._closed = False

    def loaded(self) -> Encoder:
        """Return the encoder itself, loaded if it was not.

        Raises
        ------
        EncoderMismatch : if it is not what it was known to be.
        """
        with self._loading:
            if self._encoder is None:
                use_cores(self._cores)  # an encoder takes it from the thread that loads it how many there are
                encoder = self._load()
                known = self._identity
                if known is not None and encoder.fingerprint != known.fingerprint:
                    raise EncoderMismatch(
                        f"{known.spec.get('name')} gives other vectors now (fingerprint {encoder.fingerprint[:8]}) "
                        f"than when the registry was made ({known.fingerprint[:8]}). Put back the weights of then, or "
                        "rebuild the registry with: fewshot reindex"
                    )
                spec = getattr(encoder, "spec", {})
                self._identity = Identity(encoder.fingerprint, encoder.dim, spec)
                self._lanes = getattr(encoder, "lanes", None)
                self._encoder = encoder
            return self._encoder

    @property
    def ready(self) -> bool:
        """Whether the encoder is loaded."""
        return self._encoder is not None

    @property
    def identity(self) -> Identity:
        """What the encoder is; loads it where that is not known."""
        if self._identity is None:
            self.loaded()
        assert self._identity is not None
        return self._identity

    @property
    def fingerprint(self) -> str:
        """The encoder's own."""
        return self.identity.fingerprint

    @property
    def dim(self) -> int:
        """The embedding size d."""
        return self.identity.dim

    @property
    def spec(self) -> dict[str, Any]:
        """How to load the encoder again."""
        return self.identity.spec

    @property
    def waiting(self) -> int:
        """How many pictures wait."""
        with self._changed:
            return sum(job.left for job in self._queue)

    def encode(self, images: Iterable[ImageSource]) -> NDArray[np.float32]:
        """Embed n pictures: (n, d) float32; raises ImageError as the encoder would."""
        return all_or_raise(self.encode_valid(images))

    def encode_valid(self, images: Iterable[ImageSource]) -> Encoded:
        """Embed the pictures that can be read, and list the others.

        Raises
        ------
        Busy : if too many wait already, or it is not done by ``DEADLINE``; nothing is computed for it any more.
        Gone : if the client has left, see ``GONE``, before all were computed.
        """
        job = _Job(list(check_image_batch(images)), GONE.get())
        self.loaded()
        if not job.images:
            return Encoded(np.empty((0, self.dim), np.float32), np.empty(0, np.int64), ())
        deadline = DEADLINE.get()
        self._submit(job, deadline)
        if not job.finished.wait(None if deadline is None else max(0.0, deadline - time.monotonic())):
            with self._changed:
                if job in self._queue:
                    self._queue.remove(job)
            raise Busy("the pictures were not computed in time, and nothing was changed; send fewer, or later")
        if job.error is not None:
            raise job.error
        return _joined(job)

    def close(self) -> None:
        """Stop, after what waits has been computed."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _submit(self, job: _Job, deadline: float | None) -> None:
        with self._changed:
            if self._closed:
                raise Busy("the server is stopping")
            ahead = sum(other.left for other in self._queue)
            if deadline is not None and ahead and ahead + len(job.images) > self._most:
                raise Busy(f"{ahead} pictures wait to be computed already; send them later")
            self._queue.append(job)
            if not self._threads:
                count = self._lanes[0] if self._lanes else 1
                self._idle = count
                self._threads = [
                    threading.Thread(target=self._work, name="fewshot encoder", daemon=True) for _ in range(count)
                ]
                for thread in self._threads:
                    thread.start()
            self._changed.notify_all()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not (parts := self._next()):
                    if self._closed:
                        return
                    self._changed.wait()
                lone = self._idle == len(self._threads)
                self._idle -= 1
            start = time.perf_counter()
            self._compute(parts, lone=lone)
            with self._changed:
                self._idle += 1
            if self._seen is not None:
                self._seen(sum(len(part.images) for part in parts), time.perf_counter() - start)

    def _next(self) -> list[_Part]:
        """Take a batch off the queue, some pictures of each caller in turn; its share, while other threads are idle."""
        room = _BATCH
        if self._lanes is not None:
            room = min(self._lanes[1], -(-sum(job.left for job in self._queue) // self._idle))
        parts: list[_Part] = []
        while self._queue and (room or self._queue[0].dropped):
            job = self._queue.popleft()
            if job.dropped:
                job.settle(_Part(job, 0, []), None, Gone())
                continue
            parts.append(job.take(min(room, _TURN)))
            room -= len(parts[-1].images)
            if job.taken < len(job.images):
                self._queue.append(job)
        return parts

    def _compute(self, parts: list[_Part], *, lone: bool) -> None:
        try:
            together = self._encoded([image for part in parts for image in part.images], lone=lone)
        except BaseException as error:
            if len(parts) > 1:  # whose fault it is shows when each is computed alone
                for part in parts:
                    self._compute([part], lone=lone)
            else:
                self._settle(parts[0], None, error)
            return
        start = 0
        for part in parts:
            self._settle(part, _slice(together, start, start + len(part.images)), None)
            start += len(part.images)

    def _encoded(self, images: list[ImageSource], *, lone: bool) -> Encoded:
        encoder = self.loaded()
        if self._lanes is None:
            use_cores(self._cores)
            return encode_valid(encoder, images)
        if lone and len(images) == 1 and self._cores > 2:
            use_cores(self._cores - 1)  # one is left to the requests that come meanwhile
            return encode_valid(encoder, images)
        own: Callable[[list[ImageSource]], Encoded] = encoder.encode_here  # type: ignore[attr-defined]
        return own(images)

    def _settle(self, part: _Part, encoded: Encoded | None, error: BaseException | None) -> None:
        with self._changed:
            part.job.settle(part, encoded, error)


def _slice(encoded: Encoded, start: int, stop: int) -> Encoded:
    low, high = np.searchsorted(encoded.kept, (start, stop))
    failed = tuple((n - start, error) for n, error in encoded.failed if start <= n < stop)
    return Encoded(encoded.vectors[low:high], encoded.kept[low:high] - start, failed)


def _joined(job: _Job) -> Encoded:
    parts = sorted(job.parts, key=lambda part: part[0])
    return Encoded(
        np.concatenate([encoded.vectors for _, encoded in parts]),
        np.concatenate([encoded.kept + start for start, encoded in parts]),
        tuple((n + start, error) for start, encoded in parts for n, error in encoded.failed),
    )
