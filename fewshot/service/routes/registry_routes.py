"""The routes of registries, their classes and their examples."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from functools import partial
from typing import Annotated, Any

from anyio import move_on_after
from fastapi import APIRouter, Query, Request
from starlette.responses import Response, StreamingResponse

from fewshot.media import medium_of
from fewshot.registry import ClassRegistry, StoredExample, name_of
from fewshot.service import payloads
from fewshot.service.erasing import Forget, erased
from fewshot.service.openapi import PROBLEMS, images_body
from fewshot.service.problems import HTTPProblem
from fewshot.service.registry_pool import RegistryPool
from fewshot.service.thumbnails import ThumbnailCache, image_response
from fewshot.service.uploads import Upload, conflicts, read_upload
from fewshot.service.worker_threads import Id, Name, errors_as_problems, run_in_registry, run_in_thread
from fewshot.validation import check_label, normalised_label

router = APIRouter(prefix="/v1/registries", responses=PROBLEMS)

Class = Annotated[str, Query(alias="label", description="The class.")]
KnownOrNewClass = Annotated[
    str, Query(alias="label", max_length=1000, description="The class.", json_schema_extra=payloads.LABEL_SCHEMA)
]
After = Annotated[int, Query(ge=0, le=2**63 - 1, description="Only ids above this one: next of the previous page.")]
Limit = Annotated[int, Query(ge=1, le=1000)]

_MAX_LISTED_IDS = 12
_EXPORT_PAGE = 500
_LIST_SECONDS = 2.0


@router.get("", tags=["registries"], operation_id="list_registries")
async def list_registries(request: Request) -> payloads.RegistryList:
    """List the registries."""
    registries: RegistryPool = request.app.state.registries

    def summary(name: str) -> payloads.RegistrySummary:
        with errors_as_problems(registries, name), registries.use(name) as registry:
            info = registry.info()
            return payloads.RegistrySummary(name=name, classes=info.classes, examples=info.examples)

    # A registry whose file is locked does not hold up the list; while the encoder is loaded, all take as long as that.
    seconds = math.inf if request.app.state.readiness.status.status == "starting" else _LIST_SECONDS
    found = []

    def names() -> list[str]:
        with errors_as_problems(registries, ""):
            return registries.names()

    for name in await run_in_thread(request, names):
        problem = f"it could not be opened within {seconds:g} s; retry later"
        try:
            with move_on_after(seconds):
                found.append(await run_in_thread(request, partial(summary, name), abandon=True))
                continue
        except HTTPProblem as error:
            problem = error.detail
        found.append(payloads.RegistrySummary(name=name, classes=None, examples=None, problem=problem))
    return payloads.RegistryList(registries=found, can_create=registries.can_create)


@router.post("", status_code=201, tags=["registries"], operation_id="create_registry")
async def create_registry(request: Request, body: payloads.NewRegistry) -> payloads.RegistrySummary:
    """Create an empty registry, where a folder is served."""
    registries: RegistryPool = request.app.state.registries
    if not registries.can_create:
        raise HTTPProblem(409, "one registry is served, and no folder to create others in; start: fewshot serve FOLDER")

    def create() -> None:
        with errors_as_problems(registries, body.name):
            registries.create(body.name)

    await run_in_thread(request, create)
    return payloads.RegistrySummary(name=body.name, classes=0, examples=0)


@router.get("/{registry}", tags=["registries"], operation_id="get_registry")
async def get_registry(request: Request, registry: Name) -> payloads.RegistryDetails:
    """Return the encoder, metric and size of a registry."""

    def details(opened: ClassRegistry) -> payloads.RegistryDetails:
        with opened.reading():
            info, revision, negatives = opened.info(), opened.revision, opened.rejection.n_negatives
        known = bool(info.fingerprint) or not getattr(opened.encoder, "ready", True)  # that is not waited for
        modality = info.modality if known else opened.modality
        loaded = getattr(opened.encoder, "ready", True)
        reads = hasattr(opened.encoder, "encode_texts") if loaded else None
        return payloads.RegistryDetails(
            name=registry,
            encoder=name_of(json.dumps(info.encoder)) if info.fingerprint else "",
            fingerprint=info.fingerprint,
            dim=info.dim,
            modality=modality,
            describable=reads if info.metric == "cosine" else False,
            metric=info.metric,  # type: ignore[arg-type]
            classifier=info.classifier,
            multi_label=info.multi_label,
            classes=info.classes,
            examples=info.examples,
            images_kept=info.images_kept,
            negatives=negatives,
            bytes=info.bytes,
            revision=revision,
        )

    return await run_in_registry(request, registry, details)


@router.get("/{registry}/classes", tags=["classes"], operation_id="list_classes", response_model_exclude_none=True)
async def list_classes(request: Request, registry: Name) -> payloads.ClassList:
    """List the classes, in the order in which they were added."""

    def summaries(opened: ClassRegistry) -> list[payloads.ClassSummary]:
        with opened.reading():
            first, texts = opened.first_examples(_MAX_LISTED_IDS), opened.descriptions()
            return [
                payloads.ClassSummary(
                    label=label, examples=count, example_ids=first.get(label, []), description=texts.get(label)
                )
                for label, count in opened.classes().items()
            ]

    return payloads.ClassList(classes=await run_in_registry(request, registry, summaries))


@router.patch("/{registry}/classes", tags=["classes"], operation_id="rename_class")
async def rename_class(
    request: Request, registry: Name, label: Class, body: payloads.ClassUpdate
) -> payloads.RenamedClass:
    """Rename a class, or with ``merge`` merge it into another."""

    def rename(opened: ClassRegistry) -> payloads.RenamedClass:
        known, old, new = opened.classes(), normalised_label(label), check_label(body.label)
        if new != old and new in known and old in known:
            if not body.merge:
                raise HTTPProblem(409, f"there is a class {new!r} already; to merge the two, send merge: true")
            return payloads.RenamedClass(label=new, examples=opened.merge([old], into=new))
        if new != old or old not in known:
            opened.rename(old, new)
        return payloads.RenamedClass(label=new, examples=known[old])

    return await run_in_registry(request, registry, rename)


@router.delete("/{registry}/classes", tags=["classes"], operation_id="remove_class")
async def remove_class(
    request: Request, registry: Name, label: Class, forget: Forget = False
) -> payloads.RemovedCount | payloads.ErasedCount:
    """Remove a class with all its examples."""
    if forget:
        return await erased(request, registry, lambda opened: opened.forget(label))
    return payloads.RemovedCount(removed=await run_in_registry(request, registry, lambda opened: opened.remove(label)))


@router.put("/{registry}/classes/description", tags=["classes"], operation_id="describe_class")
async def describe_class(
    request: Request, registry: Name, label: KnownOrNewClass, body: payloads.DescriptionUpdate
) -> payloads.DescribedClass:
    """Describe a class, known or new, in words; by an encoder that reads texts."""

    def describe(opened: ClassRegistry) -> payloads.DescribedClass:
        known = check_label(label)
        if body.text is None:
            opened.forget_description(known)
            return payloads.DescribedClass(label=known, description=None)
        return payloads.DescribedClass(label=known, description=opened.describe(known, body.text))

    return await run_in_registry(request, registry, describe)


@router.get("/{registry}/examples", tags=["examples"], operation_id="list_examples")
async def list_examples(
    request: Request,
    registry: Name,
    label: Annotated[str | None, Query(description="Of this class only.")] = None,
    after: After = 0,
    limit: Limit = 100,
) -> payloads.ExamplePage:
    """List examples, by page."""

    def page(opened: ClassRegistry) -> list[StoredExample]:
        return opened.list_examples(label, after=after, limit=limit + 1)

    found = await run_in_registry(request, registry, page)
    shown = [payloads.Example(id=e.id, label=str(e.label), source=e.source) for e in found[:limit]]
    return payloads.ExamplePage(examples=shown, next=shown[-1].id if len(found) > limit else None)


@router.post(
    "/{registry}/examples",
    tags=["examples"],
    operation_id="add_examples",
    openapi_extra=images_body(payloads.LabelledImages),
)
async def add_examples(request: Request, registry: Name) -> payloads.AddResult:
    """Add images, texts or sounds to a class, known or new. All that can be read are added, or none.

    The next request knows them. Where one text (text/plain) or sound (audio/wav, ...) is the body itself, the label is
    given in the query, as ?label=good.
    """
    upload = await read_upload(request, payloads.LabelledImages)
    return await run_in_registry(request, registry, lambda opened: _add(opened, upload))


def _add(registry: ClassRegistry, upload: Upload) -> payloads.AddResult:
    label, medium = check_label(upload.fields["label"]), upload.medium(registry)
    hashes = [sha256 for _, sha256 in upload.hashes(medium)]
    before = registry.find_examples(hashes, label)
    report = registry.add(label, upload.valid, allow_conflict=upload.fields["allow_conflict"], all_or_none=True)
    ids = registry.find_examples(hashes, label)
    return payloads.AddResult(
        label=label,
        added=report.added,
        example_ids=ids,
        new_ids=[id_ for id_ in ids if id_ not in before],
        duplicates=report.duplicates,
        conflicts=conflicts(registry, report, upload),
        failed=upload.failures(report),
        classes=registry.info().classes,
    )


@router.patch("/{registry}/examples/{id}", tags=["examples"], operation_id="move_example")
async def move_example(request: Request, registry: Name, id: Id, body: payloads.ExampleUpdate) -> payloads.Example:
    """Move an example to another class, known or new."""

    def move(opened: ClassRegistry) -> payloads.Example:
        moved = opened.move_example(id, body.label)
        return payloads.Example(id=moved.id, label=str(moved.label), source=moved.source)

    return await run_in_registry(request, registry, move)


@router.delete("/{registry}/examples/{id}", tags=["examples"], operation_id="remove_example")
async def remove_example(
    request: Request, registry: Name, id: Id, forget: Forget = False
) -> payloads.RemovedCount | payloads.ErasedCount:
    """Remove an example, and its class with the last one."""
    if forget:
        return await erased(request, registry, lambda opened: opened.forget(examples=[id]))
    await run_in_registry(request, registry, lambda opened: opened.remove_example(id))
    return payloads.RemovedCount(removed=1)


_BINARY = {"schema": {"type": "string", "format": "binary"}}
_IMAGE_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The bytes.",
        "content": {kind: _BINARY for kind in ("application/octet-stream", "image/*", "audio/*", "text/plain")},
    },
    304: {"description": "The client has it already."},
}


@router.get(
    "/{registry}/examples/{id}/image",
    tags=["examples"],
    operation_id="get_image",
    response_class=Response,
    responses=_IMAGE_RESPONSES,
)
async def get_image(request: Request, registry: Name, id: Id) -> Response:
    """Return an example: an image or sound byte for byte as it was added, a text as UTF-8."""

    def stored(opened: ClassRegistry) -> tuple[str, bytes]:
        data = opened.stored_image(id)
        return medium_of(opened.modality).media_type(data), data

    kind, data = await run_in_registry(request, registry, stored)
    return image_response(request, data, kind, hashlib.sha256(data).hexdigest())


@router.get(
    "/{registry}/examples/{id}/thumbnail",
    tags=["examples"],
    operation_id="get_thumbnail",
    response_class=Response,
    responses=_IMAGE_RESPONSES,
)
async def get_thumbnail(
    request: Request, registry: Name, id: Id, size: Annotated[int, Query(ge=16, le=512)] = 128
) -> Response:
    """Return a small JPEG of the image of an example."""
    cache: ThumbnailCache = request.app.state.thumbnails

    def thumbnail(opened: ClassRegistry) -> tuple[str, bytes]:
        if opened.modality != "image":
            raise HTTPProblem(409, f"this registry holds {medium_of(opened.modality).noun}s, which have no thumbnails")
        digest = opened.image_hash(id)
        return digest.hex(), cache.get(digest, size, lambda: opened.stored_image(id))

    digest, data = await run_in_registry(request, registry, thumbnail)
    return image_response(request, data, "image/jpeg", f"{digest}-{size}")


@router.get(
    "/{registry}/export",
    tags=["registries"],
    operation_id="export_registry",
    response_class=Response,
    responses={200: {"description": "JSON Lines.", "content": {"application/jsonl": {"schema": {"type": "string"}}}}},
)
async def export_registry(request: Request, registry: Name) -> Response:
    """Download all examples as JSON Lines: id, label, source, sha256, vector, and the encoder's fingerprint."""
    await run_in_registry(
        request, registry, lambda opened: opened.info()
    )  # an error is a response, not the end of a stream
    registries: RegistryPool = request.app.state.registries

    def lines() -> Iterator[str]:
        after = 0
        while True:
            with registries.use(registry) as opened:
                page = opened.export_page(after=after, limit=_EXPORT_PAGE)
            if not page:
                return
            for e in page:
                row = {"id": e.id, "label": e.label, "source": e.source, "sha256": e.sha256}
                made = {"fingerprint": e.fingerprint, "vector": e.vector.tolist()}
                yield json.dumps({**row, **made}, ensure_ascii=False) + "\n"
            after = page[-1].id

    name = f'attachment; filename="{registry}.jsonl"'
    return StreamingResponse(lines(), media_type="application/jsonl", headers={"Content-Disposition": name})
