"""The routes of a registry's classifier."""

from __future__ import annotations

from fastapi import APIRouter, Request

from fewshot.registry import ClassRegistry
from fewshot.service import payloads
from fewshot.service.openapi import PROBLEMS
from fewshot.service.worker_threads import Name, run_in_registry

router = APIRouter(prefix="/v1/registries/{registry}/classifier", tags=["registries"], responses=PROBLEMS)


@router.get("", operation_id="get_classifier")
async def get_classifier(request: Request, registry: Name) -> payloads.ChosenClassifier:
    """Return the classifier that answers."""
    return await run_in_registry(request, registry, _chosen)


@router.put("", operation_id="set_classifier")
async def set_classifier(
    request: Request, registry: Name, body: payloads.ClassifierUpdate
) -> payloads.ChosenClassifier:
    """Choose the classifier that answers from now on; nothing is embedded again."""

    def update(opened: ClassRegistry) -> payloads.ChosenClassifier:
        opened.set_classifier(body.classifier)
        return _chosen(opened)

    return await run_in_registry(request, registry, update)


def _chosen(registry: ClassRegistry) -> payloads.ChosenClassifier:
    return payloads.ChosenClassifier(classifier=registry.info().classifier)
