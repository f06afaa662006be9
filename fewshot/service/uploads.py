"""The images, texts or sounds of a request: from a multipart form, from JSON, or one as the body itself."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import Request
from pydantic import ValidationError
from starlette.datastructures import UploadFile

from fewshot.media import Medium, Modality, attempt, describe_text, medium_of
from fewshot.registry import AddReport, ClassRegistry
from fewshot.service.limits import Limits
from fewshot.service.payloads import FailedImage, ImageConflict, ImageList
from fewshot.service.problems import HTTPProblem
from fewshot.service.worker_threads import WorkerThreads

Body = TypeVar("Body", bound=ImageList)

_FILE_FIELDS = ("images", "images[]")
_MAX_NAME_LENGTH = 200
_TRUTHS = {"true": True, "false": False}


class UploadedImage(io.BytesIO):
    """The bytes of an image, text or sound, with the name that reports and the registry give it."""

    def __init__(self, data: bytes, name: str) -> None:
        super().__init__(data)
        self.name = name


@dataclass(frozen=True)
class InvalidImage:
    """One whose bytes could not be decoded, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Upload:
    """The examples of a request, in the order given; its other fields; and what it says they are, if it does."""

    images: list[UploadedImage | InvalidImage]
    fields: dict[str, Any]
    modality: Modality | None = None

    @property
    def valid(self) -> list[UploadedImage]:
        """Those whose bytes arrived."""
        return [image for image in self.images if isinstance(image, UploadedImage)]

    def hashes(self, medium: Medium) -> list[tuple[str, bytes]]:
        """Name and SHA-256 of the content of each that a registry of a medium can hold."""
        contents = [(image.name, attempt(medium.content, image)) for image in self.valid]
        return [(name, hashlib.sha256(data).digest()) for name, data in contents if isinstance(data, bytes)]

    def failures(self, report: AddReport) -> list[FailedImage]:
        """List all that were not read: those that did not arrive, and those of the report."""
        invalid = [
            FailedImage(source=one.name, reason=one.reason) for one in self.images if isinstance(one, InvalidImage)
        ]
        return invalid + [FailedImage(source=failure.source, reason=failure.reason) for failure in report.failed]

    def medium(self, registry: ClassRegistry) -> Medium:
        """Return what a registry holds.

        Raises
        ------
        HTTPProblem : 409 where the request says that it gives something else.
        """
        medium = medium_of(registry.modality)
        if self.modality not in (None, medium.modality):
            given = medium_of(str(self.modality)).noun
            raise HTTPProblem(
                409, f"this registry holds {medium.noun}s, not {given}s; {given}s go into a registry of their own"
            )
        return medium


async def read_upload(request: Request, model: type[Body]) -> Upload:
    """Read the examples of a request, and the other fields of ``model``.

    Raises
    ------
    HTTPProblem : 415 for another content type, 413 for too many examples, 422 for a missing or wrong field.
    """
    limits: Limits = request.app.state.limits
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return await _read_form(request, model, limits)
    if kind == "application/json":
        body = await request.body()
        workers: WorkerThreads = request.app.state.workers
        return await workers.run(lambda: _read_json(body, model, limits.max_images))
    if kind == "text/plain" or kind.startswith("audio/"):
        return _one(await request.body(), kind, _checked(model, _known(model, request.query_params), 1))
    raise HTTPProblem(
        415,
        "send files as multipart/form-data, or as application/json in base64; one text as text/plain, one sound as "
        f"audio/wav; not as {kind or '?'}",
    )


def _one(body: bytes, kind: str, fields: dict[str, Any]) -> Upload:
    """The text, or sound, that a body is."""
    if kind == "text/plain":
        return Upload([_uploaded_text(body.decode("utf-8", "replace"), body)], fields, "text")
    return Upload([UploadedImage(body, "sound")], fields, "audio")


def _known(model: type[Body], query: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in query.items() if name in model.model_fields}


def _uploaded_text(text: str, data: bytes | None = None) -> UploadedImage:
    """A text with its beginning as its name."""
    data = text.encode("utf-8", "surrogatepass") if data is None else data
    return UploadedImage(data, printable_name(describe_text(text)))


