"""The routes that recognise pictures, and say what is none of the classes."""

from __future__ import annotations

import math
from typing import Annotated

from fastapi import APIRouter, Query, Request

from fewshot.registry import ClassRegistry, Prediction, StoredExample
from fewshot.service import payloads
from fewshot.service.openapi import PROBLEMS, pictures_body
from fewshot.service.problems import Refused
from fewshot.service.uploads import Named, Sent, Unusable, pictures_of
from fewshot.service.worker_threads import Id, Name, conflicts, in_registry

router = APIRouter(prefix="/v1/registries/{registry}", responses=PROBLEMS)

_DIGITS = 6


@router.post("/predict", tags=["predict"], operation_id="predict", openapi_extra=pictures_body(payloads.PictureList))
async def predict(
    request: Request,
    registry: Name,
    top: Annotated[int, Query(ge=1, le=1000, description="How many classes to rank.")] = 5,
    nearest: Annotated[int, Query(ge=0, le=1000, description="How many of the closest examples to name.")] = 3,
    max_false_accept: Annotated[
        float | None, Query(ge=1e-6, le=1, description="Instead of the limit kept; 1: every picture gets a label.")
    ] = None,
) -> payloads.PredictionList:
    """Recognise pictures. One that cannot be read is answered so, and the others are recognised."""
    sent = await pictures_of(request, payloads.PictureList)

    def recognise(opened: ClassRegistry) -> payloads.PredictionList:
        return _recognised(opened, sent, top=top, nearest=nearest, max_false_accept=max_false_accept)

    return await in_registry(request, registry, recognise, reading=True)


def _recognised(
    registry: ClassRegistry, sent: Sent, *, top: int, nearest: int, max_false_accept: float | None
) -> payloads.PredictionList:
    with registry.reading():
        revision, empty = registry.revision, registry.is_empty
    if empty:
        raise Refused(409, "this registry has no class yet; add pictures of some first")
    # Named by their places, for two may have one name.
    numbered = [
        Named(picture.getvalue(), str(place))
        for place, picture in enumerate(sent.pictures)
        if isinstance(picture, Named)
    ]
    answered = registry.predict_valid(numbered, top=top, nearest=nearest, max_false_accept=max_false_accept)
    known = dict(zip(answered.sources, answered.predictions, strict=True))
    reasons = {failure.source: failure.reason for failure in answered.failed}
    answers: list[payloads.Recognised | payloads.Unreadable] = []
    for place, picture in enumerate(sent.pictures):
        if isinstance(picture, Unusable):
            answers.append(payloads.Unreadable(source=picture.name, failed=picture.reason))
        elif str(place) in reasons:
            answers.append(payloads.Unreadable(source=picture.name, failed=reasons[str(place)]))
        else:
            answers.append(_answer(picture.name, known[str(place)]))
    return payloads.PredictionList(predictions=answers, revision=revision)


def _answer(source: str, prediction: Prediction) -> payloads.Recognised:
    return payloads.Recognised(
        source=source,
        label=prediction.label,
        score=round(prediction.score, _DIGITS),
        unknown_score=None if math.isnan(prediction.unknown_score) else round(prediction.unknown_score, _DIGITS),
        false_accept_bound=prediction.false_accept_bound,
        top=[
            payloads.Ranked(
                label=label,
                score=round(score, _DIGITS),
                probability=None if place or math.isnan(prediction.probability) else round(prediction.probability, 4),
            )
            for place, (label, score) in enumerate(prediction.top)
        ],
        nearest=[
            payloads.Near(id=n.example, label=n.label, source=n.source, score=round(n.score, _DIGITS))
            for n in prediction.nearest
        ],
    )


@router.get("/unknowns", tags=["unknowns"], operation_id="get_unknowns")
async def get_unknowns(
    request: Request,
    registry: Name,
    max_false_accept: Annotated[float | None, Query(ge=1e-6, lt=1, description="Ask what this limit promises.")] = None,
) -> payloads.Unknowns:
    """Say which limit on false accepts is kept, and what it, or the one asked about, promises."""
    return await in_registry(request, registry, lambda opened: _unknowns(opened, max_false_accept))


