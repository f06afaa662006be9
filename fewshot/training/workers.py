"""Gradients of one batch computed by several threads, each on one core."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, TypeVar

import torch
from torch import nn

from fewshot.encoders import set_thread_count, thread_count

R = TypeVar("R")


def worker_count(device: torch.device, things: int, *, least: int) -> int:
    """Return how many workers share ``things`` items, ``least`` or more each: at most torch's threads; 1 on a GPU."""
    return max(1, min(thread_count(), things // least)) if device.type == "cpu" else 1


class Workers:
    """Replicas of a network that share its weights, each with its own gradients and thread.

    Threads of one operator wait for each other at every layer, which costs most of the time where cores are shared;
    workers wait twice a step. A replica's batch norms see its share alone; the first replica is the network itself, so
    its running statistics are the network's. Gradients are summed in the order of the replicas, so that a run repeats.

    Parameters
    ----------
    network : nn.Module
    n : int
    """

    def __init__(self, network: nn.Module, n: int) -> None:
        self.replicas = [network, *(_replica(network) for _ in range(n - 1))]

    def __enter__(self) -> Workers:
        self._before = thread_count()
        set_thread_count(1)  # also of this thread: sums then do not depend on the machine's cores
        self._pool = ThreadPoolExecutor(len(self.replicas), initializer=set_thread_count, initargs=(1,))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._pool.shutdown()
        set_thread_count(self._before)

    def map(self, function: Callable[..., R], *arguments: Iterable[Any]) -> list[R]:
        """Call ``function`` in the threads with each set of arguments; results in their order."""
        if len(self.replicas) == 1:  # a GPU's work stays on its own stream and thread
            return [function(*each) for each in zip(*arguments, strict=True)]
        return list(self._pool.map(function, *arguments))

    def gather(self) -> None:
        """Add the replicas' gradients to the network's, and clear theirs."""
        network, *others = (list(replica.parameters()) for replica in self.replicas)
        for parameters in others:
            for own, other in zip(network, parameters, strict=True):
                if own.grad is None:
                    own.grad = other.grad
                elif other.grad is not None:
                    own.grad += other.grad
                other.grad = None


def _replica(network: nn.Module) -> nn.Module:
    replica = copy.deepcopy(network)
    for mine, shared in zip(replica.modules(), network.modules(), strict=True):
        for name, parameter in shared.named_parameters(recurse=False):
            setattr(mine, name, nn.Parameter(parameter.detach(), requires_grad=parameter.requires_grad))
    return replica
