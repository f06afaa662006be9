"""A function applied ahead of its reader: in order, in threads, within a bound."""

from __future__ import annotations

import threading

import pytest

from fewshot.errors import ImageError
from fewshot.media import map_ahead


def test_map_ahead_keeps_the_order_and_hands_image_errors_over_in_place():
    late = threading.Event()

    def work(number):
        if number == 0:
            assert late.wait(10)
        if number == 5:
            late.set()
        if number % 10 == 3:
            raise ImageError(str(number), "bad")
        return number * 10

    found = list(map_ahead(work, range(50), workers=8))
    assert [f.source if isinstance(f, ImageError) else f for f in found] == [
        str(n) if n % 10 == 3 else n * 10 for n in range(50)
    ]


def test_map_ahead_runs_in_threads_at_once():
    meeting = threading.Barrier(3, timeout=10)
    assert len(list(map_ahead(lambda _: meeting.wait(), range(3), workers=3))) == 3


def test_map_ahead_never_reads_more_than_its_bound_ahead_of_the_reader():
    read = []
    many = (read.append(number) or number for number in range(2000))
    results = map_ahead(lambda number: number, many, workers=2, ahead=4)
    for taken in range(1, 20):
        assert next(results) == taken - 1
        assert len(read) <= taken + 4
    results.close()
    assert len(read) <= 24


def test_map_ahead_raises_any_other_exception_and_stops():
    done = []

    def work(number):
        done.append(number)
        if number == 2:
            raise ZeroDivisionError("two")
        return number

    results = map_ahead(work, range(1000), workers=1, ahead=4)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ZeroDivisionError, match="two"):
        next(results)
    assert len(done) < 20


def test_map_ahead_raises_what_the_items_raise():
    def items():
        yield 1
        raise KeyError("source")

    with pytest.raises(KeyError, match="source"):
        list(map_ahead(lambda number: number, items()))


def test_map_ahead_of_nothing_is_nothing():
    assert list(map_ahead(str, [])) == []
