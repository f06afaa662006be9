"""Removal by a request that leaves no byte."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Annotated

from fastapi import Query, Request

from fewshot.registry import ClassRegistry, ErasureReport
from fewshot.service import payloads
from fewshot.service.worker_threads import run_in_registry

Forget = Annotated[bool, Query(description="Erase it: no byte is left in the registry's file.")]


async def erased(
    request: Request, registry: str, forget: Callable[[ClassRegistry], ErasureReport]
) -> payloads.ErasedCount:
    """Erase, and tell of the outcome without naming the server's folders; no thumbnail is kept in memory."""

    def erase(opened: ClassRegistry) -> payloads.ErasedCount:
        report = forget(opened)
        folder = os.path.dirname(os.path.abspath(opened.path)) + os.sep
        return payloads.ErasedCount(
            removed=report.examples + report.negatives,
            traces=report.traces,
            estimated_again=list(report.estimated_again),
            remaining=[sentence.replace(folder, "") for sentence in report.remaining],
            not_known=list(report.not_known),
        )

    try:
        return await run_in_registry(request, registry, erase)
    finally:
        request.app.state.thumbnails.clear()
