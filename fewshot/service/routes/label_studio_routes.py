"""The routes of a Label Studio machine learning backend: it suggests, and learns from every annotation at once."""

from __future__ import annotations

import json
import logging
import os
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, FastAPI, Request
from starlette.responses import JSONResponse

from fewshot.errors import FewShotError, RegistryError
from fewshot.integrations import (
    BadRequest,
    Learned,
    Origin,
    Predictor,
    ProjectKey,
    Server,
    Unreachable,
    controls_of,
    learn,
    project_key,
    read_event,
    relearn,
    version_of,
)
from fewshot.registry import Lessons, storable
from fewshot.service.batching_encoder import DEADLINE, use_cores
from fewshot.service.problems import Refused, placeless
from fewshot.service.registry_pool import SUFFIX, Registries

R = TypeVar("R")

log = logging.getLogger("fewshot.service.routes.label_studio_routes")

URL_VARIABLE = "LABEL_STUDIO_URL"
KEY_VARIABLE = "LABEL_STUDIO_API_KEY"
_UNTAUGHT = "fewshot-0"
# Label Studio waits 100 s for a prediction. So long, lessons are learned first; then it is made without the rest.
_PATIENCE_SECONDS = 60.0
# The background learner lets a prediction in between as often.
_TURN_SECONDS = 2.0
_AT_ONCE = 8
# Projects held in memory: what was learned of each, and where Label Studio is.
_MOST_PROJECTS = 100
_NOWHERE = "Label Studio has not said where it is yet; it does so, at /setup, whenever it asks for a prediction"


def router(
    registries: Registries,
    *,
    url: str | None = None,
    image_hosts: Sequence[str] = (),
    only_confident: bool = False,
) -> APIRouter:
    """Make the routes.

    Parameters
    ----------
    registries : Registries
        Of a folder: each project has a registry there, ``project-<id>.<time it was made>``.
    url : str, optional
        Where Label Studio is reached, by default the environment's LABEL_STUDIO_URL. Without, it is where /setup says,
        which is believed only if that is this machine: anyone could say so.
    image_hosts : sequence of str, optional
        Origins, such as "https://images.example.com", that pictures of tasks may be fetched from besides Label Studio,
        without its token.
    only_confident : bool, default False
        Whether unsure suggestions are kept back.

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
    backend = _Backend(registries, url=place, key=key, image_hosts=hosts, only_confident=only_confident)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await to_thread.run_sync(backend.close)

    routes = APIRouter(include_in_schema=False, lifespan=lifespan)
    predicting, noting = CapacityLimiter(_AT_ONCE), CapacityLimiter(_AT_ONCE)

    @routes.get("/health")
    async def health() -> JSONResponse:
        return JSONResponse({"status": "UP", "model_class": "FewShot"})

    @routes.post("/setup")
    async def setup(request: Request) -> JSONResponse:
        version = await _answer(request, backend.setup, noting)
        return JSONResponse({"model_version": version})

    @routes.get("/versions")
    async def versions() -> JSONResponse:
        found = await to_thread.run_sync(backend.versions, limiter=noting)
        return JSONResponse({"versions": found, "message": "ok"})

    @routes.post("/predict")
    async def predict(request: Request) -> JSONResponse:
        results = await _answer(request, backend.predict, predicting)
        return JSONResponse({"results": results})

    @routes.post("/webhook")
    async def webhook(request: Request) -> JSONResponse:
        action = await _answer(request, backend.webhook, noting)
        return JSONResponse({"result": {"seen": action}, "status": "ok"}, 201)

    return routes


def _origin(name: str, url: str) -> Origin:
    try:
        return Origin.of(url)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


async def _answer(request: Request, job: Callable[[Mapping[str, Any]], R], limiter: CapacityLimiter) -> R:
    """Do what a request's body asks, in a worker thread."""
    data = await request.body()

    def run() -> R:
        DEADLINE.set(None)  # the routes have deadlines of their own
        use_cores(1)
        try:
            body = json.loads(data)
        except (ValueError, RecursionError):
            raise Refused(422, "the body is not JSON") from None
        try:
            if not isinstance(body, dict):
                raise BadRequest(f"the body must be an object, not {type(body).__name__}")
            return job(body)
        except BadRequest as error:
            log.warning("%s was refused: %s", request.url.path, error)
            raise Refused(422, str(error)) from error
        except (FewShotError, OSError, KeyError) as error:  # a KeyError: a registry that was taken away meanwhile
            log.error("%s failed: %s", request.url.path, error)
            said = str(error).replace(f"{request.app.state.registries.folder}{os.sep}", "")
            raise Refused(503, placeless(said), retry_after=5) from error

    return await to_thread.run_sync(run, limiter=limiter)


