"""The service as an ASGI application."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anyio import move_on_after
from fastapi import APIRouter, FastAPI, Request
from starlette.middleware import Middleware
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.staticfiles import StaticFiles

from fewshot import __version__
from fewshot.service import openapi, problems
from fewshot.service.access_log import AccessLogMiddleware, Metrics
from fewshot.service.limits import Limits
from fewshot.service.middleware import InFlight, SecurityMiddleware
from fewshot.service.payloads import ServerStatus
from fewshot.service.readiness import Readiness
from fewshot.service.registry_pool import RegistryPool
from fewshot.service.routes import (
    classifier_routes,
    diagnosis_routes,
    group_routes,
    prediction_routes,
    registry_routes,
    rejection_routes,
)
from fewshot.service.thumbnails import ThumbnailCache
from fewshot.service.worker_threads import WorkerThreads, run_in_thread
from fewshot.validation import check_extra

if TYPE_CHECKING:
    from fewshot.encoders import Encoder

PAGE = Path(__file__).with_name("page")

_TAGS = [
    {"name": "predict", "description": "Predict the classes of images, texts or sounds."},
    {"name": "registries", "description": "The registries that are served."},
    {"name": "classes", "description": "The classes of a registry."},
    {"name": "examples", "description": "The registered images, texts or sounds of the classes."},
    {"name": "rejection", "description": "Open-set rejection: examples of none of the classes."},
    {"name": "server", "description": "Status and metrics."},
]

_DISK_SECONDS = 2.0


def create_app(
    path: str | os.PathLike[str],
    *,
    encoder: Encoder | str | None = None,
    token: str | None = None,
    limits: Limits | None = None,
    label_studio: Mapping[str, Any] | None = None,
) -> FastAPI:
    """Create the service of a registry, or of a folder of registries.

    Parameters
    ----------
    path : path
        A registry, created if missing and its name ends in ``.fewshot``; or a folder, created if missing, of registries
        ``NAME.fewshot``. No file outside it is read.
    encoder : Encoder or str, optional
        Of new registries, "pocket" by default. Registries of equal encoders share one in memory.
    token : str, optional
        That requests must send. Without one, only requests that name this machine as localhost are answered: do not
        bind the application to any other address then.
    limits : Limits, optional
    label_studio : mapping, optional
        Settings of ``label_studio_routes.router``, to serve as a machine learning backend of Label Studio too.

    Returns
    -------
    FastAPI
        An ASGI application for one process, as its queue and limits are per process. Its encoder is loaded in the
        background as it starts.

    Raises
    ------
    RegistryError : if the path can be neither.
    ValueError : for an empty token.
    """
    if token is not None and not token.strip():
        raise ValueError("the token is empty; give one, or None to serve this machine only")
    limits = limits or Limits()
    in_flight = InFlight()
    metrics = Metrics(in_flight, lambda: sum(shared.queued for shared in registries.encoders))
    registries = RegistryPool(
        path, encoder=encoder, limits=limits, on_batch=metrics.count_batch, on_wait=metrics.waits.observe
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.workers.start()
        warming = asyncio.get_running_loop().run_in_executor(None, app.state.readiness.check)
        try:
            yield
        finally:
            await warming
            try:
                await asyncio.to_thread(registries.close)
            except RuntimeError:  # there is no memory for a thread
                registries.close()
            app.state.workers.stop()

    app = FastAPI(
        title="fewshot",
        version=__version__,
        description="Learn a new class of images, texts or sounds from one to five examples.",
        openapi_tags=_TAGS,
        docs_url=None,  # their pages load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
        middleware=[
            Middleware(AccessLogMiddleware, metrics=metrics),
            Middleware(SecurityMiddleware, token=token, limits=limits, in_flight=in_flight),
        ],
    )
    document = cache(lambda: openapi.describe(app, token=token is not None))
    app.openapi = document  # type: ignore[method-assign]
    app.state.registries, app.state.metrics, app.state.limits = registries, metrics, limits
    app.state.workers = WorkerThreads(limits.max_requests)
    app.state.thumbnails = ThumbnailCache()
    app.state.diagnoses = diagnosis_routes.DiagnosisCache()
    app.state.readiness = Readiness(registries)
    problems.install_handlers(app)
    app.include_router(registry_routes.router)
    app.include_router(prediction_routes.router)
    app.include_router(group_routes.router)
    app.include_router(rejection_routes.router)
    app.include_router(classifier_routes.router)
    app.include_router(diagnosis_routes.router)
    app.include_router(_server)
    if label_studio is not None:
        check_extra("serve", "Label Studio's backend needs", "httpx2")
        from fewshot.service.routes import label_studio_routes

        app.include_router(label_studio_routes.router(registries, **label_studio))
    app.mount("/page", StaticFiles(directory=PAGE, check_dir=False), name="page")
    return app


_server = APIRouter(tags=["server"])


@_server.get("/", include_in_schema=False)
async def page() -> Response:
    """Return the page."""
    return FileResponse(PAGE / "index.html")


@_server.get("/healthz", operation_id="health")
async def health() -> ServerStatus:
    """Return whether the server is alive."""
    return ServerStatus(status="ok")


@_server.get(
    "/readyz",
    operation_id="ready",
    response_model=ServerStatus,
    responses={503: {"model": ServerStatus, "description": "Not ready."}},
)
async def ready(request: Request) -> JSONResponse:
    """Return whether the encoder is loaded, and what is served is there now."""
    readiness: Readiness = request.app.state.readiness
    status = ServerStatus(status="failing", detail=f"the disk does not answer within {_DISK_SECONDS:g} s")
    with move_on_after(_DISK_SECONDS):  # a network drive may hang
        status = await run_in_thread(request, readiness.check, abandon=True)
    return JSONResponse(status.model_dump(), 200 if status.status == "ok" else 503)


@_server.get(
    "/metrics",
    operation_id="metrics",
    response_class=Response,
    responses={
        200: {"description": "Prometheus's text format.", "content": {"text/plain": {"schema": {"type": "string"}}}}
    },
)
async def metrics(request: Request) -> Response:
    """Return the metrics of the server, for Prometheus."""
    return Response(request.app.state.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")
