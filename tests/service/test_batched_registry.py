"""Questions to one registry that come while another is answered."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from fakes import BLUE, RED, FakeEncoder, png

from fewshot import ClassRegistry
from fewshot.service.batched_registry import BatchedRegistry
from fewshot.service.batching_encoder import Gone


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """A registry of a red and a blue class, and the calls made to it: (vectors, top); they wait for ``gate``."""
    with ClassRegistry(tmp_path / "parts.fewshot", encoder=FakeEncoder()) as registry:
        registry.add("red", [png(RED)])
        registry.add("blue", [png(BLUE)])
    calls, gate, answer = [], threading.Event(), ClassRegistry.predict_vectors

    def watched(self, vectors, **options):
        calls.append((len(vectors), options["top"]))
        assert gate.wait(20)
        return answer(self, vectors, **options)

    monkeypatch.setattr(ClassRegistry, "predict_vectors", watched)
    with BatchedRegistry(tmp_path / "parts.fewshot", encoder=FakeEncoder(), create=False) as registry:
        yield registry, calls, gate


def wait_for(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def labels(predictions):
    return [prediction.label for prediction in predictions]


def test_those_that_come_meanwhile_are_answered_in_one_call_each_with_its_own(asked):
    registry, calls, gate = asked
    with ThreadPoolExecutor(8) as threads:
        first = threads.submit(registry.predict, [png(RED)])
        wait_for(lambda: calls)
        several = [threads.submit(registry.predict, [png(c) for c in [RED] * n + [BLUE]]) for n in range(4)]
        other = threads.submit(registry.predict, [png(BLUE)], top=1)
        wait_for(lambda: len(registry._waiting) == 5)
        gate.set()
        assert labels(first.result()) == ["red"]
        for n, one in enumerate(several):
            assert labels(one.result()) == ["red"] * n + ["blue"]
        assert labels(other.result()) == ["blue"]
        assert len(other.result()[0].top) == 1
    assert sorted(calls) == [(1, 1), (1, 5), (10, 5)]  # 1 + 2 + 3 + 4 pictures at once


def test_a_wrong_question_is_an_error_for_all_that_ask_it_and_later_ones_are_answered(asked):
    registry, calls, gate = asked
    with ThreadPoolExecutor(8) as threads:
        first = threads.submit(registry.predict, [png(RED)])
        wait_for(lambda: calls)
        bad = [threads.submit(registry.predict, [png(RED)], max_false_accept=7.0) for _ in range(2)]
        wait_for(lambda: len(registry._waiting) == 2)
        gate.set()
        assert labels(first.result()) == ["red"]
        for one in bad:
            with pytest.raises(ValueError, match="max_false_accept"):
                one.result()
    assert labels(registry.predict([png(BLUE)])) == ["blue"]
    assert calls == [(1, 5), (2, 5), (1, 5), (1, 5)]


def test_an_error_of_the_one_who_asks_for_all_leaves_the_others(asked, monkeypatch):
    registry, calls, gate = asked
    answer = ClassRegistry.predict_vectors

    def leaving(self, vectors, **options):
        found = answer(self, vectors, **options)
        if len(vectors) == 6:  # what the second who came asked for all
            raise Gone
        return found

    monkeypatch.setattr(ClassRegistry, "predict_vectors", leaving)
    with ThreadPoolExecutor(8) as threads:
        first = threads.submit(registry.predict, [png(RED)])
        wait_for(lambda: calls)
        others = []
        for n in (1, 2, 3):
            others.append(threads.submit(registry.predict, [png(BLUE)] * n))
            wait_for(lambda n=n: len(registry._waiting) == n)
        gate.set()
        with pytest.raises(Gone):
            others[0].result()
        assert [labels(one.result()) for one in (first, *others[1:])] == [["red"], ["blue"] * 2, ["blue"] * 3]
    assert calls == [(1, 5), (6, 5), (5, 5)]


def test_no_more_are_answered_at_once_than_fit_in_memory(asked, monkeypatch):
    monkeypatch.setattr("fewshot.service.batched_registry._MOST", 4)
    registry, calls, gate = asked
    with ThreadPoolExecutor(8) as threads:
        several = [threads.submit(registry.predict, [png(RED)] * n) for n in (1, 3, 2, 9)]
        wait_for(lambda: len(calls) + len(registry._waiting) == 4)
        gate.set()
        assert [len(one.result()) for one in several] == [1, 3, 2, 9]
    assert sum(count for count, _ in calls) == 15
    assert all(count <= 4 or count == 9 for count, _ in calls)
