"""The route that predicts the classes of images, texts or sounds."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from fewshot.registry import ClassRegistry, Prediction, Predictions
from fewshot.service import payloads
from fewshot.service.openapi import PROBLEMS, images_body
from fewshot.service.problems import HTTPProblem
from fewshot.service.uploads import InvalidImage, Upload, UploadedImage, read_upload
from fewshot.service.worker_threads import Name, run_in_registry

router = APIRouter(prefix="/v1/registries/{registry}", responses=PROBLEMS)

_DIGITS = 6


@router.post("/predict", tags=["predict"], operation_id="predict", openapi_extra=images_body(payloads.ImageList))
async def predict(
    request: Request,
    registry: Name,
    top: Annotated[int, Query(ge=1, le=1000, description="How many classes to rank.")] = 5,
    nearest: Annotated[int, Query(ge=0, le=1000, description="How many of the nearest examples to return.")] = 3,
    max_false_accept: Annotated[
        float | None, Query(ge=1e-6, le=1, description="Instead of the stored limit; 1: all get a label.")
    ] = None,
    roll_up: Annotated[
        float | None,
        Query(ge=0.5, le=1, description="Labels are paths, as a/b/c: answer the deepest level of this probability."),
    ] = None,
) -> payloads.PredictionList:
    """Predict the classes of images, texts or sounds. One that cannot be read is reported in its place."""
    upload = await read_upload(request, payloads.ImageList)

    def predicted(opened: ClassRegistry) -> payloads.PredictionList:
        asked = {"top": top, "nearest": nearest, "max_false_accept": max_false_accept, "roll_up": roll_up}
        return _predict(opened, upload, asked)

    return await run_in_registry(request, registry, predicted, cancellable=True)


def _predict(registry: ClassRegistry, upload: Upload, asked: dict[str, Any]) -> payloads.PredictionList:
    noun = upload.medium(registry).noun
    with registry.reading():
        revision, empty = registry.revision, registry.is_empty
    if empty:
        raise HTTPProblem(409, f"this registry has no class yet; add {noun}s of some first")

    def predicted(images: list[UploadedImage]) -> Predictions:
        return registry.predict_valid(images, **asked)

    return prediction_list(upload, predicted, revision)


def prediction_list(
    upload: Upload, predict: Callable[[list[UploadedImage]], Predictions], revision: int
) -> payloads.PredictionList:
    """Predict those of an upload that arrived; what cannot be read is reported in its place."""
    # Named by their positions, for two may have one name.
    numbered = [
        UploadedImage(image.getvalue(), str(position))
        for position, image in enumerate(upload.images)
        if isinstance(image, UploadedImage)
    ]
    found = predict(numbered)
    predictions = dict(zip(found.sources, found.predictions, strict=True))
    errors = {failure.source: failure.reason for failure in found.failed}
    entries: list[payloads.ImagePrediction | payloads.UnreadableImage] = []
    for position, image in enumerate(upload.images):
        if isinstance(image, InvalidImage):
            entries.append(payloads.UnreadableImage(source=image.name, error=image.reason))
        elif str(position) in errors:
            entries.append(payloads.UnreadableImage(source=image.name, error=errors[str(position)]))
        else:
            entries.append(_payload(image.name, predictions[str(position)]))
    return payloads.PredictionList(predictions=entries, revision=revision)


def _payload(source: str, prediction: Prediction) -> payloads.ImagePrediction:
    probability = None if prediction.probability is None else round(prediction.probability, 4)
    return payloads.ImagePrediction(
        source=source,
        label=prediction.label,
        probability=probability,
        labels=None
        if prediction.labels is None
        else [payloads.AnsweredLabel(label=label, probability=round(p, 4)) for label, p in prediction.labels],
        score=round(prediction.score, _DIGITS),
        unknown_score=None if math.isnan(prediction.unknown_score) else round(prediction.unknown_score, _DIGITS),
        false_accept_bound=prediction.false_accept_bound,
        top=[
            payloads.RankedClass(
                label=label,
                score=round(score, _DIGITS),
                probability=None if rank or prediction.label not in (label, None) else probability,
            )
            for rank, (label, score) in enumerate(prediction.top)
        ],
        nearest=[
            payloads.NearestExample(id=n.example, label=n.label, source=n.source, score=round(n.score, _DIGITS))
            for n in prediction.nearest
        ],
        note=prediction.note,
    )
