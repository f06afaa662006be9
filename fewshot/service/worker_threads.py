"""From a request to a registry: its calls run in worker threads, and its errors become problems."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Annotated, TypeVar

from anyio import CapacityLimiter, to_thread
from fastapi import Path, Request

from fewshot.registry import AddReport, ClassRegistry
from fewshot.service.batching_encoder import GONE, use_cores
from fewshot.service.payloads import NAME_SCHEMA, ConflictAbout
from fewshot.service.problems import translated
from fewshot.service.registry_pool import Registries
from fewshot.service.uploads import Sent

R = TypeVar("R")

Name = Annotated[str, Path(description="The registry's name.", json_schema_extra=NAME_SCHEMA)]
Id = Annotated[int, Path(ge=0, le=2**63 - 1)]


async def in_registry(request: Request, name: str, job: Callable[[ClassRegistry], R], *, reading: bool = False) -> R:
    """Do something with a registry in a worker thread.

    Parameters
    ----------
    reading : bool, default False
        Whether it changes nothing: pictures of a client that goes away are then not computed any more.

    Raises
    ------
    Refused : for an error of the registry's, by its kind.
    """
    registries: Registries = request.app.state.registries

    def run() -> R:
        try:
            with registries.use(name) as registry:
                return job(registry)
        except Exception as error:
            problem = translated(error, registries.place(name), name)
            if problem is None:
                raise
            raise problem from error

    if not reading:
        return await in_thread(request, run)
    gone = threading.Event()
    GONE.set(gone)
    watching = asyncio.create_task(_watch(request, gone))
    try:
        return await in_thread(request, run)
    finally:
        watching.cancel()


async def _watch(request: Request, gone: threading.Event) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    gone.set()


async def in_thread(request: Request, job: Callable[[], R]) -> R:
    """Do something in a worker thread; there are as many as requests may be in work."""
    limiter: CapacityLimiter = request.app.state.limiter

    def run() -> R:
        use_cores(1)  # of the cores that encode, all are taken
        return job()

    return await to_thread.run_sync(run, limiter=limiter)


def conflicts(registry: ClassRegistry, report: AddReport, sent: Sent) -> list[ConflictAbout]:
    """Name the pictures that were not added because other classes hold them, and the example that each is there."""
    return [
        ConflictAbout(
            source=conflict.source,
            held_by=list(conflict.held_by),
            example_ids=[
                id_
                for label in conflict.held_by
                for id_ in registry.find_examples([h for name, h in sent.hashes if name == conflict.source], label)
            ],
        )
        for conflict in report.conflicts
    ]