def _checked(model: type[Body], given: Mapping[str, Any], count: int) -> dict[str, Any]:
    """Check the fields of a request beside its ``count`` files, which are text."""
    booleans = {name for name, field in model.model_fields.items() if field.annotation is bool}
    fields = {
        name: _TRUTHS.get(value.lower(), value) if name in booleans else value
        for name, value in given.items()
        if name != "texts"
    }
    try:
        checked = model.model_validate({**fields, "images": ["" for _ in range(count)]})
    except ValidationError as error:
        raise HTTPProblem(422, _describe(error)) from None
    return checked.model_dump(exclude={"images", "texts"})


async def _read_form(request: Request, model: type[Body], limits: Limits) -> Upload:
    images: list[UploadedImage | InvalidImage] = []
    fields: dict[str, str] = {}
    # More than allowed are parsed, so that the error is ours.
    max_files, max_part = 10 * limits.max_images, limits.max_field_bytes
    async with request.form(max_files=max_files, max_fields=20, max_part_size=max_part) as form:
        for key, value in form.multi_items():
            if isinstance(value, UploadFile):
                if key not in _FILE_FIELDS:
                    raise HTTPProblem(
                        422,
                        f"a file came in the field {key!r}; files go in the field 'images'",
                    )
                images.append(UploadedImage(await value.read(), printable_name(value.filename)))
            elif key in _FILE_FIELDS:
                raise HTTPProblem(422, "the field 'images' holds text, not a file with a file name")
            else:
                fields[key] = value
    _check_count(len(images), limits.max_images)
    return Upload(images, _checked(model, fields, len(images)))


def _read_json(body: bytes, model: type[Body], max_images: int) -> Upload:
    try:
        checked = model.model_validate_json(body)
    except ValidationError as error:
        raise HTTPProblem(422, _describe(error)) from None
    if checked.images and checked.texts:
        raise HTTPProblem(422, "give either 'images' (files) or 'texts': a registry holds one kind of example")
    _check_count(len(checked.images or checked.texts), max_images)
    fields = checked.model_dump(exclude={"images", "texts"})
    if checked.texts:
        return Upload([_uploaded_text(text) for text in checked.texts], fields, "text")
    return Upload([_decode(text, f"file {number}") for number, text in enumerate(checked.images, start=1)], fields)


def _decode(text: str, name: str) -> UploadedImage | InvalidImage:
    try:
        return UploadedImage(base64.b64decode(text, validate=True), name)
    except (binascii.Error, ValueError):
        return InvalidImage(name, "not base64 (RFC 4648, of the file's bytes, without a 'data:' prefix)")


def _check_count(count: int, limit: int) -> None:
    if not count:
        raise HTTPProblem(
            422, "the request holds no example; send each as a file in the field 'images', or texts as JSON in 'texts'"
        )
    if count > limit:
        raise HTTPProblem(413, f"{count} examples in one request; at most {limit}: send the others in further requests")


def _describe(error: ValidationError) -> str:
    return "; ".join(
        f"{'.'.join(map(str, one['loc'])) or 'body'}: {one['msg']}"
        for one in error.errors(include_url=False, include_input=False, include_context=False)
    )


def printable_name(name: str | None) -> str:
    """Return a file's name, or path, as it was sent but without control characters: it is only ever displayed."""
    return "".join(c for c in name or "" if c.isprintable())[-_MAX_NAME_LENGTH:] or "file"


def conflicts(registry: ClassRegistry, report: AddReport, upload: Upload) -> list[ImageConflict]:
    """List what was not added because other classes hold them, with the examples there."""
    known = upload.hashes(medium_of(registry.modality))
    hashes = [(conflict, [h for name, h in known if name == conflict.source]) for conflict in report.conflicts]
    return [
        ImageConflict(
            source=conflict.source,
            held_by=list(conflict.held_by),
            example_ids=[id_ for label in conflict.held_by for id_ in registry.find_examples(images, label)],
        )
        for conflict, images in hashes
    ]
