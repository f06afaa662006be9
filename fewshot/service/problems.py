"""Errors as application/problem+json (RFC 9457), each saying what to do."""

from __future__ import annotations

import logging
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse

from fewshot.errors import FewShotError, ImageError
from fewshot.service.pool import Busy

log = logging.getLogger("fewshot.service")

MEDIA_TYPE = "application/problem+json"


class Problem(BaseModel):
    """What went wrong, and what to do about it."""

    type: str = Field(default="about:blank", description="Always about:blank: the status says it all.")
    title: str = Field(description="The status in words.")
    status: int = Field(description="The HTTP status.")
    detail: str = Field(description="What was wrong with this request, and the remedy.")


class Refused(HTTPException):
    """A request that is answered with a problem."""

    def __init__(self, status: int, detail: str, *, retry_after: int | None = None) -> None:
        headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        super().__init__(status, detail, headers)


def response(status: int, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """Make the answer that tells of a problem."""
    if status >= 500:
        log.warning("problem", extra={"fields": {"status": status, "detail": detail}})
    problem = Problem(title=HTTPStatus(status).phrase, status=status, detail=detail)
    return JSONResponse(problem.model_dump(), status, headers, media_type=MEDIA_TYPE)


def translated(error: Exception, path: str, name: str) -> Refused | None:
    """Return what a registry's error means to a client, who knows the registry by its name; None: it is a bug."""
    detail = str(error.args[0] if isinstance(error, KeyError) and error.args else error).replace(path, name)
    if isinstance(error, Busy):
        return Refused(503, detail, retry_after=1)
    if isinstance(error, KeyError):
        return Refused(404, detail)
    if isinstance(error, FileExistsError):
        return Refused(409, detail)
    if isinstance(error, ImageError):  # one that is registered: those sent are answered one by one
        return Refused(404, detail)
    if isinstance(error, (FewShotError, OSError)):
        return Refused(503, detail)
    if isinstance(error, ValueError):
        return Refused(422, detail)
    return None


def install(app: FastAPI) -> None:
    """Have an app answer every error so."""
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_exception_handler(Exception, _unforeseen)


def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    detail = error.detail
    if error.status_code == 404 and detail == "Not Found":
        detail = f"there is nothing at {request.url.path}; /openapi.json lists what there is"
    elif error.status_code == 405 and detail == "Method Not Allowed":
        allowed = (error.headers or {}).get("Allow", "")
        detail = f"{request.method} is not possible at {request.url.path}" + (f", only {allowed}" if allowed else "")
    return response(error.status_code, detail, dict(error.headers or {}))


def _invalid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    wrong = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
    return response(422, "; ".join(wrong))


def _gone(_: Request, __: Exception) -> JSONResponse:
    return response(400, "the client went away before all was sent")  # for the log: nobody reads it any more


def _unforeseen(_: Request, __: Exception) -> JSONResponse:
    return response(500, "an error of the server's own; its log tells more")
