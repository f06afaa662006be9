"""Whether the server can answer: its encoder is loaded, and what it serves is there now."""

from __future__ import annotations

import logging
import threading

from fewshot.errors import RegistryError
from fewshot.service.payloads import ServerStatus
from fewshot.service.problems import without_folders
from fewshot.service.registry_pool import RegistryPool
from fewshot.service.rehearsal import rehearse

log = logging.getLogger("fewshot.service")


class Readiness:
    """The status of a server, "ok" once all that requests need is loaded, while what is served is there.

    Parameters
    ----------
    registries : RegistryPool
    """

    def __init__(self, registries: RegistryPool) -> None:
        self.status = ServerStatus(status="starting", detail="the encoder is being loaded")
        self._registries = registries
        self._warm = False
        self._checking = threading.Lock()

    def check(self) -> ServerStatus:
        """Return the status now; what could not be loaded is loaded again. Blocks: call it from a worker thread."""
        if self._checking.acquire(blocking=False):  # else another thread is at it
            try:
                self._set(self._checked())
            finally:
                self._checking.release()
        return self.status

    def _checked(self) -> ServerStatus:
        try:
            self._registries.check_available()
        except RegistryError as error:
            return ServerStatus(status="failing", detail=without_folders(str(error)))
        try:
            if not self._warm:
                self._registries.warm()
                rehearse()
                self._warm = True
        except Exception:
            if self.status.status != "failing":
                log.exception("not ready")
            return ServerStatus(status="failing", detail="the server's log says why")
        return ServerStatus(status="ok")

    def _set(self, status: ServerStatus) -> None:
        if status != self.status and status.status == "failing":
            log.warning("not ready", extra={"fields": {"detail": status.detail}})
        self.status = status
