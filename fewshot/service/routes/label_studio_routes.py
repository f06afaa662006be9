"""The routes of a Label Studio machine learning backend."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from anyio import CapacityLimiter, Semaphore, to_thread
from fastapi import APIRouter, FastAPI, Request
from starlette.responses import JSONResponse

from fewshot.errors import FewShotError
from fewshot.integrations import BadRequest, Origin
from fewshot.service.batching import DEADLINE, set_torch_threads
from fewshot.service.label_studio_backend import LabelStudioBackend
from fewshot.service.problems import HTTPProblem, without_folders
from fewshot.service.registry_pool import RegistryPool
from fewshot.service.worker_threads import WorkerThreads

R = TypeVar("R")

log = logging.getLogger("fewshot.service.routes.label_studio_routes")

URL_VARIABLE = "LABEL_STUDIO_URL"
KEY_VARIABLE = "LABEL_STUDIO_API_KEY"
_RECORDING, _PREDICTING, _PREDICTING_OF_PROJECT = 8, 16, 4
"""Threads; a project whose images do not come has some of them wait, and leaves the others."""
_WAITING_OF_PROJECT = 32
"""Predictions that wait for one of its threads; another is answered with 503, so that other requests find room."""


def router(
    registries: RegistryPool,
    *,
    url: str | None = None,
    image_hosts: Sequence[str] = (),
    only_confident: bool = False,
) -> APIRouter:
    """Make the routes.

    Parameters
    ----------
    registries : RegistryPool
        Of a folder: each project has a registry there, ``project-<id>.<time it was made>``.
    url : str, optional
        Where Label Studio is reached, by default the environment's LABEL_STUDIO_URL. Without, it is where /setup says,
        which is believed only if that is this machine: anyone could say so.
    image_hosts : sequence of str, optional
        Origins, such as "https://images.example.com", that images of tasks may be fetched from besides Label Studio,
        without its token.
    only_confident : bool, default False
        Whether to leave out unsure suggestions.

    Notes
    -----
    Label Studio's token is the environment's LABEL_STUDIO_API_KEY, else the one of /setup. It is kept in memory only,
    and sent to Label Studio only.

    Raises
    ------
    RegistryError : if a single registry is served.
    ValueError : for a URL that is none, or a token without a URL.
    """
    place = url or os.environ.get(URL_VARIABLE) or None
    key = os.environ.get(KEY_VARIABLE) or None
    if place is not None:
        _origin(f"--label-studio-url, or {URL_VARIABLE}", place)
    elif key is not None:
        raise ValueError(
            f"{KEY_VARIABLE} is set, so say where Label Studio is too, with --label-studio-url: else whoever calls "
            "/setup could have that token sent to another port of this machine"
        )
    hosts = frozenset(_origin("--label-studio-images", one) for one in image_hosts)
    backend = LabelStudioBackend(registries, url=place, key=key, image_hosts=hosts, only_confident=only_confident)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await to_thread.run_sync(backend.close)

    routes = APIRouter(include_in_schema=False, lifespan=lifespan)
    predicting, recording = CapacityLimiter(_PREDICTING), CapacityLimiter(_RECORDING)
    of_project: WeakValueDictionary[str, Semaphore] = WeakValueDictionary()

    @routes.get("/health")
    async def health() -> JSONResponse:
        return JSONResponse({"status": "UP", "model_class": "FewShot"})

    @routes.post("/setup")
    async def setup(request: Request) -> JSONResponse:
        version = await _answer(request, backend.setup, await _body(request, recording), recording)
        return JSONResponse({"model_version": version})

    @routes.get("/versions")
    async def versions(request: Request) -> JSONResponse:
        found = await _answer(request, lambda _: backend.versions(), {}, recording)
        return JSONResponse({"versions": found, "message": "ok"})

    @routes.post("/predict")
    async def predict(request: Request) -> JSONResponse:
        body = await _body(request, recording)
        async with _share(of_project, str(body.get("project"))[:40]):
            results = await _answer(request, backend.predict, body, predicting)
        return JSONResponse({"results": results})

    @routes.post("/webhook")
    async def webhook(request: Request) -> JSONResponse:
        action = await _answer(request, backend.webhook, await _body(request, recording), recording)
        if action is None:
            return JSONResponse({"status": "Unknown event"})
        return JSONResponse({"result": {"seen": action}, "status": "ok"}, 201)

    return routes


def _origin(name: str, url: str) -> Origin:
    try:
        return Origin.of(url)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _share(of_project: WeakValueDictionary[str, Semaphore], project: str) -> Semaphore:
    """Return a project's share of the threads, unless too many predictions wait for it."""
    share = of_project.setdefault(project, Semaphore(_PREDICTING_OF_PROJECT))
    if share.value == 0 and share.statistics().tasks_waiting >= _WAITING_OF_PROJECT:
        why = f"{_PREDICTING_OF_PROJECT} predictions of this project are in work and {_WAITING_OF_PROJECT} wait"
        raise HTTPProblem(503, f"{why}; ask again later", retry_after=5)
    return share


async def _body(request: Request, limiter: CapacityLimiter) -> dict[str, Any]:
    """Read a request's body, which may be large, in a worker thread."""
    data = await request.body()
    try:
        body = await request.app.state.workers.run(lambda: json.loads(data), limiter=limiter)
    except (ValueError, RecursionError):
        raise HTTPProblem(422, "the body is not JSON") from None
    if not isinstance(body, dict):
        said = f"the body must be an object, not {type(body).__name__}"
        log.warning("%s was refused: %s", request.url.path, said)
        raise HTTPProblem(422, said)
    return body


async def _answer(
    request: Request, job: Callable[[Mapping[str, Any]], R], body: Mapping[str, Any], limiter: CapacityLimiter
) -> R:
    """Run a job on a request's body, in a worker thread."""

    def run() -> R:
        DEADLINE.set(None)  # the routes have deadlines of their own
        set_torch_threads(1)
        try:
            return job(body)
        except BadRequest as error:
            log.warning("%s was refused: %s", request.url.path, error)
            raise HTTPProblem(422, str(error)) from error
        except (FewShotError, OSError, KeyError) as error:  # a KeyError: a registry that was taken away meanwhile
            log.error("%s failed: %s", request.url.path, error)
            said = str(error).replace(f"{request.app.state.registries.folder}{os.sep}", "")
            raise HTTPProblem(503, without_folders(said), retry_after=5) from error

    workers: WorkerThreads = request.app.state.workers
    return await workers.run(run, limiter=limiter)
