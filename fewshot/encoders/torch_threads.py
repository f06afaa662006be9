"""The number of threads torch computes with, read and set for the calling thread alone."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import torch

_SETTING = threading.Lock()


def thread_count() -> int:
    """Return how many threads torch computes with in this thread: as the user set it, or one a core."""
    with _SETTING:
        return torch.get_num_threads()


def set_thread_count(number: int) -> None:
    """Let torch compute with so many threads in the calling thread alone.

    ``torch.set_num_threads`` also sets the number that new threads begin with; that one is put back at once. Only a
    thread that first uses torch in between, some 0.1 ms, and does not ask ``thread_count``, begins with ``number``.
    """
    if torch.get_num_threads() == number:
        return
    with _SETTING, ThreadPoolExecutor(1) as new_thread:
        usual = new_thread.submit(torch.get_num_threads).result()
        torch.set_num_threads(number)
        new_thread.submit(torch.set_num_threads, usual).result()


def _after_fork() -> None:
    """Let the only thread of a forked child compute alone: the threads that shared its work are not there.

    OpenMP would wait for them for ever. Threads that the child starts have their own, in the usual number.
    """
    global _SETTING  # another thread of the parent may have held it
    _SETTING = threading.Lock()
    set_thread_count(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
