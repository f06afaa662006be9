"""Prefetching: a function applied in threads, ahead of the reader."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from fewshot.errors import ExampleError

S = TypeVar("S")
R = TypeVar("R")


def map_ahead(
    function: Callable[[S], R],
    items: Iterable[S],
    *,
    workers: int | None = None,
    ahead: int = 64,
    initializer: Callable[[], object] | None = None,
) -> Iterator[R | ExampleError]:
    """Apply ``function`` in threads, a bounded number of items ahead of the reader; results come in order.

    An ExampleError is returned in its item's place, so that one bad item does not stop the others; any other exception
    is raised. ``initializer`` is called once in each thread.
    """
    with ThreadPoolExecutor(workers or os.cpu_count() or 1, initializer=initializer) as pool:
        waiting: deque[Future[R | ExampleError]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(attempt, function, item))
                if len(waiting) >= ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def attempt(function: Callable[[S], R], item: S) -> R | ExampleError:
    """Call ``function``; an ExampleError is returned instead of raised."""
    try:
        return function(item)
    except ExampleError as error:
        return error
