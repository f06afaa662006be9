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
from numpy.typing import NDArray

from fewshot.encoders.base import Encoded, all_or_raise, check_image_batch, encode_valid
from fewshot.errors import EncoderMismatch, FewShotError
from fewshot.images import ImageSource

if TYPE_CHECKING:
    from fewshot.encoders import Encoder

# Pictures of one batch. A TimmEncoder parts them further, for its cores or its GPU.
_BATCH = 64
# Pictures that one caller is given before it is the next one's turn.
_TURN = 8

DEADLINE: ContextVar[float | None] = ContextVar("DEADLINE", default=None)
"""When the request in work must have its pictures, by ``time.monotonic``; None: it can wait, and is never refused."""


class Busy(FewShotError):
    """More is asked for than can be computed in time; ask again later."""


@dataclass(eq=False)
class _Job:
    """One caller's pictures, and what has become of them so far."""

    images: list[ImageSource]
    taken: int = 0
    done: int = 0
    parts: list[tuple[int, Encoded]] = field(default_factory=list)
    error: BaseException | None = None
    finished: threading.Event = field(default_factory=threading.Event)

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


class SharedEncoder:
    """An encoder that any number of threads may ask at once; a thread of its own computes what they ask in batches.

    It waits for nobody: a picture that comes alone is computed alone, and those that come meanwhile together. Callers
    take turns, so that one with many pictures does not hold up the others. One caller's unreadable picture, or one
    that the encoder fails at, is that caller's error only.

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
    """

    def __init__(
        self,
        load: Callable[[], Encoder],
        identity: Identity | None = None,
        *,
        waiting: int,
        seen: Callable[[int, float], None] | None = None,
    ) -> None:
        self._load, self._identity = load, identity
        self._most, self._seen = waiting, seen
        self._loading = threading.Lock()
        self._encoder: Encoder | None = None
        self._changed = threading.Condition()
        self._queue: deque[_Job] = deque()
        self._thread: threading.Thread | None = None
        self._closed = False

    def loaded(self) -> Encoder:
        """Return the encoder itself, loaded if it was not.

        Raises
        ------
        EncoderMismatch : if it is not what it was known to be.
        """
        with self._loading:
            if self._encoder is None:
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
            return sum(len(job.images) - job.taken for job in self._queue)

    def encode(self, images: Iterable[ImageSource]) -> NDArray[np.float32]:
        """Embed n pictures: (n, d) float32; raises ImageError as the encoder would."""
        return all_or_raise(self.encode_valid(images))

    def encode_valid(self, images: Iterable[ImageSource]) -> Encoded:
        """Embed the pictures that can be read, and list the others.

        Raises
        ------
        Busy : if too many wait already, or it is not done by ``DEADLINE``; nothing is computed for it any more.
        """
        job = _Job(list(check_image_batch(images)))
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
        if self._thread is not None:
            self._thread.join()

    def _submit(self, job: _Job, deadline: float | None) -> None:
        with self._changed:
            if self._closed:
                raise Busy("the server is stopping")
            ahead = sum(len(other.images) - other.taken for other in self._queue)
            if deadline is not None and ahead and ahead + len(job.images) > self._most:
                raise Busy(f"{ahead} pictures wait to be computed already; send them later")
            self._queue.append(job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="fewshot encoder", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._queue:
                    if self._closed:
                        return
                    self._changed.wait()
                parts = self._next()
            start = time.perf_counter()
            self._compute(parts)
            if self._seen is not None:
                self._seen(sum(len(part.images) for part in parts), time.perf_counter() - start)

    def _next(self) -> list[_Part]:
        """Take a batch off the queue, some pictures of each caller in turn."""
        parts: list[_Part] = []
        room = _BATCH
        while self._queue and room:
            job = self._queue.popleft()
            if job.error is not None:
                continue  # a part of it failed
            parts.append(job.take(min(room, _TURN)))
            room -= len(parts[-1].images)
            if job.taken < len(job.images):
                self._queue.append(job)
        return parts

    def _compute(self, parts: list[_Part]) -> None:
        try:
            together = encode_valid(self.loaded(), [image for part in parts for image in part.images])
        except BaseException as error:
            if len(parts) > 1:  # whose fault it is shows when each is computed alone
                for part in parts:
                    self._compute([part])
            else:
                parts[0].job.settle(parts[0], None, error)
            return
        start = 0
        for part in parts:
            part.job.settle(part, _slice(together, start, start + len(part.images)), None)
            start += len(part.images)


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
