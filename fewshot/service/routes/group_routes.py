"""The route that predicts one object from several images, texts or sounds of it."""

from __future__ import annotations

import math
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from fewshot.registry import ClassRegistry, Failure, GroupPrediction, Prediction
from fewshot.service.group_payloads import GroupAnswer, GroupMember, LikelyClass
from fewshot.service.openapi import PROBLEMS, images_body
from fewshot.service.payloads import ImageList, UnreadableImage
from fewshot.service.problems import HTTPProblem
from fewshot.service.uploads import InvalidImage, Upload, UploadedImage, read_upload
from fewshot.service.worker_threads import Name, run_in_registry

router = APIRouter(prefix="/v1/registries/{registry}", responses=PROBLEMS)

_DIGITS = 6


@router.post("/predict-group", tags=["predict"], operation_id="predict_group", openapi_extra=images_body(ImageList))
async def predict_group(
    request: Request,
    registry: Name,
    top: Annotated[int, Query(ge=1, le=1000, description="How many classes to rank.")] = 5,
    max_false_accept: Annotated[
        float | None, Query(ge=1e-6, le=1, description="Instead of the stored limit; 1: all get a label.")
    ] = None,
    min_agreement: Annotated[
        float, Query(ge=0, le=1, description="No label where a smaller share of the members would have it alone.")
    ] = 0.0,
    roll_up: Annotated[
        float | None,
        Query(ge=0.5, le=1, description="Labels are paths, as a/b/c: answer the deepest level of this probability."),
    ] = None,
) -> GroupAnswer:
    """Predict one object from all images, texts or sounds of the request, such as the frames of a track."""
    upload = await read_upload(request, ImageList)
    asked = {"top": top, "max_false_accept": max_false_accept, "min_agreement": min_agreement, "roll_up": roll_up}
    return await run_in_registry(request, registry, lambda opened: _predict(opened, upload, asked), cancellable=True)


def _predict(registry: ClassRegistry, upload: Upload, asked: dict[str, Any]) -> GroupAnswer:
    noun = upload.medium(registry).noun
    with registry.reading():
        revision, empty = registry.revision, registry.is_empty
    if empty:
        raise HTTPProblem(409, f"this registry has no class yet; add {noun}s of some first")
    given = [image for image in upload.images if isinstance(image, UploadedImage)]
    found = registry.predict_groups(given, [""] * len(given), **asked) if given else []
    group = found[0] if found else GroupPrediction("", None, None, (), ())
    read = iter(group.members)
    members: list[GroupMember | UnreadableImage] = []
    for image in upload.images:
        if isinstance(image, InvalidImage):
            members.append(UnreadableImage(source=image.name, error=image.reason))
        else:
            members.append(_member(image.name, next(read)[1]))
    return GroupAnswer(
        label=group.label,
        probability=_rounded(group.probability, 4),
        unknown_score=_rounded(group.unknown_score, _DIGITS),
        false_accept_bound=group.false_accept_bound,
        agreement=round(group.agreement, 4),
        effective_size=round(group.effective_size, 4),
        top=[LikelyClass(label=label, probability=round(p, 4)) for label, p in group.top],
        members=members,
        note=group.note if group.top else "none of its members can be read",
        revision=revision,
    )


def _member(name: str, answer: Prediction | Failure) -> GroupMember | UnreadableImage:
    if isinstance(answer, Failure):
        return UnreadableImage(source=name, error=answer.reason)
    return GroupMember(
        source=name,
        label=answer.top[0][0],
        probability=_rounded(answer.probability, 4),
        unknown_score=_rounded(answer.unknown_score, _DIGITS),
    )


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None or math.isnan(value) else round(value, digits)
