"""The OpenAPI document, complete enough to generate a client from."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from fewshot.service.payloads import ImageList, LabelledImages
from fewshot.service.problems import MEDIA_TYPE, Problem

_SCHEMAS = "#/components/schemas/"


def _problem(description: str) -> dict[str, Any]:
    return {"description": description, "content": {MEDIA_TYPE: {"schema": {"$ref": f"{_SCHEMAS}Problem"}}}}


PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: _problem("The body cannot be parsed: an incomplete form, or text that is not UTF-8."),
    401: _problem("The token is missing or wrong."),
    403: _problem("Without a token the server answers requests of this machine only."),
    404: _problem("There is no such registry, class, example or negative."),
    408: _problem("The body did not arrive in time."),
    409: _problem("The state of the registry does not allow it, as where it holds no class, or texts and not images."),
    413: _problem("More examples, or bytes, than a request may hold."),
    415: _problem("Another content type."),
    422: _problem("A missing or wrong field."),
    500: _problem("An internal error of the server."),
    503: _problem("The server is overloaded, or the registry cannot be used; Retry-After says when to retry."),
}


def images_body(model: type[ImageList]) -> dict[str, Any]:
    """Describe a request body of examples and the other fields of ``model``, as a form, as JSON, or one as the body."""
    # openapi-python-client 0.29 forgets an import (Unset) for a required body of two kinds: a fault of its template.
    return {
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {"schema": {"$ref": f"{_SCHEMAS}{model.__name__}Form"}},
                "application/json": {"schema": {"$ref": f"{_SCHEMAS}{model.__name__}"}},
                **(_ALONE if model is ImageList else {}),
            },
        }
    }


_ALONE: dict[str, Any] = {
    "text/plain": {"schema": {"type": "string", "minLength": 1}},
    "audio/*": {"schema": {"type": "string", "format": "binary"}},
}


def describe(app: FastAPI, *, token: bool) -> dict[str, Any]:
    """Return an app's OpenAPI document."""
    found = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes, tags=app.openapi_tags
    )
    components = found.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    schemas["Problem"] = _schema(Problem)
    for model in (ImageList, LabelledImages):
        schemas[model.__name__] = _schema(model)
        schemas[f"{model.__name__}Form"] = _form(model)
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    if token:
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        found["security"] = [{"token": []}]
    return found


def _schema(model: type[BaseModel]) -> dict[str, Any]:
    schema = model.model_json_schema(ref_template=f"{_SCHEMAS}{{model}}")
    if issubclass(model, ImageList):
        schema["oneOf"] = [{"required": ["images"]}, {"required": ["texts"]}]
    return schema


def _form(model: type[ImageList]) -> dict[str, Any]:
    """Return the schema of a multipart form: as in JSON, but the images are files."""
    schema = _schema(model)
    files = {"type": "array", "minItems": 1, "items": {"type": "string", "format": "binary"}, "description": "Files."}
    properties = {name: of for name, of in schema["properties"].items() if name != "texts"} | {"images": files}
    required = ["images", *schema.get("required", ())]
    kept = {name: value for name, value in schema.items() if name != "oneOf"}
    return {**kept, "title": f"{schema['title']}Form", "properties": properties, "required": required}
