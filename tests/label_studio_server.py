"""The real Label Studio, started for a test, and a client of its API."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from buckets import wait_until_up

TOKEN = "0123456789abcdef0123456789abcdef01234567"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        return int(bound.getsockname()[1])


class LabelStudio:
    """A running server, as one user sees it."""

    def __init__(self, url: str, files: Path) -> None:
        self.url, self.files = url, files

    def call(self, method: str, path: str, body: Any = None, *, timeout: float = 120.0) -> Any:
        request = urllib.request.Request(
            self.url + path,
            None if body is None else json.dumps(body).encode(),
            {"Authorization": f"Token {TOKEN}", "Content-Type": "application/json"},
            method=method,
        )
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                data = answer.read()
        except urllib.error.HTTPError as error:
            with error:
                raise AssertionError(f"{method} {path}: {error.code} {error.read().decode()[:2000]}") from None
        return json.loads(data) if data else None

    def project(self, config: str, backend: str) -> int:
        """Make a project with a backend."""
        made = self.call("POST", "/api/projects", {"title": "fewshot", "label_config": config})
        self.call(
            "POST",
            "/api/ml",
            {"project": made["id"], "url": backend, "title": "fewshot", "is_interactive": True, "timeout": 100},
        )
        return int(made["id"])

    def add_tasks(self, project: int, images: list[str], **more: Any) -> list[int]:
        body = [{"data": {"image": image}, **more} for image in images]
        return list(self.call("POST", f"/api/projects/{project}/import?return_task_ids=true", body)["task_ids"])

    def open(self, task: int) -> list[dict]:
        """Open a task as an annotator does; returns the predictions shown."""
        return list(self.call("GET", f"/api/tasks/{task}")["predictions"])

    def annotate(self, task: int, *results: dict, **fields: Any) -> int:
        return int(self.call("POST", f"/api/tasks/{task}/annotations", {"result": list(results), **fields})["id"])

    def ask_again(self, task: int) -> dict:
        """Have the backend asked about a task whatever was predicted before; returns its answer."""
        (backend,) = self.call("GET", f"/api/ml?project={self.call('GET', f'/api/tasks/{task}')['project']}")
        return dict(self.call("POST", f"/api/ml/{backend['id']}/interactive-annotating", {"task": task})["data"])


@contextmanager
def running(executable: str, folder: Path) -> Iterator[LabelStudio]:
    """Start a server of this machine alone, which asks nothing of any other."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    files = folder / "files"
    files.mkdir(parents=True)
    settings = {
        "LABEL_STUDIO_BASE_DATA_DIR": str(folder / "data"),
        "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED": "true",
        "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT": str(files),
        "COLLECT_ANALYTICS": "False",
        "LATEST_VERSION_CHECK": "0",
        "SENTRY_DSN": "",
        "FRONTEND_SENTRY_DSN": "",
        "SSRF_PROTECTION_ENABLED": "false",
        "ML_BLOCK_LOCAL_IP": "false",
        "ML_TIMEOUT_HEALTH": "30",
        "ML_TIMEOUT_SETUP": "30",
        "ML_CONNECTION_TIMEOUT": "30",
        "WEBHOOK_TIMEOUT": "30",
        "LABEL_STUDIO_HOST": url,
    }
    command = [executable, "start", "--no-browser", "--internal-host", "127.0.0.1", "-p", str(port)]
    command += ["--username", "admin@example.com", "--password", "secretpw1", "--user-token", TOKEN]
    command += ["--enable-legacy-api-token", "--log-level", "WARNING"]
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(
            command, env={**os.environ, **settings}, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        _wait(url, process, folder / "log")
        yield LabelStudio(url, files)
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    try:
        wait_until_up(f"{url}/health", process)
    except AssertionError:
        raise AssertionError(f"Label Studio did not start: {log.read_text(errors='replace')[-2000:]}") from None
