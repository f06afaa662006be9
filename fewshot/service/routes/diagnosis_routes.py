"""The route of a registry's diagnosis."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import asdict
from typing import Annotated, Any
from weakref import WeakKeyDictionary

from fastapi import APIRouter, Query, Request

from fewshot.registry import ClassRegistry, DiagnosedExample, Diagnosis
from fewshot.service import diagnosis_payloads, payloads
from fewshot.service.openapi import PROBLEMS
from fewshot.service.problems import HTTPProblem
from fewshot.service.worker_threads import Name, run_in_registry

router = APIRouter(prefix="/v1/registries/{registry}/diagnosis", tags=["registries"], responses=PROBLEMS)

_WAIT_SECONDS, _RETRY_SECONDS = 20.0, 5


class DiagnosisCache:
    """Diagnoses registries one at a time, as that takes a core and memory, and keeps what was found until a change."""

    def __init__(self) -> None:
        self._held: WeakKeyDictionary[ClassRegistry, Diagnosis] = WeakKeyDictionary()
        self._lock = threading.Lock()

    def get(self, registry: ClassRegistry) -> Diagnosis:
        """Return the diagnosis of a registry as it is now.

        Raises
        ------
        HTTPProblem : if another is being made for longer than 20 seconds.
        """
        if not self._lock.acquire(timeout=_WAIT_SECONDS):
            raise HTTPProblem(503, "another diagnosis is being made; retry later", retry_after=_RETRY_SECONDS)
        try:
            found = self._held.get(registry)
            if found is None or found.revision != registry.revision:
                found = self._held[registry] = registry.diagnose()
            return found
        finally:
            self._lock.release()


@router.get("", operation_id="diagnose_registry")
async def diagnose_registry(
    request: Request,
    registry: Name,
    limit: Annotated[int, Query(ge=1, le=1000, description="Of each list.")] = 20,
) -> diagnosis_payloads.RegistryDiagnosis:
    """Say how well a registry recognises, which examples hurt, and what to add next; nothing is changed.

    It takes less than a second for hundreds of examples, and a minute for tens of thousands.
    """
    cache: DiagnosisCache = request.app.state.diagnoses
    return _limited(await run_in_registry(request, registry, cache.get), limit)


def _limited(found: Diagnosis, limit: int) -> diagnosis_payloads.RegistryDiagnosis:
    made = {
        "revision": found.revision,
        "diagnosed": found.diagnosed,
        "accuracy": None if found.accuracy is None else asdict(found.accuracy),
        "left_out": None if found.left_out is None else asdict(found.left_out),
        "advice": found.advice,
        "add": [
            {"label": label, "examples": count} for label, count in (found.plan.classes if found.plan else ())[:limit]
        ],
        "suspects": _listed(found.suspects[:limit]),
        "mislabelled": len(found.mislabelled),
        "harmful": _listed(found.harmful[:limit]),
        "duplicates": _listed(found.duplicates[:limit]),
        "duplicate_limit": found.duplicate_limit,
        "confused": _listed(found.confused[:limit]),
        "one_sided": [one.label for one in found.one_sided[:limit]],
        "too_few": [one.label for one in found.per_class if one.too_few][:limit],
        "notes": list(found.notes),
    }
    return diagnosis_payloads.RegistryDiagnosis.model_validate(made)


def _listed(findings: Iterable[Any]) -> list[dict[str, Any]]:
    return [
        {name: _example(value) if isinstance(value, DiagnosedExample) else value for name, value in vars(one).items()}
        for one in findings
    ]


def _example(one: DiagnosedExample) -> payloads.Example:
    return payloads.Example(id=one.id, label=one.label, source=one.source)
