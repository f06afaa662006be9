"""Threads for what blocks, and registry calls of the routes in them, whose errors become HTTP problems."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from contextvars import copy_context
from typing import TYPE_CHECKING, Annotated, TypeVar

from anyio import CancelScope, CapacityLimiter
from fastapi import Path, Request

from fewshot.service.batching import DISCONNECTED, set_torch_threads
from fewshot.service.payloads import NAME_SCHEMA
from fewshot.service.problems import problem_of

if TYPE_CHECKING:
    from fewshot.registry import ClassRegistry
    from fewshot.service.registry_pool import RegistryPool

R = TypeVar("R")

Name = Annotated[str, Path(description="The registry's name.", json_schema_extra=NAME_SCHEMA)]
Id = Annotated[int, Path(ge=0, le=2**63 - 1)]


class WorkerThreads:
    """Threads that run what blocks; all of them begin with the server.

    Python waits for ever for a thread that runs out of memory as it begins. In the event loop, which begins threads as
    requests come, that would be the end of a server that could go on once there is memory again.

    Parameters
    ----------
    count : int
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._pool = ThreadPoolExecutor(count, "fewshot worker")

    def start(self) -> None:
        """Begin all threads, or as many as the system allows."""
        self._pool = ThreadPoolExecutor(self._count, "fewshot worker")
        all_there = threading.Event()
        with suppress(RuntimeError):
            for _ in range(self._count):
                self._pool.submit(all_there.wait)
        all_there.set()

    def stop(self) -> None:
        """End the threads once they are done; does not wait."""
        self._pool.shutdown(wait=False)

    async def run(self, job: Callable[[], R], *, limiter: CapacityLimiter | None = None, abandon: bool = False) -> R:
        """Call a function in one of the threads.

        With ``abandon`` a cancelled call returns at once, and its thread goes on unobserved.
        """
        context = copy_context()
        async with nullcontext() if limiter is None else limiter:
            with CancelScope(shield=not abandon):
                result = await asyncio.wrap_future(self._pool.submit(context.run, job))
            return result


async def run_in_registry(
    request: Request, name: str, job: Callable[[ClassRegistry], R], *, cancellable: bool = False
) -> R:
    """Call a function of a registry in a worker thread.

    Parameters
    ----------
    request : Request
    name : str
    job : callable
    cancellable : bool, default False
        Whether images are no longer computed once the client has disconnected; only where nothing is changed.

    Raises
    ------
    HTTPProblem : for an error of the registry, by its kind.
    """
    registries: RegistryPool = request.app.state.registries

    def run() -> R:
        with errors_as_problems(registries, name), registries.use(name) as registry:
            return job(registry)

    if not cancellable:
        return await run_in_thread(request, run)
    disconnected = threading.Event()
    DISCONNECTED.set(disconnected)
    watcher = asyncio.create_task(_watch(request, disconnected))
    try:
        return await run_in_thread(request, run)
    finally:
        watcher.cancel()


async def run_in_thread(request: Request, job: Callable[[], R], *, abandon: bool = False) -> R:
    """Call a function in a worker thread, of which there are as many as requests may be in progress."""
    workers: WorkerThreads = request.app.state.workers

    def run() -> R:
        set_torch_threads(1)  # the encoder has all cores already
        return job()

    return await workers.run(run, abandon=abandon)


@contextmanager
def errors_as_problems(registries: RegistryPool, name: str) -> Iterator[None]:
    """Raise an error of a registry as the HTTP problem that it is to a client; a bug is raised as it is."""
    try:
        yield
    except Exception as error:
        problem = problem_of(error, registries.path_of(name), name)
        if problem is None:
            raise
        raise problem from error


async def _watch(request: Request, disconnected: threading.Event) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    disconnected.set()
