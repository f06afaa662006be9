"""The routes that show and change what registries hold."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import Response, StreamingResponse

from fewshot.registry import ClassRegistry, StoredExample, name_of
from fewshot.service import payloads, thumbnails
from fewshot.service.openapi import PROBLEMS, pictures_body
from fewshot.service.problems import Refused, translated
from fewshot.service.registry_pool import Registries
from fewshot.service.uploads import Sent, pictures_of
from fewshot.service.worker_threads import Id, Name, conflicts, in_registry, in_thread

router = APIRouter(prefix="/v1/registries", responses=PROBLEMS)

Class = Annotated[str, Query(alias="label", description="The class.")]
After = Annotated[int, Query(ge=0, le=2**63 - 1, description="Only ids above this one: next of the page before.")]
Limit = Annotated[int, Query(ge=1, le=1000)]

_SHOWN = 12
_EXPORTED_AT_ONCE = 500


@router.get("", tags=["registries"], operation_id="list_registries")
async def list_registries(request: Request) -> payloads.RegistryList:
    """List the registries."""
    registries: Registries = request.app.state.registries

    def described(name: str) -> payloads.RegistryName:
        try:
            with registries.use(name) as registry:
                about = registry.info()
                return payloads.RegistryName(name=name, classes=about.classes, examples=about.examples)
        except Exception as error:
            problem = translated(error, registries.place(name), name)
            if problem is None:
                raise
            return payloads.RegistryName(name=name, classes=None, examples=None, problem=problem.detail)

    found = await in_thread(request, lambda: [described(name) for name in registries.names()])
    return payloads.RegistryList(registries=found, can_create=registries.can_create)


@router.post("", status_code=201, tags=["registries"], operation_id="create_registry")
async def create_registry(request: Request, body: payloads.Created) -> payloads.RegistryName:
    """Make an empty registry, where a folder is served."""
    registries: Registries = request.app.state.registries
    if not registries.can_create:
        raise Refused(409, "one registry is served, and no folder to make others in; start: fewshot serve FOLDER")

    def make() -> None:
        try:
            registries.create(body.name)
        except Exception as error:
            problem = translated(error, registries.place(body.name), body.name)
            if problem is None:
                raise
            raise problem from error

    await in_thread(request, make)
    return payloads.RegistryName(name=body.name, classes=0, examples=0)


@router.get("/{registry}", tags=["registries"], operation_id="get_registry")
async def get_registry(request: Request, registry: Name) -> payloads.RegistryAbout:
    """Say what a registry is made of."""

    def about(opened: ClassRegistry) -> payloads.RegistryAbout:
        with opened.reading():
            info, revision, negatives = opened.info(), opened.revision, opened.rejection.n_negatives
        return payloads.RegistryAbout(
            name=registry,
            encoder=name_of(json.dumps(info.encoder)) if info.fingerprint else "",
            fingerprint=info.fingerprint,
            dim=info.dim,
            metric=info.metric,  # type: ignore[arg-type]
            classes=info.classes,
            examples=info.examples,
            images_kept=info.images_kept,
            negatives=negatives,
            bytes=info.bytes,
            revision=revision,
        )

    return await in_registry(request, registry, about)


@router.get("/{registry}/classes", tags=["classes"], operation_id="list_classes")
async def list_classes(request: Request, registry: Name) -> payloads.ClassList:
    """List the classes, in the order in which they came."""

    def listed(opened: ClassRegistry) -> list[payloads.ClassAbout]:
        with opened.reading():
            first = opened.first_examples(_SHOWN)
            return [
                payloads.ClassAbout(label=label, examples=count, example_ids=first[label])
                for label, count in opened.classes().items()
            ]

    return payloads.ClassList(classes=await in_registry(request, registry, listed))


@router.patch("/{registry}/classes", tags=["classes"], operation_id="rename_class")
async def rename_class(request: Request, registry: Name, label: Class, body: payloads.NewLabel) -> payloads.Renamed:
    """Rename a class, or with ``merge`` join it to another."""

    def rename(opened: ClassRegistry) -> payloads.Renamed:
        known = opened.classes()
        if body.label != label and body.label in known and label in known:
            if not body.merge:
                raise Refused(409, f"there is a class {body.label!r} already; to join the two, send merge: true")
            return payloads.Renamed(label=body.label, examples=opened.merge([label], into=body.label))
        if body.label != label or label not in known:
            opened.rename(label, body.label)
        return payloads.Renamed(label=body.label, examples=known[label])

    return await in_registry(request, registry, rename)


@router.delete("/{registry}/classes", tags=["classes"], operation_id="remove_class")
async def remove_class(request: Request, registry: Name, label: Class) -> payloads.Removed:
    """Remove a class with all its examples."""
    return payloads.Removed(removed=await in_registry(request, registry, lambda opened: opened.remove(label)))


@router.get("/{registry}/examples", tags=["examples"], operation_id="list_examples")
async def list_examples(
    request: Request,
    registry: Name,
    label: Annotated[str | None, Query(description="Of this class only.")] = None,
    after: After = 0,
    limit: Limit = 100,
) -> payloads.ExamplePage:
    """List examples, a page at a time."""

    def page(opened: ClassRegistry) -> list[StoredExample]:
        return opened.list_examples(label, after=after, limit=limit + 1)

    found = await in_registry(request, registry, page)
    shown = [payloads.Example(id=e.id, label=str(e.label), source=e.source) for e in found[:limit]]
    return payloads.ExamplePage(examples=shown, next=shown[-1].id if len(found) > limit else None)


@router.post(
    "/{registry}/examples",
    tags=["examples"],
    operation_id="add_examples",
    openapi_extra=pictures_body(payloads.LabelledPictures),
)
async def add_examples(request: Request, registry: Name) -> payloads.Added:
    """Add pictures to a class, known or new. The next request knows them."""
    sent = await pictures_of(request, payloads.LabelledPictures)
    return await in_registry(request, registry, lambda opened: _added(opened, sent))


def _added(registry: ClassRegistry, sent: Sent) -> payloads.Added:
    label, hashes = sent.fields["label"], [sha256 for _, sha256 in sent.hashes]
    before = registry.find_examples(hashes, label)
    report = registry.add(label, sent.usable, allow_conflict=sent.fields["allow_conflict"])
    ids = registry.find_examples(hashes, label)
    return payloads.Added(
        label=label,
        added=report.added,
        example_ids=ids,
        new_ids=[id_ for id_ in ids if id_ not in before],
        duplicates=report.duplicates,
        conflicts=conflicts(registry, report, sent),
        failed=sent.failures(report),
        classes=registry.info().classes,
    )


@router.patch("/{registry}/examples/{id}", tags=["examples"], operation_id="move_example")
async def move_example(request: Request, registry: Name, id: Id, body: payloads.Moved) -> payloads.Example:
    """Give an example to another class, known or new."""

    def move(opened: ClassRegistry) -> payloads.Example:
        moved = opened.move_example(id, body.label)
        return payloads.Example(id=moved.id, label=str(moved.label), source=moved.source)

    return await in_registry(request, registry, move)


@router.delete("/{registry}/examples/{id}", tags=["examples"], operation_id="remove_example")
async def remove_example(request: Request, registry: Name, id: Id) -> payloads.Removed:
    """Remove an example, and its class with the last one."""
    await in_registry(request, registry, lambda opened: opened.remove_example(id))
    return payloads.Removed(removed=1)


_BINARY = {"schema": {"type": "string", "format": "binary"}}
_PICTURE: dict[int | str, dict[str, Any]] = {
    200: {"description": "The picture.", "content": {"application/octet-stream": _BINARY, "image/*": _BINARY}},
    304: {"description": "It is the one that the client has."},
}


@router.get(
    "/{registry}/examples/{id}/image",
    tags=["examples"],
    operation_id="get_image",
    response_class=Response,
    responses=_PICTURE,
)
async def get_image(request: Request, registry: Name, id: Id) -> Response:
    """Return an example's picture, byte for byte as it came."""
    data = await in_registry(request, registry, lambda opened: opened.stored_image(id))
    return thumbnails.answer(request, data, thumbnails.media_type(data), hashlib.sha256(data).hexdigest())


