"""HTTP errors as application/problem+json (RFC 9457), each with its remedy."""

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

from fewshot.errors import ExampleError, FewShotError, NoClasses, NotDescribable, RegistryBusy, TooFewExamples
from fewshot.service.batching import Overloaded

log = logging.getLogger("fewshot.service")

# When to ask again where a registry is busy, or memory short.
_BUSY_SECONDS = 5
MEDIA_TYPE = "application/problem+json"


class Problem(BaseModel):
    """What went wrong, and what to do about it."""

    type: str = Field(default="about:blank", description="Always about:blank: the status says it all.")
    title: str = Field(description="The status in words.")
    status: int = Field(description="The HTTP status.")
    detail: str = Field(description="What was wrong with this request, and the remedy.")


class HTTPProblem(HTTPException):
    """An HTTP error that is answered with a ``Problem``; ``cause`` is for the log only."""

    def __init__(self, status: int, detail: str, *, retry_after: int | None = None, cause: str | None = None) -> None:
        headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        super().__init__(status, detail, headers)
        self.cause = cause


def problem_response(
    status: int, detail: str, headers: dict[str, str] | None = None, *, cause: str | None = None
) -> JSONResponse:
    """Return a problem as a response; one of the server's own is logged."""
    if status >= 500:
        log.warning("problem", extra={"fields": {"status": status, "detail": cause or detail}})
    problem = Problem(title=HTTPStatus(status).phrase, status=status, detail=detail)
    return JSONResponse(problem.model_dump(), status, headers, media_type=MEDIA_TYPE)


def problem_of(error: Exception, path: str, name: str) -> HTTPProblem | None:
    """Return the HTTP problem that a registry's error is to a client; None: it is a bug.

    Parameters
    ----------
    error : Exception
    path : str
        The registry's file; in the detail its name stands instead, and no folder of this machine is named.
    name : str
    """
    if is_out_of_memory(error):
        return too_little_memory(error)
    said = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
    detail = said.replace(path, name)
    if isinstance(error, Overloaded):
        return HTTPProblem(503, detail, retry_after=1)
    if isinstance(error, KeyError):
        return HTTPProblem(404, detail)
    if isinstance(error, (FileExistsError, NoClasses, NotDescribable, TooFewExamples)):
        return HTTPProblem(409, detail)
    if isinstance(error, ExampleError):  # of a registered image: those of a request are reported one by one
        return HTTPProblem(404, without_folders(detail))
    if isinstance(error, (FewShotError, OSError)):
        retry_after = _BUSY_SECONDS if isinstance(error, RegistryBusy) else None
        detail = without_folders(said.replace(path, os.path.basename(path)))
        return HTTPProblem(503, detail, retry_after=retry_after, cause=said)
    if isinstance(error, ValueError):
        return HTTPProblem(422, detail)
    return None


_NO_MEMORY = (
    "allocate memory",
    "allocate read lock",
    "not enough memory",
    "out of memory",
    "bad_alloc",
    "could not create a primitive",  # oneDNN's
    "can't start new thread",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is a want of memory, which torch and threads tell by a RuntimeError."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)
    )


def too_little_memory(error: BaseException) -> HTTPProblem:
    """Return the problem of a request that needs more memory than there is."""
    detail = "the server has too little memory for this request now; send fewer or smaller examples, or retry later"
    return HTTPProblem(503, detail, retry_after=_BUSY_SECONDS, cause=f"{type(error).__name__}: {error}")


# A folder before a file's name; between quotes it may hold spaces.
_FOLDERS = (
    re.compile(r"""(?<=['"])(?:/(?!/)|[A-Za-z]:\\)[^'"]*[/\\](?=[^'"/\\]+['"])"""),
    re.compile(r"""(?<![\w/.-])(?:/(?!/)|[A-Za-z]:\\)[^\s'"]*[/\\](?=[^\s'"/\\])"""),
)


def without_folders(detail: str) -> str:
    """Shorten each path in a text to its last name."""
    for folder in _FOLDERS:
        detail = folder.sub("", detail)
    return detail


def install_handlers(app: FastAPI) -> None:
    """Answer every error of an app with a problem; handlers are coroutines, as the others take a thread."""
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(ClientDisconnect, _disconnected)
    app.add_exception_handler(Exception, _internal_error)


async def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    detail = error.detail
    if error.status_code == 404 and detail == "Not Found":
        detail = f"there is nothing at {request.url.path}; /openapi.json lists what there is"
    elif error.status_code == 405 and detail == "Method Not Allowed":
        allowed = _allowed_methods(request) or "GET, HEAD"  # the page's files are an application of their own
        error.headers = {"Allow": allowed}
        detail = f"{request.method} is not possible at {request.url.path}, only {allowed}"
    elif error.status_code == 400 and detail == "There was an error parsing the body":
        detail = "the body is not UTF-8 text; send JSON"
    return problem_response(error.status_code, detail, dict(error.headers or {}), cause=getattr(error, "cause", None))


def _allowed_methods(request: Request) -> str:
    """List the methods of a request's path; Starlette's own response names those of the first route only."""
    routes = request.app.router.routes
    known = [
        method
        for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
        if any(route.matches({**request.scope, "method": method})[0] is Match.FULL for route in routes)
    ]
    return ", ".join(known)


async def _invalid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return problem_response(422, "; ".join(_message(one) for one in error.errors()))


def _message(one: Mapping[str, Any]) -> str:
    if one["type"] == "json_invalid":
        return f"the body is not JSON, from its character {one['loc'][-1]} on: {one['ctx']['error']}"
    return f"{'.'.join(map(str, one['loc']))}: {one['msg']}"


async def _disconnected(request: Request, _: Exception) -> JSONResponse:
    request.app.state.metrics.disconnected.inc()
    return problem_response(400, "the client has disconnected")  # for the log: nobody reads it


async def _internal_error(_: Request, __: Exception) -> JSONResponse:
    return problem_response(500, "internal error; the server's log has its traceback")
