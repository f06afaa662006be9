"""The routes of open-set rejection: the limit on false accepts, and negatives."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request

from fewshot.media import medium_of
from fewshot.registry import ClassRegistry, StoredExample
from fewshot.service import payloads
from fewshot.service.erasing import Forget, erased
from fewshot.service.openapi import PROBLEMS, images_body
from fewshot.service.problems import HTTPProblem
from fewshot.service.uploads import conflicts, read_upload
from fewshot.service.worker_threads import Id, Name, run_in_registry

router = APIRouter(prefix="/v1/registries/{registry}", tags=["rejection"], responses=PROBLEMS)


@router.get("/rejection", operation_id="get_rejection")
async def get_rejection(
    request: Request,
    registry: Name,
    max_false_accept: Annotated[
        float | None, Query(ge=1e-6, lt=1, description="Return the threshold of this limit, not of the stored one.")
    ] = None,
) -> payloads.RejectionSettings:
    """Return the stored limit on false accepts, and the threshold of it or of another limit."""
    return await run_in_registry(request, registry, lambda opened: _settings(opened, max_false_accept))


@router.put("/rejection", operation_id="set_rejection")
async def set_rejection(request: Request, registry: Name, body: payloads.RejectionUpdate) -> payloads.RejectionSettings:
    """Store a limit on the share of examples of unknown classes that get a label, or remove it."""

    def update(opened: ClassRegistry) -> payloads.RejectionSettings:
        if opened.is_empty:
            noun = medium_of(opened.modality).noun
            raise HTTPProblem(409, f"this registry has no class yet; add {noun}s of some first")
        opened.rejection.set(body.max_false_accept)
        return _settings(opened, None)

    return await run_in_registry(request, registry, update)


def _settings(registry: ClassRegistry, max_false_accept: float | None) -> payloads.RejectionSettings:
    threshold, problem, noun = None, None, medium_of(registry.modality).noun
    if registry.is_empty:
        problem = f"there is no class yet; add {noun}s of some first"
    else:
        try:
            threshold = registry.rejection.threshold(max_false_accept)
        except ValueError as error:
            problem = str(error)
    info = None
    if threshold is not None:
        info = payloads.ThresholdInfo(
            value=threshold.value,
            max_false_accept=threshold.max_false_accept,
            false_accept_bound=threshold.false_accept_bound,
            met=threshold.met,
            estimated_false_reject=threshold.estimated_false_reject,
            estimated_from=threshold.source,  # type: ignore[arg-type]
            n_unknown=threshold.n_unknown,
            center_classes=threshold.center,
            required_classes=threshold.required_classes,
            message=threshold.describe(noun),
        )
    return payloads.RejectionSettings(
        max_false_accept=registry.rejection.max_false_accept,
        threshold=info,
        problem=problem,
        negatives=registry.rejection.n_negatives,
    )


@router.get("/negatives", operation_id="list_negatives")
async def list_negatives(
    request: Request,
    registry: Name,
    after: Annotated[int, Query(ge=0, le=2**63 - 1)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> payloads.NegativePage:
    """List the negatives, examples of none of the classes, by page."""

    def page(opened: ClassRegistry) -> list[StoredExample]:
        return opened.list_negatives(after=after, limit=limit + 1)

    found = await run_in_registry(request, registry, page)
    shown = [payloads.Negative(id=n.id, source=n.source) for n in found[:limit]]
    return payloads.NegativePage(negatives=shown, next=shown[-1].id if len(found) > limit else None)


@router.post("/negatives", operation_id="add_negatives", openapi_extra=images_body(payloads.ImageList))
async def add_negatives(request: Request, registry: Name) -> payloads.AddNegativesResult:
    """Add negatives: images, texts or sounds of none of the classes."""
    upload = await read_upload(request, payloads.ImageList)

    def add(opened: ClassRegistry) -> payloads.AddNegativesResult:
        hashes = [sha256 for _, sha256 in upload.hashes(upload.medium(opened))]
        before = opened.find_negatives(hashes)
        report = opened.rejection.add_negatives(upload.valid, all_or_none=True)
        ids = opened.find_negatives(hashes)
        return payloads.AddNegativesResult(
            added=report.added,
            new_ids=[id_ for id_ in ids if id_ not in before],
            duplicates=report.duplicates,
            conflicts=conflicts(opened, report, upload),
            failed=upload.failures(report),
            negatives=opened.rejection.n_negatives,
        )

    return await run_in_registry(request, registry, add)


@router.delete("/negatives", operation_id="remove_negatives")
async def remove_negatives(request: Request, registry: Name) -> payloads.RemovedCount:
    """Remove all negatives."""
    removed = await run_in_registry(request, registry, lambda opened: opened.rejection.forget_negatives())
    return payloads.RemovedCount(removed=removed)


@router.delete("/negatives/{id}", operation_id="remove_negative")
async def remove_negative(
    request: Request, registry: Name, id: Id, forget: Forget = False
) -> payloads.RemovedCount | payloads.ErasedCount:
    """Remove one negative."""
    if forget:
        return await erased(request, registry, lambda opened: opened.forget(negatives=[id]))
    await run_in_registry(request, registry, lambda opened: opened.remove_negative(id))
    return payloads.RemovedCount(removed=1)
