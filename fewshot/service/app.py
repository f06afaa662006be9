"""The service as an ASGI application."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anyio import CapacityLimiter
from fastapi import APIRouter, FastAPI, Request
from starlette.middleware import Middleware
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.staticfiles import StaticFiles

from fewshot import __version__
from fewshot.errors import MissingExtra
from fewshot.service import openapi, problems
from fewshot.service.access_log import Metrics, Watch
from fewshot.service.limits import Limits
from fewshot.service.middleware import Guard, Load
from fewshot.service.payloads import State
from fewshot.service.registry_pool import Registries
from fewshot.service.routes import prediction_routes, registry_routes
from fewshot.service.thumbnails import Thumbnails

if TYPE_CHECKING:
    from fewshot.encoders import Encoder

PAGE = Path(__file__).with_name("page")

_TAGS = [
    {"name": "predict", "description": "Recognise pictures."},
    {"name": "registries", "description": "What is served."},
    {"name": "classes", "description": "Of a registry."},
    {"name": "examples", "description": "The pictures that classes were learned from."},
    {"name": "unknowns", "description": "Pictures that are none of the classes."},
    {"name": "server", "description": "How it is."},
]

log = logging.getLogger("fewshot.service")


def create_app(
    path: str | os.PathLike[str],
    *,
    encoder: Encoder | str | None = None,
    token: str | None = None,
    limits: Limits | None = None,
    label_studio: Mapping[str, Any] | None = None,
) -> FastAPI:
    """Make the service of a registry, or of a folder of registries.

    Parameters
    ----------
    path : path
        A registry, made when missing if its name ends in ``.fewshot``; or a folder, made when missing, of registries
        ``NAME.fewshot``. No file outside it is read.
    encoder : Encoder or str, optional
        Of new registries, "pocket" by default. Registries of equal encoders share one in memory.
    token : str, optional
        What requests must show. Without, only requests that name this machine as localhost are answered: do not then
        bind the application to any other address.
    limits : Limits, optional
    label_studio : mapping, optional
        Serve as a machine learning backend of Label Studio too; settings of ``label_studio.router``.

    Returns
    -------
    FastAPI
        An ASGI application of one process, which is what its memory, queue and limits are counted for. Its encoder is
        loaded in the background as it starts.

    Raises
    ------
    RegistryError : if the path can be neither.
    ValueError : for an empty token.
    """
    if token is not None and not token.strip():
        raise ValueError("the token is empty; give one, or None to serve this machine only")
    limits = limits or Limits()
    load = Load()
    metrics = Metrics(load, lambda: sum(shared.waiting for shared in registries.encoders))
    registries = Registries(path, encoder=encoder, limits=limits, seen=metrics.computed)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        warming = asyncio.get_running_loop().run_in_executor(None, _warm, app)
        try:
            yield
        finally:
            await warming
            await asyncio.to_thread(registries.close)

    app = FastAPI(
        title="fewshot",
        version=__version__,
        description="Learn a new image class from one to five pictures.",
        openapi_tags=_TAGS,
        docs_url=None,  # its page would load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
        middleware=[
            Middleware(Watch, metrics=metrics),
            Middleware(Guard, token=token, limits=limits, load=load),
        ],
    )
    described = cache(lambda: openapi.describe(app, token=token is not None))
    app.openapi = described  # type: ignore[method-assign]
    app.state.registries, app.state.metrics, app.state.limits = registries, metrics, limits
    app.state.limiter = CapacityLimiter(limits.requests)
    app.state.thumbnails = Thumbnails()
    app.state.ready = State(status="starting", detail="the encoder is being loaded")
    problems.install(app)
    app.include_router(registry_routes.router)
    app.include_router(prediction_routes.router)
    app.include_router(_server)
    if label_studio is not None:
        try:
            from fewshot.service.routes import label_studio_routes as backend
        except ImportError as error:
            raise MissingExtra(f"Label Studio's backend needs {error.name}: pip install 'fewshot[serve]'") from None

        app.include_router(backend.router(registries, **label_studio))
    app.mount("/page", StaticFiles(directory=PAGE, check_dir=False), name="page")
    return app


def _warm(app: FastAPI) -> None:
    try:
        app.state.registries.warm()
        app.state.ready = State(status="ok")
    except Exception:
        app.state.ready = State(status="failing", detail="the server's log says why")
        log.exception("not ready")


_server = APIRouter(tags=["server"])


@_server.get("/", include_in_schema=False)
async def page() -> Response:
    """Return the page."""
    return FileResponse(PAGE / "index.html")


@_server.get("/healthz", operation_id="health")
async def health() -> State:
    """Say that the server is alive."""
    return State(status="ok")


@_server.get(
    "/readyz",
    operation_id="ready",
    response_model=State,
    responses={503: {"model": State, "description": "Not ready."}},
)
async def ready(request: Request) -> JSONResponse:
    """Say whether the encoder is loaded and the registry can be opened."""
    state: State = request.app.state.ready
    return JSONResponse(state.model_dump(), 200 if state.status == "ok" else 503)


@_server.get(
    "/metrics",
    operation_id="metrics",
    response_class=Response,
    responses={200: {"description": "Prometheus's text.", "content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def metrics(request: Request) -> Response:
    """Return the server's numbers, for Prometheus."""
    return Response(request.app.state.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")
