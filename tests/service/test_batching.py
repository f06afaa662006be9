"""Micro-batching of any computation; images and predictions are tested beside it."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from fewshot.errors import RegistryBusy
from fewshot.service.batching import DISCONNECTED, ClientDisconnected, MicroBatcher, _Job


class Squares:
    """Squares numbers; a batch that holds 13 fails. The first batch waits for ``gate``."""

    def __init__(self):
        self.batches, self.gate = [], threading.Event()

    def __call__(self, batch):
        self.batches.append((batch.items, batch.options))
        assert self.gate.wait(20)
        if 13 in batch.items:
            raise ValueError("13")
        return (number**2 for number in batch.items)


@contextmanager
def busy(**settings):
    """A batcher that computes [0], threads to submit with, and its batches: (items, options)."""
    squares = Squares()
    batcher = MicroBatcher(squares, **settings)
    with ThreadPoolExecutor(8) as threads:
        first = threads.submit(batcher.submit, [0])
        wait_for(lambda: squares.batches)

        def submit(items, options=None, gone=None):
            def run():
                DISCONNECTED.set(gone)
                return batcher.submit(items, options)

            before = batcher.queued
            job = threads.submit(run)
            wait_for(lambda: batcher.queued == before + len(items))
            return job

        try:
            yield squares, submit
        finally:
            squares.gate.set()
        assert first.result() == [0]
    batcher.close()


def wait_for(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_without_a_turn_the_items_of_a_caller_stay_together():
    with busy(batch_size=4) as (squares, submit):
        jobs = [submit([1, 2, 3]), submit([4, 5]), submit([6])]
        squares.gate.set()
        assert [job.result() for job in jobs] == [[1, 4, 9], [16, 25], [36]]
    assert [items for items, _ in squares.batches] == [[0], [1, 2, 3, 6], [4, 5]]


def test_a_job_larger_than_a_batch_is_computed_alone_and_whole():
    with busy(batch_size=2) as (squares, submit):
        jobs = [submit([1, 2, 3]), submit([4])]
        squares.gate.set()
        assert [job.result() for job in jobs] == [[1, 4, 9], [16]]
    assert [items for items, _ in squares.batches] == [[0], [1, 2, 3], [4]]


def test_callers_take_turns():
    with busy(batch_size=5, turn=2) as (squares, submit):
        many, few = submit(list(range(1, 9))), submit([9])
        squares.gate.set()
        assert many.result() == [number**2 for number in range(1, 9)]
        assert few.result() == [81]
    assert [items for items, _ in squares.batches] == [[0], [1, 2, 9, 3, 4], [5, 6, 7, 8]]


def test_only_items_of_equal_options_share_a_batch_and_the_others_keep_their_place():
    with busy(batch_size=9) as (squares, submit):
        jobs = [submit([1], "a"), submit([2], "b"), submit([3], "c"), submit([4], "a"), submit([5], "b")]
        squares.gate.set()
        assert [job.result() for job in jobs] == [[1], [4], [9], [16], [25]]
    assert squares.batches == [([0], None), ([1, 4], "a"), ([2, 5], "b"), ([3], "c")]


def test_an_error_reaches_only_the_caller_whose_items_cause_it():
    with busy(batch_size=9) as (squares, submit):
        good, bad, other = submit([1]), submit([2, 13]), submit([3])
        squares.gate.set()
        assert (good.result(), other.result()) == ([1], [9])
        with pytest.raises(ValueError, match="13"):
            bad.result()
    assert [items for items, _ in squares.batches] == [[0], [1, 2, 13, 3], [1], [2, 13], [3]]


def test_an_error_of_a_registry_that_is_busy_is_everybodys_and_is_waited_for_once():
    tried, gate = [], threading.Event()

    def compute(batch):
        tried.append(batch.items)
        assert gate.wait(20)
        raise RegistryBusy("in use")

    batcher = MicroBatcher(compute, batch_size=9)
    with ThreadPoolExecutor(3) as threads:
        jobs = [threads.submit(batcher.submit, [0])]
        wait_for(lambda: tried)
        jobs += [threads.submit(batcher.submit, [n]) for n in (1, 2)]
        wait_for(lambda: batcher.queued == 2)
        gate.set()
        for job in jobs:
            with pytest.raises(RegistryBusy):
                job.result(20)
    batcher.close()
    assert [sorted(items) for items in tried] == [[0], [1, 2]]


def test_where_there_is_no_memory_for_a_thread_the_job_fails_and_the_next_one_is_computed(monkeypatch):
    batcher, start = MicroBatcher(lambda batch: batch.items, batch_size=9, workers=2), threading.Thread.start
    started = []

    def starts(thread):
        started.append(thread)
        if len(started) in (1, 3):
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", starts)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        batcher.submit([1])
    assert batcher.queued == 0
    assert batcher.submit([2]) == [2]  # by one worker, where the second could not be started
    assert batcher.submit([3]) == [3]
    batcher.close()
    assert len(started) == 4


def test_a_worker_that_finds_no_memory_to_take_a_job_tells_its_caller_and_lives_on(monkeypatch):
    take, fail = _Job.take, [True]

    def starved(job, count):
        if fail:
            raise MemoryError(fail.pop())
        return take(job, count)

    monkeypatch.setattr(_Job, "take", starved)  # no door leads to a thread's own want of memory
    batcher = MicroBatcher(lambda batch: batch.items, batch_size=9)
    with pytest.raises(MemoryError):
        batcher.submit([1])
    assert batcher.submit([2]) == [2]
    batcher.close()


def test_a_worker_lives_on_when_what_is_called_after_a_batch_fails():
    def fails(*_):
        raise MemoryError

    batcher = MicroBatcher(lambda batch: batch.items, batch_size=9, on_batch=fails)
    assert [batcher.submit([n]) for n in range(3)] == [[0], [1], [2]]
    batcher.close()


def test_a_missing_result_is_an_error_and_not_a_wait_without_end():
    batcher = MicroBatcher(lambda batch: batch.items[1:], batch_size=9, name="numbers")
    with pytest.raises(RuntimeError, match="1 results of 2 numbers"):
        batcher.submit([1, 2])
    batcher.close()


def test_items_of_a_disconnected_client_are_not_computed():
    with busy(batch_size=9) as (squares, submit):
        gone = threading.Event()
        job = submit([1], gone=gone)
        gone.set()
        squares.gate.set()
        with pytest.raises(ClientDisconnected):
            job.result()
    assert [items for items, _ in squares.batches] == [[0]]
