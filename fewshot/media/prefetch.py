"""Prefetching: a function applied in threads, ahead of the reader."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, islice
from typing import Any, TypeVar

from fewshot.errors import ExampleError
from fewshot.media.cloud_files import CloudFile, is_url

S = TypeVar("S")
R = TypeVar("R")

_DOWNLOADS = 16
"""At once: a download waits for the network, hardly for this machine."""


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
    is raised. ``initializer`` is called once in each thread. There are as many threads as cores, or 16 where the first
    item is behind a URL.
    """
    iterator = iter(items)
    first = list(islice(iterator, 1))
    items = chain(first, iterator)
    threads = _DOWNLOADS if any(map(_is_remote, first)) else os.cpu_count() or 1
    with ThreadPoolExecutor(workers or threads, initializer=initializer) as pool:
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


def downloaded_ahead(examples: Iterable[Any]) -> Iterator[Any]:
    """Yield examples; where the first is behind a URL, those that are have been downloaded, 16 at once, some ahead."""
    iterator = iter(examples)
    first = list(islice(iterator, 1))
    examples = chain(first, iterator)
    if not any(map(_is_remote, first)):
        return examples
    return map_ahead(_downloaded, examples, workers=_DOWNLOADS, ahead=2 * _DOWNLOADS)


def _downloaded(example: Any) -> Any:
    """Return a file behind a URL with its bytes, or why it cannot be had, and anything else as it is."""
    if isinstance(example, CloudFile):
        return example.downloaded()
    return CloudFile(example).downloaded() if is_url(example) else example


def _is_remote(example: object) -> bool:
    return isinstance(example, CloudFile) or is_url(example)


def attempt(function: Callable[[S], R], item: S) -> R | ExampleError:
    """Call ``function``; an ExampleError is returned instead of raised."""
    try:
        return function(item)
    except ExampleError as error:
        return error