@router.get(
    "/{registry}/examples/{id}/thumbnail",
    tags=["examples"],
    operation_id="get_thumbnail",
    response_class=Response,
    responses=_PICTURE,
)
async def get_thumbnail(
    request: Request, registry: Name, id: Id, size: Annotated[int, Query(ge=16, le=512)] = 128
) -> Response:
    """Return a small JPEG of an example's picture."""
    makers: thumbnails.Thumbnails = request.app.state.thumbnails

    def small(opened: ClassRegistry) -> tuple[str, bytes]:
        digest = opened.image_hash(id)
        return digest.hex(), makers.get(digest, size, lambda: opened.stored_image(id))

    digest, data = await in_registry(request, registry, small)
    return thumbnails.answer(request, data, "image/jpeg", f"{digest}-{size}")


@router.get(
    "/{registry}/export",
    tags=["registries"],
    operation_id="export_registry",
    response_class=Response,
    responses={200: {"description": "JSON Lines.", "content": {"application/jsonl": {"schema": {"type": "string"}}}}},
)
async def export_registry(request: Request, registry: Name) -> Response:
    """Download all examples, one JSON object a line: id, label, source, sha256, vector, and the vector's maker."""
    await in_registry(request, registry, lambda opened: opened.info())  # what cannot be opened is refused at once
    registries: Registries = request.app.state.registries

    def lines() -> Iterator[str]:
        after = 0
        while True:
            with registries.use(registry) as opened:
                page = opened.export_page(after=after, limit=_EXPORTED_AT_ONCE)
            if not page:
                return
            for e in page:
                row = {"id": e.id, "label": e.label, "source": e.source, "sha256": e.sha256}
                made = {"fingerprint": e.fingerprint, "vector": e.vector.tolist()}
                yield json.dumps({**row, **made}, ensure_ascii=False) + "\n"
            after = page[-1].id

    name = f'attachment; filename="{registry}.jsonl"'
    return StreamingResponse(lines(), media_type="application/jsonl", headers={"Content-Disposition": name})
