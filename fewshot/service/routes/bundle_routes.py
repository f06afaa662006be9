"""The routes of a bundle, which can be asked and not changed; paths and answers are those of a registry."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Query, Request

from fewshot.registry import Predictions
from fewshot.runtime import Recognizer
from fewshot.service import payloads
from fewshot.service.openapi import PROBLEMS, images_body
from fewshot.service.problems import HTTPProblem, problem_of
from fewshot.service.routes.prediction_routes import prediction_list
from fewshot.service.uploads import UploadedImage, read_upload
from fewshot.service.worker_threads import Name, WorkerThreads

router = APIRouter(prefix="/v1/registries", responses=PROBLEMS)

_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]


@router.get("", tags=["registries"], operation_id="list_registries")
async def list_registries(request: Request) -> payloads.RegistryList:
    """List the one bundle."""
    recognizer: Recognizer = request.app.state.recognizer
    counts = recognizer.classes()
    one = payloads.RegistrySummary(name=_name(recognizer), classes=len(counts), examples=sum(counts.values()))
    return payloads.RegistryList(registries=[one], can_create=False)


@router.get("/{registry}", tags=["registries"], operation_id="get_registry")
async def get_registry(request: Request, registry: Name) -> payloads.BundleDetails:
    """Return the encoder and size of the bundle."""
    recognizer = _bundle(request, registry)
    counts, encoder = recognizer.classes(), recognizer.about["encoder"]
    return payloads.BundleDetails(
        name=registry,
        encoder=encoder["name"],
        fingerprint=encoder["fingerprint"],
        precision=encoder["precision"],
        dim=encoder["dim"],
        modality="image",
        classes=len(counts),
        examples=sum(counts.values()),
        max_false_accept=recognizer.max_false_accept,
    )


@router.get("/{registry}/classes", tags=["classes"], operation_id="list_classes")
async def list_classes(request: Request, registry: Name) -> payloads.BundleClassList:
    """List the classes, in the order in which they were added."""
    counts = _bundle(request, registry).classes()
    return payloads.BundleClassList(
        classes=[payloads.BundleClass(label=label, examples=count) for label, count in counts.items()]
    )


@router.post(
    "/{registry}/predict", tags=["predict"], operation_id="predict", openapi_extra=images_body(payloads.ImageList)
)
async def predict(
    request: Request,
    registry: Name,
    top: Annotated[int, Query(ge=1, le=1000, description="How many classes to rank.")] = 5,
    max_false_accept: Annotated[
        float | None, Query(ge=1e-6, le=1, description="The stored limit, or 1: every image gets a label.")
    ] = None,
) -> payloads.PredictionList:
    """Predict the classes of images. One that cannot be read is reported in its place."""
    recognizer = _bundle(request, registry)
    upload = await read_upload(request, payloads.ImageList)
    if upload.modality not in (None, "image"):
        raise HTTPProblem(409, f"this bundle recognises images; it cannot be asked about {upload.modality}")

    def predicted(images: list[UploadedImage]) -> Predictions:
        try:
            return recognizer.predict_valid(images, top=top, max_false_accept=max_false_accept)
        except Exception as error:
            problem = problem_of(error, recognizer.path, registry)
            if problem is None:
                raise
            raise problem from error

    workers: WorkerThreads = request.app.state.workers
    return await workers.run(lambda: prediction_list(upload, predicted, 0), limiter=request.app.state.computing)


@router.api_route("", methods=_METHODS, include_in_schema=False)
@router.api_route("/{path:path}", methods=_METHODS, include_in_schema=False)
async def refuse(request: Request) -> None:
    """Refuse to change a bundle, or to answer what only a registry can."""
    if request.method in ("GET", "HEAD"):
        raise HTTPProblem(404, f"there is nothing at {request.url.path} of a bundle; /openapi.json lists what there is")
    file = os.path.basename(request.app.state.recognizer.path)
    problem = HTTPProblem(
        405,
        "a bundle is read only: change the registry that it was exported from, then do: fewshot export REGISTRY "
        f"{file} --onnx, and start the server again",
    )
    problem.headers = {"Allow": "GET, HEAD"}
    raise problem


def _bundle(request: Request, name: str) -> Recognizer:
    """Return the bundle, if it has this name."""
    recognizer: Recognizer = request.app.state.recognizer
    if name != _name(recognizer):
        raise HTTPProblem(404, f"there is no registry {name!r} here, only the bundle {_name(recognizer)!r}")
    return recognizer


def _name(recognizer: Recognizer) -> str:
    return Path(recognizer.path).stem
