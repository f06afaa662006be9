"""The images of a request: from a multipart form, or in base64 from JSON."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from anyio import to_thread
from fastapi import Request
from pydantic import ValidationError
from starlette.datastructures import UploadFile

from fewshot.registry import AddReport, ClassRegistry
from fewshot.service.limits import Limits
from fewshot.service.payloads import FailedImage, ImageConflict, ImageList
from fewshot.service.problems import HTTPProblem

Body = TypeVar("Body", bound=ImageList)

_FILE_FIELDS = ("images", "images[]")
_MAX_NAME_LENGTH = 200
_TRUTHS = {"true": True, "false": False}


class UploadedImage(io.BytesIO):
    """The bytes of an image, with the name that reports and the registry give it."""

    def __init__(self, data: bytes, name: str) -> None:
        super().__init__(data)
        self.name = name


@dataclass(frozen=True)
class InvalidImage:
    """An image whose bytes could not be decoded, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Upload:
    """The images of a request, in the order given, and its other fields."""

    images: list[UploadedImage | InvalidImage]
    fields: dict[str, Any]

    @property
    def valid(self) -> list[UploadedImage]:
        """The images whose bytes arrived."""
        return [image for image in self.images if isinstance(image, UploadedImage)]

    @cached_property
    def hashes(self) -> list[tuple[str, bytes]]:
        """Name and SHA-256 of each image whose bytes arrived."""
        return [(image.name, hashlib.sha256(image.getvalue()).digest()) for image in self.valid]

    def failures(self, report: AddReport) -> list[FailedImage]:
        """List all images that were not read: those that did not arrive, and those of the report."""
        invalid = [
            FailedImage(source=one.name, reason=one.reason) for one in self.images if isinstance(one, InvalidImage)
        ]
        return invalid + [FailedImage(source=failure.source, reason=failure.reason) for failure in report.failed]


async def read_upload(request: Request, model: type[Body]) -> Upload:
    """Read the images of a request, and the other fields of ``model``.

    Raises
    ------
    HTTPProblem : 415 for another content type, 413 for too many images, 422 for a missing or wrong field.
    """
    limits: Limits = request.app.state.limits
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return await _read_form(request, model, limits)
    if kind == "application/json":
        body = await request.body()
        return await to_thread.run_sync(_read_json, body, model, limits.max_images)
    raise HTTPProblem(
        415, f"send images as multipart/form-data, or as application/json in base64, not as {kind or '?'}"
    )


async def _read_form(request: Request, model: type[Body], limits: Limits) -> Upload:
    images: list[UploadedImage | InvalidImage] = []
    fields: dict[str, Any] = {}
    booleans = {name for name, field in model.model_fields.items() if field.annotation is bool}
    # More than allowed are parsed, so that the error is ours.
    max_files, max_part = 10 * limits.max_images, limits.max_field_bytes
    async with request.form(max_files=max_files, max_fields=20, max_part_size=max_part) as form:
        for key, value in form.multi_items():
            if isinstance(value, UploadFile):
                if key not in _FILE_FIELDS:
                    raise HTTPProblem(422, f"a file came in the field {key!r}; images go in the field 'images'")
                images.append(UploadedImage(await value.read(), printable_name(value.filename)))
            elif key in _FILE_FIELDS:
                raise HTTPProblem(422, "the field 'images' holds text, not a file with a file name")
            else:
                fields[key] = _TRUTHS.get(value.lower(), value) if key in booleans else value
    _check_count(len(images), limits.max_images)
    try:
        checked = model.model_validate({**fields, "images": ["" for _ in images]})
    except ValidationError as error:
        raise HTTPProblem(422, _describe(error)) from None
    return Upload(images, checked.model_dump(exclude={"images"}))


def _read_json(body: bytes, model: type[Body], max_images: int) -> Upload:
    try:
        checked = model.model_validate_json(body)
    except ValidationError as error:
        raise HTTPProblem(422, _describe(error)) from None
    _check_count(len(checked.images), max_images)
    images = [_decode(text, f"image {number}") for number, text in enumerate(checked.images, start=1)]
    return Upload(images, checked.model_dump(exclude={"images"}))


def _decode(text: str, name: str) -> UploadedImage | InvalidImage:
    try:
        return UploadedImage(base64.b64decode(text, validate=True), name)
    except (binascii.Error, ValueError):
        return InvalidImage(name, "not base64 (RFC 4648, of the file's bytes, without a 'data:' prefix)")


def _check_count(count: int, limit: int) -> None:
    if not count:
        raise HTTPProblem(422, "the request holds no image; send each as a file in the field 'images'")
    if count > limit:
        raise HTTPProblem(413, f"{count} images in one request; at most {limit}: send the others in further requests")


def _describe(error: ValidationError) -> str:
    return "; ".join(
        f"{'.'.join(map(str, one['loc'])) or 'body'}: {one['msg']}"
        for one in error.errors(include_url=False, include_input=False, include_context=False)
    )


def printable_name(name: str | None) -> str:
    """Return a file's name, or path, as it was sent but without control characters: it is only ever displayed."""
    return "".join(c for c in name or "" if c.isprintable())[-_MAX_NAME_LENGTH:] or "image"


def conflicts(registry: ClassRegistry, report: AddReport, upload: Upload) -> list[ImageConflict]:
    """List the images that were not added because other classes hold them, with the examples there."""
    hashes = [(conflict, [h for name, h in upload.hashes if name == conflict.source]) for conflict in report.conflicts]
    return [
        ImageConflict(
            source=conflict.source,
            held_by=list(conflict.held_by),
            example_ids=[id_ for label in conflict.held_by for id_ in registry.find_examples(images, label)],
        )
        for conflict, images in hashes
    ]