class _Project:
    """What is held in memory of a project; one thread at a time learns or predicts."""

    def __init__(self, key: ProjectKey, predictor: Predictor) -> None:
        self.key, self.predictor = key, predictor
        self.server: Server | None = None
        # How far the annotations that wait were tried, whether there was no time for the others, and until when those
        # that could not be learned are left alone.
        self.after, self.more, self.retry_at = 0, False, 0.0
        self.lock = threading.Lock()


class _Backend:
    """The projects, and a thread that learns in the background."""

    def __init__(
        self,
        registries: Registries,
        *,
        url: str | None,
        key: str | None,
        image_hosts: frozenset[Origin],
        only_confident: bool,
    ) -> None:
        if registries.folder is None:
            raise RegistryError(
                "Label Studio has a registry for each project: serve a folder with --label-studio, not one registry"
            )
        self._registries, self._folder = registries, registries.folder
        self._url, self._key = url, key
        self._image_hosts, self._only_confident = image_hosts, only_confident
        self._projects: OrderedDict[ProjectKey, _Project] = OrderedDict()
        self._lock = threading.Lock()
        self._making = threading.Lock()
        self._jobs: queue.Queue[_Project | None] = queue.Queue()
        self._thread: threading.Thread | None = None
        self._closing = False

    def setup(self, body: Mapping[str, Any]) -> str:
        """Take in where Label Studio is; no model is loaded."""
        project = self._project(project_key(body.get("project")))
        controls_of(body.get("schema"))
        hostname, token = body.get("hostname"), body.get("access_token")
        server = self._server(hostname, self._key or (token if isinstance(token, str) else None))
        if server != project.server:  # else it knows by now which places do not answer
            project.server = server
        with self._lessons(project.key, create=False) as lessons:
            if lessons is None:
                return _UNTAUGHT
            if lessons.waiting(limit=1) or lessons.asked_again() is not None:
                self._wake(project)
            return version_of(lessons.state())

    def versions(self) -> list[str]:
        """Return the model versions of the projects that were set up."""
        with self._lock:
            keys = list(self._projects)
        found = []
        for key in keys:
            with self._lessons(key, create=False) as lessons:
                found.append(_UNTAUGHT if lessons is None else version_of(lessons.state()))
        return sorted(set(found))

    def webhook(self, body: Mapping[str, Any]) -> str:
        """Write down what has happened; it is learned in the background."""
        event = read_event(body)
        if event is None:
            return storable(str(body.get("action"))[:100])
        project = self._project(event.project)
        with self._lessons(event.project, create=True) as lessons:
            assert lessons is not None
            noted = lessons.note(event.notes.read)
            if event.deleted or event.deleted_tasks:
                lessons.forget(event.deleted, tasks=event.deleted_tasks)
            if event.config is not None:
                lessons.ask_again(event.config)
        for problem in event.notes.passed_over():
            log.warning("%s: %s", project.key.registry, problem)
        if noted or event.config is not None:
            self._wake(project)
        return event.action

    def predict(self, body: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Answer tasks, after the lessons acknowledged so far."""
        project = self._project(project_key(body.get("project")))
        controls = controls_of(body.get("label_config"))
        tasks = body.get("tasks")
        if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
            raise BadRequest("tasks must be a list of objects")
        params = body.get("params")
        context = params.get("context") if isinstance(params, dict) else None
        server = project.server
        if server is None:
            raise Unreachable(_NOWHERE)
        with self._lessons(project.key, create=False) as lessons:
            if lessons is None:
                return [{"model_version": _UNTAUGHT, "score": 0.0, "result": []} for _ in tasks]
            with self._registries.use(project.key.registry) as registry:
                encoder = registry.encoder
                until = time.monotonic() + _PATIENCE_SECONDS  # for the lock too: not of each that waits in turn
                with project.lock:
                    for _ in range(1 + project.more):  # to the last of them, then from the first on
                        self._learn(project, lessons, until)
                    model = project.predictor.model(controls, lessons, encoder)
                return model.predict(tasks, encoder, server, context)

    def close(self) -> None:
        """Finish the lessons in work; what else was noted is learned when the server runs again."""
        with self._lock:
            self._closing = True
        if self._thread is not None:
            self._jobs.put(None)
            self._thread.join()

    def _project(self, key: ProjectKey) -> _Project:
        with self._lock:
            if key not in self._projects:
                self._projects[key] = _Project(key, Predictor(only_confident=self._only_confident))
                if self._url is not None and self._key is not None:
                    self._projects[key].server = self._server(None, self._key)
            self._projects.move_to_end(key)
            if len(self._projects) > _MOST_PROJECTS:  # Label Studio names itself again, at /setup, before it asks
                self._projects.popitem(last=False)
            return self._projects[key]

    def _server(self, hostname: object, token: str | None) -> Server:
        """Return where Label Studio is; what it says itself is believed of this machine only."""
        alias = None
        if isinstance(hostname, str) and hostname:
            try:
                alias, origin = hostname, Origin.of(hostname)
            except ValueError as error:
                raise BadRequest(f"hostname: {error}") from None
            if self._url is None and not origin.is_loopback:
                raise BadRequest(
                    f"Label Studio says it is at {origin}, which is believed of this machine only; if it is there, "
                    f"start with: --label-studio-url {origin}"
                )
        url = self._url or alias
        if url is None:
            raise BadRequest("hostname is missing: set LABEL_STUDIO_HOST for Label Studio, or give --label-studio-url")
        if not token:
            raise BadRequest(f"access_token is missing: give a user's token as {KEY_VARIABLE}")
        return Server(url, token, alias, self._image_hosts)

    @contextmanager
    def _lessons(self, key: ProjectKey, *, create: bool) -> Iterator[Any]:
        """Open what a project's registry has learned; None where there is no registry yet."""
        path = Path(self._folder, f"{key.registry}{SUFFIX}")
        with self._making:  # a file that is being made is there already, but empty
            there = path.exists()
            if not there and create:
                with suppress(FileExistsError):
                    self._registries.create(key.registry)
        if not there and not create:
            yield None
            return
        if path.is_symlink():
            raise RegistryError(f"{path.name} is a link; a project's registry is a file of the served folder itself")
        with Lessons(path) as lessons:
            yield lessons

    def _learn(self, project: _Project, lessons: Lessons, until: float) -> bool:
        """Learn what waits, and return whether there was no time for all; the next call goes on after the last.

        What lies where nobody answers is passed over: it has its turn again once all others had theirs and, where Label
        Studio hangs, after a pause.
        """
        if not project.more and time.monotonic() >= project.retry_at:
            project.after = 0
        if project.server is None or not lessons.waiting(limit=1, after=project.after):
            project.more = False
            return False
        with self._registries.use(project.key.registry) as registry:
            learned = learn(lessons, registry.encoder, project.server, after=project.after, until=until)
        project.after, project.more = learned.after, learned.more
        self._tell(project, learned, "annotations learned")
        if learned.waits is not None:
            project.retry_at = max(project.retry_at, time.monotonic() + learned.waits.pause)
            log.warning("%s: annotations wait to be learned: %s", project.key.registry, learned.waits)
        return learned.more

    def _tell(self, project: _Project, learned: Learned, what: str) -> None:
        log.info("%s: %d %s", project.key.registry, learned.annotations, what)
        for problem in learned.problems:
            log.warning("%s: %s", project.key.registry, problem)

    def _wake(self, project: _Project) -> None:
        with self._lock:
            if self._closing:
                return
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="fewshot lessons", daemon=True)
                self._thread.start()
        self._jobs.put(project)

    def _work(self) -> None:
        while (project := self._jobs.get()) is not None:
            try:
                with self._lessons(project.key, create=False) as lessons:
                    if lessons is not None:
                        self._catch_up(project, lessons)
            except FewShotError as error:
                log.warning("%s: annotations wait to be learned: %s", project.key.registry, error)
            except Exception:
                log.exception("%s: annotations wait to be learned", project.key.registry)

    def _catch_up(self, project: _Project, lessons: Lessons) -> None:
        asked = lessons.asked_again()
        if asked is not None and time.monotonic() >= project.retry_at:
            try:
                if project.server is None:
                    raise Unreachable(_NOWHERE)
                found = relearn(lessons, project.server, project.key.id, asked.how)
            except (Unreachable, BadRequest) as error:
                project.retry_at = max(project.retry_at, time.monotonic() + getattr(error, "pause", 0.0))
                log.warning("%s: its export waits to be learned: %s", project.key.registry, error)
            else:
                self._tell(project, found, "annotations of the export to learn")
                lessons.answered(asked)
        stretches = 1 + project.more  # to the last of them, then from the first on
        while stretches and not self._closing:
            with project.lock:
                stretches -= not self._learn(project, lessons, time.monotonic() + _TURN_SECONDS)