@router.put("/unknowns", tags=["unknowns"], operation_id="set_unknowns")
async def set_unknowns(request: Request, registry: Name, body: payloads.Level) -> payloads.Unknowns:
    """Keep a limit on the share of unknown pictures that get a label, or forget it."""

    def keep(opened: ClassRegistry) -> payloads.Unknowns:
        if opened.is_empty:
            raise Refused(409, "this registry has no class yet; add pictures of some first")
        opened.rejection.set(body.max_false_accept)
        return _unknowns(opened, None)

    return await in_registry(request, registry, keep)


def _unknowns(registry: ClassRegistry, asked: float | None) -> payloads.Unknowns:
    line, problem = None, None
    if registry.is_empty:
        problem = "there is no class yet; add pictures of some first"
    else:
        try:
            line = registry.rejection.threshold(asked)
        except ValueError as error:
            problem = str(error)
    promise = None
    if line is not None:
        promise = payloads.Promise(
            asked=line.asked,
            false_accept_bound=line.false_accept_bound,
            met=line.met,
            estimated_false_reject=line.estimated_false_reject,
            threshold=line.value,
            standing_for=line.source,  # type: ignore[arg-type]
            n_unknown=line.n_unknown,
            center=line.center,
            needed=line.needed,
            text=line.describe(),
        )
    return payloads.Unknowns(
        max_false_accept=registry.rejection.max_false_accept,
        promise=promise,
        problem=problem,
        negatives=registry.rejection.n_negatives,
    )


@router.get("/negatives", tags=["unknowns"], operation_id="list_negatives")
async def list_negatives(
    request: Request,
    registry: Name,
    after: Annotated[int, Query(ge=0, le=2**63 - 1)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> payloads.NegativePage:
    """List the pictures that are none of the classes, a page at a time."""

    def page(opened: ClassRegistry) -> list[StoredExample]:
        return opened.list_negatives(after=after, limit=limit + 1)

    found = await in_registry(request, registry, page)
    shown = [payloads.Negative(id=n.id, source=n.source) for n in found[:limit]]
    return payloads.NegativePage(negatives=shown, next=shown[-1].id if len(found) > limit else None)


@router.post(
    "/negatives", tags=["unknowns"], operation_id="add_negatives", openapi_extra=pictures_body(payloads.PictureList)
)
async def add_negatives(request: Request, registry: Name) -> payloads.NegativesAdded:
    """Add pictures that are none of the classes, whatever they look like."""
    sent = await pictures_of(request, payloads.PictureList)

    def add(opened: ClassRegistry) -> payloads.NegativesAdded:
        hashes = [sha256 for _, sha256 in sent.hashes]
        before = opened.find_negatives(hashes)
        report = opened.rejection.add_negatives(sent.usable)
        ids = opened.find_negatives(hashes)
        return payloads.NegativesAdded(
            added=report.added,
            new_ids=[id_ for id_ in ids if id_ not in before],
            duplicates=report.duplicates,
            conflicts=conflicts(opened, report, sent),
            failed=sent.failures(report),
            negatives=opened.rejection.n_negatives,
        )

    return await in_registry(request, registry, add)


@router.delete("/negatives", tags=["unknowns"], operation_id="remove_negatives")
async def remove_negatives(request: Request, registry: Name) -> payloads.Removed:
    """Forget all negatives."""
    gone = await in_registry(request, registry, lambda opened: opened.rejection.forget_negatives())
    return payloads.Removed(removed=gone)


@router.delete("/negatives/{id}", tags=["unknowns"], operation_id="remove_negative")
async def remove_negative(request: Request, registry: Name, id: Id) -> payloads.Removed:
    """Forget one negative."""
    await in_registry(request, registry, lambda opened: opened.remove_negative(id))
    return payloads.Removed(removed=1)
