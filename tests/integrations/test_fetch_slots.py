"""Fetches in progress are bounded, and those that would wait for hosts that hang fail at once."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack

import pytest

from fewshot.integrations.label_studio.fetch_slots import FetchSlots, NoSlot
from fewshot.integrations.label_studio.origin import Origin

A, B, C = (Origin.of(f"http://{name}.example") for name in "abc")
LATER = time.monotonic() + 1000.0


def test_a_host_has_no_more_fetches_than_its_share_and_another_has_its_own():
    slots = FetchSlots(total=4, per_host=2, patience=0.0)
    with ExitStack() as held:
        for host in (A, A, B):
            held.enter_context(slots.take(host, LATER))
        with pytest.raises(NoSlot, match=r"^2 fetches from it are in progress and do not end$"), slots.take(A, LATER):
            pass
        held.enter_context(slots.take(B, LATER))
        with pytest.raises(NoSlot, match=r"^4 fetches from it and other hosts"), slots.take(C, LATER):
            pass
    with slots.take(A, LATER):
        pass


def test_a_fetch_that_fails_gives_its_slot_back():
    slots = FetchSlots(total=1, per_host=1, patience=0.0)
    for _ in range(2):
        with pytest.raises(OSError, match="gone"), slots.take(A, LATER):
            raise OSError("gone")


def test_a_fetch_waits_for_one_that_has_not_lasted_long():
    slots = FetchSlots(total=2, per_host=1, patience=1000.0)
    order, waiting = [], threading.Event()

    def second():
        waiting.set()
        with slots.take(A, LATER):
            order.append("second")

    thread = threading.Thread(target=second)
    with slots.take(A, LATER):
        thread.start()
        waiting.wait()
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_a_fetch_waits_no_longer_than_its_deadline():
    slots = FetchSlots(total=1, per_host=1, patience=1000.0)
    with slots.take(A, LATER), pytest.raises(NoSlot), slots.take(A, time.monotonic() + 0.01):
        pass
