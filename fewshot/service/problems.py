"""Errors as application/problem+json (RFC 9457), each saying what to do."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.routing import Match

from fewshot.errors import FewShotError, ImageError
from fewshot.service.batching_encoder import Busy

log = logging.getLogger("fewshot.service")

MEDIA_TYPE = "application/problem+json"


class Problem(BaseModel):
    """What went wrong, and what to do about it."""

    type: str = Field(default="about:blank", description="Always about:blank: the status says it all.")
    title: str = Field(description="The status in words.")
    status: int = Field(description="The HTTP status.")
    detail: str = Field(description="What was wrong with this request, and the remedy.")


class Refused(HTTPException):
    """A request that is answered with a problem; ``cause`` is what only the log may tell."""

    def __init__(self, status: int, detail: str, *, retry_after: int | None = None, cause: str | None = None) -> None:
        headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        super().__init__(status, detail, headers)
        self.cause = cause


def response(
    status: int, detail: str, headers: dict[str, str] | None = None, *, cause: str | None = None
) -> JSONResponse:
    """Make the answer that tells of a problem."""
    if status >= 500:
        log.warning("problem", extra={"fields": {"status": status, "detail": cause or detail}})
    problem = Problem(title=HTTPStatus(status).phrase, status=status, detail=detail)
    return JSONResponse(problem.model_dump(), status, headers, media_type=MEDIA_TYPE)


def translated(error: Exception, path: str, name: str) -> Refused | None:
    """Return what a registry's error means to a client, who knows the registry by its name; None: it is a bug.

    Parameters
    ----------
    error : Exception
    path : str
        The registry's file: clients are told its name, and of no place on this machine.
    name : str
    """
    said = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
    detail = said.replace(path, name)
    if isinstance(error, Busy):
        return Refused(503, detail, retry_after=1)
    if isinstance(error, KeyError):
        return Refused(404, detail)
    if isinstance(error, FileExistsError):
        return Refused(409, detail)
    if isinstance(error, ImageError):  # one that is registered: those sent are answered one by one
        return Refused(404, placeless(detail))
    if isinstance(error, (FewShotError, OSError)):
        return Refused(503, placeless(said.replace(path, os.path.basename(path))), cause=said)
    if isinstance(error, ValueError):
        return Refused(422, detail)
    return None


# A folder before a file's name; between quotes it may hold spaces.
_FOLDERS = (
    re.compile(r"""(?<=['"])(?:/(?!/)|[A-Za-z]:\\)[^'"]*[/\\](?=[^'"/\\]+['"])"""),
    re.compile(r"""(?<![\w/.-])(?:/(?!/)|[A-Za-z]:\\)[^\s'"]*[/\\](?=[^\s'"/\\])"""),
)


def placeless(detail: str) -> str:
    """Leave of each path of this machine its last name only."""
    for folder in _FOLDERS:
        detail = folder.sub("", detail)
    return detail


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
        allowed = _allowed(request) or "GET, HEAD"  # of the page's files, which are of an application of their own
        error.headers = {"Allow": allowed}
        detail = f"{request.method} is not possible at {request.url.path}, only {allowed}"
    elif error.status_code == 400 and detail == "There was an error parsing the body":
        detail = "the body is not text in UTF-8; send JSON"
    return response(error.status_code, detail, dict(error.headers or {}), cause=getattr(error, "cause", None))


def _allowed(request: Request) -> str:
    """List what can be done at a request's path: Starlette's own answer names the first route's methods only."""
    routes = request.app.router.routes
    known = [
        method
        for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
        if any(route.matches({**request.scope, "method": method})[0] is Match.FULL for route in routes)
    ]
    return ", ".join(known)


def _invalid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return response(422, "; ".join(_wrong(one) for one in error.errors()))


def _wrong(one: Mapping[str, Any]) -> str:
    if one["type"] == "json_invalid":
        return f"the body is not JSON, from its character {one['loc'][-1]} on: {one['ctx']['error']}"
    return f"{'.'.join(map(str, one['loc']))}: {one['msg']}"


def _gone(request: Request, _: Exception) -> JSONResponse:
    request.app.state.metrics.abandoned.inc()
    return response(400, "the client went away")  # for the log: nobody reads it any more


def _unforeseen(_: Request, __: Exception) -> JSONResponse:
    return response(500, "an error of the server's own; its log tells more")
