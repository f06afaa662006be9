"""Pictures on their way in: from a multipart form, or from JSON in base64."""

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

from fewshot.registry import AddReport
from fewshot.service.limits import Limits
from fewshot.service.payloads import Failed, PictureList
from fewshot.service.problems import Refused

Body = TypeVar("Body", bound=PictureList)

_NAME_LENGTH = 200


class Named(io.BytesIO):
    """A picture's bytes with a name, which stands for it in messages and in the registry."""

    def __init__(self, data: bytes, name: str) -> None:
        super().__init__(data)
        self.name = name


@dataclass(frozen=True)
class Unusable:
    """A picture that did not even arrive, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Sent:
    """A request's pictures in the order given, and its other fields."""

    pictures: list[Named | Unusable]
    fields: dict[str, Any]

    @property
    def usable(self) -> list[Named]:
        """The pictures that arrived."""
        return [picture for picture in self.pictures if isinstance(picture, Named)]

    @cached_property
    def hashes(self) -> list[tuple[str, bytes]]:
        """The name and the SHA-256 of each picture that arrived."""
        return [(picture.name, hashlib.sha256(picture.getvalue()).digest()) for picture in self.usable]

    def failures(self, report: AddReport) -> list[Failed]:
        """Name all pictures that came to nothing: those that did not arrive, and those that cannot be read."""
        lost = [Failed(source=p.name, reason=p.reason) for p in self.pictures if isinstance(p, Unusable)]
        return lost + [Failed(source=failure.source, reason=failure.reason) for failure in report.failed]


async def pictures_of(request: Request, model: type[Body]) -> Sent:
    """Read a request's pictures, and the fields of ``model`` besides them.

    Raises
    ------
    Refused : 415 for another content type, 413 for too many pictures, 422 for a missing or wrong field.
    """
    limits: Limits = request.app.state.limits
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return await _form(request, model, limits)
    if kind == "application/json":
        body = await request.body()
        return await to_thread.run_sync(_json, body, model, limits.pictures)
    raise Refused(415, f"send pictures as multipart/form-data, or as application/json in base64, not as {kind or '?'}")


async def _form(request: Request, model: type[Body], limits: Limits) -> Sent:
    pictures: list[Named | Unusable] = []
    fields: dict[str, Any] = {}
    # One more than may be: so that it is us who say that there are too many.
    async with request.form(max_files=10 * limits.pictures, max_fields=20, max_part_size=limits.fields_bytes) as form:
        for key, value in form.multi_items():
            if isinstance(value, UploadFile):
                if key not in ("images", "images[]"):
                    raise Refused(422, f"a file came in the field {key!r}; pictures go in the field 'images'")
                pictures.append(Named(await value.read(), plain_name(value.filename)))
            elif key in ("images", "images[]"):
                raise Refused(422, "the field 'images' holds text, not a file with a file name")
            else:
                fields[key] = value
    _check_count(len(pictures), limits.pictures)
    checked = _checked(model, {**fields, "images": ["" for _ in pictures]})
    return Sent(pictures, checked.model_dump(exclude={"images"}))


def _json(body: bytes, model: type[Body], most: int) -> Sent:
    try:
        asked = model.model_validate_json(body)
    except ValidationError as error:
        raise Refused(422, _words(error)) from None
    _check_count(len(asked.images), most)
    pictures = [_decoded(text, f"image {number}") for number, text in enumerate(asked.images, start=1)]
    return Sent(pictures, asked.model_dump(exclude={"images"}))


def _decoded(text: str, name: str) -> Named | Unusable:
    try:
        return Named(base64.b64decode(text, validate=True), name)
    except (binascii.Error, ValueError):
        return Unusable(name, "not base64 (RFC 4648, of the file's bytes, without a 'data:' prefix)")


def _check_count(count: int, most: int) -> None:
    if not count:
        raise Refused(422, "no picture came; send each as a file in the field 'images'")
    if count > most:
        raise Refused(413, f"{count} pictures in one request; at most {most}: send the others in further requests")


def _checked(model: type[Body], values: dict[str, Any]) -> Body:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise Refused(422, _words(error)) from None


def _words(error: ValidationError) -> str:
    return "; ".join(
        f"{'.'.join(map(str, one['loc'])) or 'body'}: {one['msg']}"
        for one in error.errors(include_url=False, include_input=False, include_context=False)
    )


def plain_name(name: str | None) -> str:
    """Return a file's name, or path, as it was sent but without control characters: it is only ever shown."""
    return "".join(c for c in name or "" if c.isprintable())[-_NAME_LENGTH:] or "picture"
