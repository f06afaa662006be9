"""A server of buckets that speaks S3's protocol, moto's, started for tests."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from urllib.parse import quote

import pytest

_START_SECONDS = 300.0


@contextmanager
def bucket_server(objects: Mapping[str, bytes]) -> Iterator[str]:
    """Serve objects by "bucket/name", which anyone may read; gives the server's URL, or skips where it is not there."""
    executable = os.environ.get("FEWSHOT_MOTO_SERVER") or shutil.which("moto_server")
    if not executable:
        pytest.skip("no buckets: neither $FEWSHOT_MOTO_SERVER nor moto_server on PATH (pip install 'moto[server]')")
    with socket.create_server(("127.0.0.1", 0)) as bound:
        port = int(bound.getsockname()[1])
    url = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(
        [executable, "-H", "127.0.0.1", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_until_up(url, process)
        for name in [*sorted({name.partition("/")[0] for name in objects}), *objects]:
            kind = {"Content-Type": "application/octet-stream"}  # urllib's own would make it a form
            put = urllib.request.Request(f"{url}/{quote(name)}", objects.get(name, b""), kind, method="PUT")
            urllib.request.urlopen(put, timeout=120).close()
        yield url
    finally:
        process.kill()
        process.wait()


def wait_until_up(url: str, process: subprocess.Popen[bytes]) -> None:
    """Wait until a server that was started answers."""
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(f"nothing answers at {url}")
