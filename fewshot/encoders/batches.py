"""From examples to vectors in batches, examples being read while the network computes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from fewshot.encoders.torch_threads import set_thread_count, thread_count
from fewshot.errors import ExampleError
from fewshot.media import attempt, downloaded_ahead, map_ahead

S = TypeVar("S")
T = TypeVar("T")


def embedded_batches(
    prepare: Callable[[S], Any],
    embed: Callable[[list[Any]], NDArray[np.float32]],
    source: Iterator[S],
    total: int | None,
    *,
    size: int,
    device: torch.device,
) -> Iterator[tuple[list[Any], NDArray[np.float32]]]:
    """Yield batches in order: what ``prepare`` gave of each example, or its error, and the vectors of the good ones.

    Parameters
    ----------
    prepare : callable
        From an example to what the network reads.
    embed : callable
        From a list of m >= 0 prepared examples to vectors (m, d); on a CPU it is called in several threads at once.
    source : iterator over examples
    total : int, optional
        Their number, where it is known.
    size : int
        Examples a batch.
    device : torch.device
    """
    on_cpu = device.type == "cpu"
    if not on_cpu or total == 1:
        prepared = map_ahead(prepare, source, ahead=4 * size)
        yield from ((batch, embed(readable(batch))) for batch in _in_batches(prepared, size))
        return
    # On a CPU each core takes whole batches, from file to vector: cores that compute one batch together wait for
    # each other at every layer, the more so while some of them decode (1.4 to 1.6 times slower on two cores).
    threads = thread_count()
    if total is not None:
        size = max(1, min(size, -(-total // threads)))

    def work(examples: list[S]) -> tuple[list[Any], NDArray[np.float32]]:
        batch = [attempt(prepare, example) for example in examples]
        return batch, embed(readable(batch))

    batches = _in_batches(downloaded_ahead(source), size)
    for result in map_ahead(
        work, batches, workers=threads, ahead=2 * threads, initializer=partial(set_thread_count, 1)
    ):
        assert not isinstance(result, ExampleError)
        yield result


def readable(batch: Iterable[T | ExampleError]) -> list[T]:
    """Return what is no ExampleError."""
    return [item for item in batch if not isinstance(item, ExampleError)]


def _in_batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
