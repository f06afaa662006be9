"""A machine learning backend of Label Studio: the projects, and a thread that applies their annotations."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fewshot.errors import FewShotError, RegistryError
from fewshot.integrations import (
    BadRequest,
    FetchSlots,
    LabelStudioClient,
    Origin,
    ProjectKey,
    ProjectPredictor,
    SyncReport,
    Unreachable,
    apply_pending,
    controls_of,
    model_version,
    project_key,
    read_event,
    sync_with_export,
)
from fewshot.registry import AnnotationWriter
from fewshot.service.registry_pool import SUFFIX, RegistryPool

log = logging.getLogger("fewshot.service.label_studio_backend")

_EMPTY_VERSION = "fewshot-0"
# Label Studio waits 100 s for a prediction. So long, pending annotations are applied first; then it goes without them.
_APPLY_SECONDS = 60.0
# The background thread lets a prediction in between as often.
_TURN_SECONDS = 2.0
# Projects in memory: the model of each, and where Label Studio is.
_MAX_PROJECTS = 100


class _Project:
    """A project's state in memory; one thread at a time applies annotations or predicts."""

    def __init__(self, key: ProjectKey, predictor: ProjectPredictor, client: LabelStudioClient) -> None:
        self.key, self.predictor, self.client = key, predictor, client
        # The last pending annotation that was tried, whether there was no time for those after it, and until when those
        # that could not be applied are left alone.
        self.last, self.out_of_time, self.retry_at = 0, False, 0.0
        self.lock = threading.Lock()


