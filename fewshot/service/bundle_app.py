"""The service of a bundle as an ASGI application: read only, and without torch."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache

from anyio import CapacityLimiter
from fastapi import APIRouter, FastAPI, Request
from starlette.middleware import Middleware
from starlette.responses import Response

from fewshot import __version__
from fewshot.runtime import Recognizer
from fewshot.service import openapi, problems
from fewshot.service.access_log import AccessLogMiddleware, Metrics
from fewshot.service.limits import Limits
from fewshot.service.middleware import InFlight, SecurityMiddleware
from fewshot.service.payloads import ServerStatus
from fewshot.service.routes import bundle_routes
from fewshot.service.worker_threads import WorkerThreads

# Requests that are computed at once: onnxruntime takes all cores for one, and each needs memory of its own.
_AT_ONCE = 2


def create_bundle_app(
    path: str | os.PathLike[str], *, token: str | None = None, limits: Limits | None = None
) -> FastAPI:
    """Create the service of a bundle that ``fewshot export REGISTRY FILE --onnx`` wrote.

    Its routes are those of ``create_app`` that ask, with the same answers but without nearest examples; one that would
    change something is answered with 405 and the remedy. There is no page. Neither torch nor timm is loaded.

    Parameters
    ----------
    path : path
        The bundle. It is read once: start the service again after it was replaced.
    token : str, optional
        As of ``create_app``.
    limits : Limits, optional

    Raises
    ------
    ValueError : for an empty token, or a bundle that cannot be used here, in one line.
    FileNotFoundError : if there is none.
    MissingExtra : where onnxruntime is not installed.
    """
    if token is not None and not token.strip():
        raise ValueError("the token is empty; give one, or None to serve this machine only")
    recognizer, limits, in_flight = Recognizer(path), limits or Limits(), InFlight()
    metrics, workers = Metrics(in_flight, lambda: 0), WorkerThreads(limits.max_requests)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        workers.start()
        try:
            yield
        finally:
            workers.stop()

    app = FastAPI(
        title="fewshot",
        version=__version__,
        description="Recognise the classes of a bundle.",
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
    app.state.metrics, app.state.limits, app.state.workers = metrics, limits, workers
    problems.install_handlers(app)
    app.state.recognizer, app.state.computing = recognizer, CapacityLimiter(_AT_ONCE)
    app.include_router(bundle_routes.router)
    app.include_router(_server)
    return app


_server = APIRouter(tags=["server"])


@_server.get("/healthz", operation_id="health")
async def health() -> ServerStatus:
    """Return whether the server is alive."""
    return ServerStatus(status="ok")


@_server.get("/readyz", operation_id="ready")
async def ready() -> ServerStatus:
    """Return that the bundle is loaded, as it is before the server starts."""
    return ServerStatus(status="ok")


@_server.get("/metrics", operation_id="metrics", response_class=Response)
async def metrics(request: Request) -> Response:
    """Return the metrics of the server, for Prometheus."""
    return Response(request.app.state.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")
