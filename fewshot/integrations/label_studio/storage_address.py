"""Files in a bucket, which Label Studio reads for its users: by a signed address, or through itself."""

from __future__ import annotations

import base64
import binascii
import re

import httpx2

_SCHEMES = ("s3://", "gs://", "azure-blob://")
_ROUTE = re.compile(r"(.*)/(tasks|projects)/\d+/(presign|resolve)/?")


def storage_address(address: str, task: int | None) -> str:
    """Return where the server gives a task's file in a bucket, as a path on it; any other address as it is.

    The route redirects to an address that the server has signed, or answers with the file where its storage is set not
    to sign. Label Studio 1.23 does both under "presign" and under "resolve"; earlier ones know the first alone.
    """
    if task is None or not address.lower().startswith(_SCHEMES):
        return address
    coded = base64.urlsafe_b64encode(address.encode("utf-8", "replace")).decode()
    return f"/tasks/{task}/presign/?fileuri={coded.replace('=', '%3D')}"


def is_storage_route(url: httpx2.URL, server: httpx2.URL) -> bool:
    """Whether a URL is of the server's route that signs addresses in buckets."""
    found = _ROUTE.fullmatch(url.path)
    return found is not None and found[1] == server.path.rstrip("/")


def stored_file(url: httpx2.URL) -> str | None:
    """Return the file in a bucket that a URL of that route asks for, as "s3://bucket/a.jpg"; None for another URL."""
    if _ROUTE.fullmatch(url.path) is None:
        return None
    try:
        found = base64.urlsafe_b64decode(url.params.get("fileuri", "")).decode()
    except (binascii.Error, ValueError):
        return None
    return found.partition("?")[0] or None