class LabelStudioBackend:
    """Answers what Label Studio asks: a registry for each project, annotations applied in the background.

    Parameters
    ----------
    registries : RegistryPool
        Of a folder.
    url, key : str, optional
        Where Label Studio is, and the token for it; by default what /setup says.
    image_hosts : frozenset of Origin
        Other hosts that images may be fetched from.
    only_confident : bool
        Whether to leave out unsure suggestions.

    Raises
    ------
    RegistryError : if a single registry is served.
    """

    def __init__(
        self,
        registries: RegistryPool,
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
        self._slots = FetchSlots()
        self._projects: OrderedDict[ProjectKey, _Project] = OrderedDict()
        self._lock = threading.Lock()
        self._creating = threading.Lock()
        self._jobs: queue.Queue[_Project | None] = queue.Queue()
        self._thread: threading.Thread | None = None
        self._closing = False

    def setup(self, body: Mapping[str, Any]) -> str:
        """Take in where Label Studio is, if it says so, and return the model version; no model is loaded."""
        project = self._project(project_key(body.get("project")))
        controls_of(body.get("schema"))
        hostname, token = body.get("hostname"), body.get("access_token")
        client = self._client(hostname, self._key or (token if isinstance(token, str) else None))
        if client is not None and client != project.client:  # else it knows by now which hosts do not answer
            project.client = client
        with self._writer(project.key, create=False) as writer:
            if writer is None:
                return _EMPTY_VERSION
            if writer.pending(limit=1) or writer.resync_request() is not None:
                self._wake(project)
            return model_version(writer.state())

    def versions(self) -> list[str]:
        """Return the model versions of the projects that were set up."""
        with self._lock:
            keys = list(self._projects)
        found = []
        for key in keys:
            with self._writer(key, create=False) as writer:
                found.append(_EMPTY_VERSION if writer is None else model_version(writer.state()))
        return sorted(set(found))

    def webhook(self, body: Mapping[str, Any]) -> str | None:
        """Record an event, and return its action, None if it is unknown; annotations are applied in the background."""
        event = read_event(body)
        if event is None:
            return None
        project = self._project(event.project)
        with self._writer(project.key, create=True) as writer:
            assert writer is not None
            recorded = writer.record(event.annotations.records)
            if event.deleted or event.deleted_tasks:
                writer.delete(event.deleted, tasks=event.deleted_tasks)
            if event.config is not None:
                writer.request_resync(event.config)
        for problem in event.annotations.problems():
            log.warning("%s: %s", project.key.registry, problem)
        if recorded or event.config is not None:
            self._wake(project)
        return event.action

    def predict(self, body: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return predictions for tasks, after applying the annotations recorded so far."""
        project = self._project(project_key(body.get("project")))
        controls = controls_of(body.get("label_config"))
        tasks = body.get("tasks")
        tasks = [tasks] if isinstance(tasks, dict) else tasks
        if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
            raise BadRequest("tasks must be a list of objects")
        params = body.get("params")
        context = params.get("context") if isinstance(params, dict) else None
        with self._writer(project.key, create=False) as writer:
            if writer is None:
                return [{"model_version": _EMPTY_VERSION, "score": 0.0, "result": []} for _ in tasks]
            with self._registries.use(project.key.registry) as registry:
                encoder = registry.encoder
                until = time.monotonic() + _APPLY_SECONDS  # for the lock too: not of each that waits in turn
                with project.lock:
                    for _ in range(1 + project.out_of_time):  # to the last of them, then from the first on
                        self._apply(project, writer, until)
                    model = project.predictor.model(controls, registry)
                return model.predict(tasks, encoder, project.client, context)

    def close(self) -> None:
        """Finish the annotations in work; other pending ones are applied when the server runs again."""
        with self._lock:
            self._closing = True
        if self._thread is not None:
            self._jobs.put(None)
            self._thread.join()

    def _project(self, key: ProjectKey) -> _Project:
        key = key if key.created is not None else self._newest(key)
        with self._lock:
            if key not in self._projects:
                client = self._new_client(self._url if self._key else None, self._key or "")
                self._projects[key] = _Project(key, ProjectPredictor(only_confident=self._only_confident), client)
            self._projects.move_to_end(key)
            if len(self._projects) > _MAX_PROJECTS:  # Label Studio names itself again, at /setup, before it asks
                self._projects.popitem(last=False)
            return self._projects[key]

    def _newest(self, key: ProjectKey) -> ProjectKey:
        """Return the newest project of this id, where its creation time is not said: it is said elsewhere."""
        with self._lock:
            known = [one for one in self._projects if one.id == key.id]
        for path in Path(self._folder).glob(f"project-{key.id}.*{SUFFIX}"):
            with suppress(BadRequest):
                known.append(project_key(path.name.removeprefix("project-").removesuffix(SUFFIX)))
        return max(known, key=lambda one: one.created or 0, default=key)

    def _new_client(self, url: str | None, token: str, alias: str | None = None) -> LabelStudioClient:
        return LabelStudioClient(url, token, alias, self._image_hosts, self._slots)

    def _client(self, hostname: object, token: str | None) -> LabelStudioClient | None:
        """Return a client of Label Studio, None where it is unknown; its own word is believed of this machine only."""
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
            log.warning(
                "/setup: hostname is missing, images of Label Studio cannot be fetched: set LABEL_STUDIO_HOST for "
                "Label Studio, or give --label-studio-url"
            )
            return None
        if not token:
            log.warning(
                "/setup: access_token is missing, images of Label Studio cannot be fetched: give a user's token as "
                "LABEL_STUDIO_API_KEY"
            )
            return None
        return self._new_client(url, token, alias)

    @contextmanager
    def _writer(self, key: ProjectKey, *, create: bool) -> Iterator[AnnotationWriter | None]:
        """Open a project's registry for annotations; None where there is no registry yet."""
        path = Path(self._folder, f"{key.registry}{SUFFIX}")
        with self._creating:  # a file that is being made is there already, but empty
            there = path.exists()
            if not there:
                self._registries.check_available()
            if not there and create:
                with suppress(FileExistsError):
                    self._registries.create(key.registry)
        if not there and not create:
            yield None
            return
        if path.is_symlink():
            raise RegistryError(f"{path.name} is a link; a project's registry is a file of the served folder itself")
        with AnnotationWriter(path, **self._registries.waiting) as writer:
            yield writer

    def _apply(self, project: _Project, writer: AnnotationWriter, until: float) -> bool:
        """Apply pending annotations; True if there was no time for all: the next call goes on after the last.

        Those with an image on a host that does not answer have their turn again once all others had theirs and, where
        Label Studio hangs, after a pause.
        """
        if not project.out_of_time and time.monotonic() >= project.retry_at:
            project.last = 0
        if not writer.pending(limit=1, after=project.last):
            project.out_of_time = False
            return False
        with self._registries.use(project.key.registry) as registry:
            report = apply_pending(writer, registry.encoder, project.client, after=project.last, until=until)
        project.last, project.out_of_time = report.last, report.out_of_time
        self._log(project, report, "annotations learned")
        if report.unreachable is not None:
            project.retry_at = max(project.retry_at, time.monotonic() + report.unreachable.pause)
            log.warning("%s: annotations wait to be learned: %s", project.key.registry, report.unreachable)
        return report.out_of_time

    def _log(self, project: _Project, report: SyncReport, what: str) -> None:
        log.info("%s: %d %s", project.key.registry, report.annotations, what)
        for problem in report.problems:
            log.warning("%s: %s", project.key.registry, problem)

    def _wake(self, project: _Project) -> None:
        with self._lock:
            if self._closing:
                return
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="fewshot annotations", daemon=True)
                self._thread.start()
        self._jobs.put(project)

    def _work(self) -> None:
        while (project := self._jobs.get()) is not None:
            try:
                with self._writer(project.key, create=False) as writer:
                    if writer is not None:
                        self._catch_up(project, writer)
            except FewShotError as error:
                log.warning("%s: annotations wait to be learned: %s", project.key.registry, error)
            except Exception:
                log.exception("%s: annotations wait to be learned", project.key.registry)

    def _catch_up(self, project: _Project, writer: AnnotationWriter) -> None:
        request = writer.resync_request()
        if request is not None and time.monotonic() >= project.retry_at:
            try:
                report = sync_with_export(writer, project.client, project.key.id, request.config)
            except (Unreachable, BadRequest) as error:
                project.retry_at = max(project.retry_at, time.monotonic() + getattr(error, "pause", 0.0))
                log.warning("%s: its export waits to be learned: %s", project.key.registry, error)
            else:
                self._log(project, report, "annotations of the export to learn")
                writer.finish_resync(request)
        turns = 1 + project.out_of_time  # to the last of them, then from the first on
        while turns and not self._closing:
            with project.lock:
                turns -= not self._apply(project, writer, time.monotonic() + _TURN_SECONDS)
