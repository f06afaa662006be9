"""Predictions of one registry that are asked for while another is computed."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from fakes import BLUE, RED, FakeEncoder, png

from fewshot import ClassRegistry
from fewshot.service.batched_registry import BatchedRegistry
from fewshot.service.batching import DEADLINE, Overloaded


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """A registry of a red and a blue class, and the calls made to it: (vectors, top); they wait for ``gate``."""
    with ClassRegistry(tmp_path / "parts.fewshot", encoder=FakeEncoder()) as registry:
        registry.add("red", [png(RED)])
        registry.add("blue", [png(BLUE)])
    calls, gate, predict = [], threading.Event(), ClassRegistry.predict_vectors

    def watched(self, vectors, **options):
        calls.append((len(vectors), options["top"]))
        assert gate.wait(20)
        return predict(self, vectors, **options)

    monkeypatch.setattr(ClassRegistry, "predict_vectors", watched)
    with closing(BatchedRegistry(tmp_path / "parts.fewshot", encoder=FakeEncoder())) as registry:
        yield registry, calls, gate
        gate.set()


def wait_for(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def queued(registry):
    return registry._batcher.queued  # nothing public says how many wait


def labels(predictions):
    return [prediction.label for prediction in predictions]


def test_requests_that_come_meanwhile_are_scored_in_one_call_and_each_gets_its_own_predictions(asked):
    registry, calls, gate = asked
    with ThreadPoolExecutor(8) as threads:
        first = threads.submit(registry.predict, [png(RED)])
        wait_for(lambda: calls)
        several = [threads.submit(registry.predict, [png(c) for c in [RED] * n + [BLUE]]) for n in range(4)]
        other = threads.submit(registry.predict, [png(BLUE)], top=1)
        wait_for(lambda: queued(registry) == 1 + 2 + 3 + 4 + 1)
        gate.set()
        assert labels(first.result()) == ["red"]
        for n, one in enumerate(several):
            assert labels(one.result()) == ["red"] * n + ["blue"]
        assert labels(other.result()) == ["blue"]
        assert len(other.result()[0].top) == 1
    assert sorted(calls) == [(1, 1), (1, 5), (10, 5)]  # 1 + 2 + 3 + 4 images at once


def test_a_wrong_option_is_an_error_for_all_that_give_it_and_later_requests_are_answered(asked):
    registry, calls, gate = asked
    with ThreadPoolExecutor(8) as threads:
        first = threads.submit(registry.predict, [png(RED)])
        wait_for(lambda: calls)
        bad = [threads.submit(registry.predict, [png(RED)], max_false_accept=7.0) for _ in range(2)]
        wait_for(lambda: queued(registry) == 2)
        gate.set()
        assert labels(first.result()) == ["red"]
        for one in bad:
            with pytest.raises(ValueError, match="max_false_accept"):
                one.result()
    assert labels(registry.predict([png(BLUE)])) == ["blue"]
    assert calls == [(1, 5), (2, 5), (1, 5), (1, 5), (1, 5)]


def test_a_request_waits_for_a_slow_registry_no_longer_than_its_deadline(asked):
    registry, calls, gate = asked
    with ThreadPoolExecutor(8) as threads:
        first = threads.submit(registry.predict, [png(RED)])
        wait_for(lambda: calls)

        def late():
            DEADLINE.set(time.monotonic() + 0.01)
            return registry.predict([png(BLUE)])

        with pytest.raises(Overloaded, match="predictions were not computed in time"):
            threads.submit(late).result()
        gate.set()
        assert labels(first.result()) == ["red"]
    assert labels(registry.predict([png(BLUE)])) == ["blue"]
    assert calls == [(1, 5), (1, 5)]


def test_no_more_are_scored_at_once_than_fit_in_memory(asked):
    registry, calls, gate = asked
    registry._batcher.batch_size = 4
    with ThreadPoolExecutor(8) as threads:
        several = [threads.submit(registry.predict, [png(RED)] * n) for n in (1, 3, 2, 9)]
        wait_for(lambda: sum(count for count, _ in calls) + queued(registry) == 15)
        gate.set()
        assert [len(one.result()) for one in several] == [1, 3, 2, 9]
    assert sum(count for count, _ in calls) == 15
    assert all(count <= 4 or count == 9 for count, _ in calls)
