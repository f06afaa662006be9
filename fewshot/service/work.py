"""From a request to a registry: its calls run in worker threads, and its errors become problems."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, TypeVar

from anyio import CapacityLimiter, to_thread
from fastapi import Path, Request

from fewshot import browsing
from fewshot.registry import ClassRegistry
from fewshot.reports import AddReport
from fewshot.service.models import ConflictAbout
from fewshot.service.problems import translated
from fewshot.service.registries import Registries
from fewshot.service.uploads import Sent
from fewshot.store import RegistryStore

R = TypeVar("R")

Name = Annotated[str, Path(description="The registry's name.")]
Id = Annotated[int, Path(ge=0, le=2**63 - 1)]


async def in_registry(request: Request, name: str, job: Callable[[ClassRegistry], R]) -> R:
    """Do something with a registry in a worker thread.

    Raises
    ------
    Refused : for an error of the registry's, by its kind.
    """
    registries: Registries = request.app.state.registries

    def run() -> R:
        path = ""
        try:
            with registries.use(name) as registry:
                path = registry.path
                return job(registry)
        except Exception as error:
            problem = translated(error, path or "\0", name)
            if problem is None:
                raise
            raise problem from error

    return await in_thread(request, run)


async def in_thread(request: Request, job: Callable[[], R]) -> R:
    """Do something in a worker thread; there are as many as requests may be in work."""
    limiter: CapacityLimiter = request.app.state.limiter
    return await to_thread.run_sync(job, limiter=limiter)


def conflicts(store: RegistryStore, report: AddReport, sent: Sent) -> list[ConflictAbout]:
    """Name the pictures that were not added because other classes hold them, and the example that each is there."""
    return [
        ConflictAbout(
            source=conflict.source,
            held_by=list(conflict.held_by),
            example_ids=[
                id_
                for label in conflict.held_by
                for id_ in browsing.with_hashes(store, [h for name, h in sent.hashes if name == conflict.source], label)
            ],
        )
        for conflict in report.conflicts
    ]


def store_of(registry: ClassRegistry) -> RegistryStore:
    """Return a registry's file, for ``fewshot.browsing``."""
    return registry._store
