"""Files and folders behind URLs (s3://, gs://, az://, https:// ...), read through fsspec and never written."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib.util import find_spec
from typing import Any, TypeVar

from fewshot.errors import ExampleError, ImageError, MissingExtra
from fewshot.media.zips import MAX_BYTES, oversize
from fewshot.validation import check_extra

T = TypeVar("T")

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_VERSION = re.compile(r"\?(versionId|generation)=[\w.-]+")
"""The query that says which file it is."""
_PAUSES = (0.5, 2.0)
"""Seconds before a download that was interrupted is tried again."""
_PACKAGES = {"gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs", "abfss": "adlfs", "adl": "adlfs"}
_OF_EXTRA = {"s3": ("s3fs",), "s3a": ("s3fs",), "http": ("aiohttp",), "https": ("aiohttp",)}
_S3 = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; of a public bucket FSSPEC_S3_ANON=true"
_GOOGLE = "GOOGLE_APPLICATION_CREDENTIALS; of a public bucket FSSPEC_GS_TOKEN=anon"
_AZURE = "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY"
_CREDENTIALS = {"s3": _S3, "s3a": _S3, "gs": _GOOGLE, "gcs": _GOOGLE, "az": _AZURE, "abfs": _AZURE, "abfss": _AZURE}
_NAMES_ONLY = ("s3", "s3a", "gs", "gcs", "az")
"""Before the path of these there is a bucket's name and nothing else."""
# By name: their libraries need not be there.
_WITHOUT_CREDENTIALS = {"NoCredentialsError", "DefaultCredentialsError", "ClientAuthenticationError"}
_REFUSED = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "AccessDenied", "Forbidden"}
_INTERRUPTED = {"ClientPayloadError", "ServerDisconnectedError", "IncompleteReadError", "ResponseStreamingError"}
_INTERRUPTED |= {"TimeoutError", "FSTimeoutError"}  # asyncio's, which were no TimeoutError before Python 3.11


def is_url(name: object) -> bool:
    """Whether it is a str that begins as a URL does: with a scheme, of two letters or more, and "://"."""
    return isinstance(name, str) and _URL.match(name) is not None


def scheme_of(url: str) -> str:
    """Return a URL's scheme, in lower case.

    Raises
    ------
    ValueError : for what is no URL.
    """
    found = _URL.match(url)
    if found is None:
        raise ValueError(f"expected a URL, as s3://bucket/folder, not {url!r}")
    return found[1].lower()


def without_secrets(name: str) -> str:
    """Return a URL as it may be shown and stored: without a password, and without a query, which may sign it.

    A query that only names a version stays, and so does a "?" in the name of an object. What is no URL stays as it is.
    """
    if not is_url(name):
        return name
    scheme, rest = scheme_of(name), name[name.index("://") + 3 :]
    host, slash, path = rest.partition("/")
    user, at, place = host.rpartition("@")
    if at and (":" in user or scheme not in ("abfs", "abfss")):  # of Azure, the container stands there
        host = place
    before, mark, query = path.partition("?")
    if mark and _VERSION.fullmatch(mark + query) is None and ("=" in query or scheme in ("http", "https")):
        path = before
    return f"{name[: name.index('://')]}://{host.partition('?')[0]}{slash}{path}"


@dataclass(frozen=True, repr=False)
class CloudFile:
    """A file behind a URL, as an example: downloaded when it is read.

    Parameters
    ----------
    url : str
        "s3://bucket/a.jpg", and whatever else fsspec knows. Credentials are those that fsspec's library for the scheme
        finds, in the environment for one. Where a URL holds some, as of https:// and ftp://, they are never shown or
        stored.
    size : int, optional
        Its bytes, where a listing said so: it is not asked for then.
    held : bytes or ExampleError, optional
        What it holds, or why it cannot be had, where it was downloaded before.
    """

    url: str
    size: int | None = field(default=None, compare=False)
    held: bytes | ExampleError | None = field(default=None, compare=False)

    def __str__(self) -> str:
        return without_secrets(self.url)

    def __repr__(self) -> str:
        return f"CloudFile({str(self)!r})"

    def read(self, max_bytes: int = MAX_BYTES) -> bytes:
        """Return the file's bytes; an interrupted download is tried again, twice.

        Raises
        ------
        ImageError : if it cannot be had, is over ``max_bytes``, or is a folder.
        MissingExtra : where fsspec, or its library for the scheme, is not installed.
        """
        if isinstance(self.held, ExampleError):
            raise self.held
        if self.held is not None:
            if len(self.held) > max_bytes:
                raise ImageError(str(self), oversize(len(self.held), max_bytes))
            return self.held
        try:
            return _repeated(lambda: self._download(max_bytes))
        except (MissingExtra, ImageError):
            raise
        except Exception as error:  # of a dozen libraries; its traceback might hold the URL
            raise ImageError(str(self), _why(error, self.url)) from None

    def downloaded(self) -> CloudFile:
        """Return it with what it holds; where it cannot be had, reading that says so."""
        try:
            return replace(self, held=self.read())
        except ExampleError as error:
            return replace(self, held=error)

    def _download(self, max_bytes: int) -> bytes:
        system, size = _filesystem(self.url), self.size
        if size is not None:
            if size > max_bytes:
                raise ImageError(str(self), oversize(size, max_bytes))
            # Within the limit, though it may have grown since; nothing has no range.
            whole: bytes = system.cat_file(self.url, start=0, end=max_bytes + 1) if size else b""
            if len(whole) > max_bytes:
                raise ImageError(str(self), f"it is over the limit of {max_bytes:,} bytes")
            return whole
        with system.open(self.url, "rb") as file:
            if (getattr(file, "details", None) or {}).get("type") == "directory":  # S3's are prefixes, of no bytes
                raise IsADirectoryError(self.url)
            size = getattr(file, "size", None)
            if size is not None and size > max_bytes:
                raise ImageError(str(self), oversize(size, max_bytes))
            data: bytes = file.read(max_bytes + 1)
        if len(data) > max_bytes:
            raise ImageError(str(self), f"it is over the limit of {max_bytes:,} bytes")
        if size is not None and len(data) < size:
            raise ConnectionError(f"the download broke off after {len(data):,} of {size:,} bytes")
        return data


@contextmanager
def cloud_folder(url: str) -> Iterator[tuple[Any, str]]:
    """Give fsspec's file system of a folder's URL, and the folder's path there; errors inside become ours.

    Raises
    ------
    FileNotFoundError, PermissionError, ConnectionError : naming the URL without secrets, and the remedy.
    MissingExtra : where fsspec, or its library for the scheme, is not installed.
    """
    check_cloud(url)
    from fsspec.core import url_to_fs

    try:
        yield url_to_fs(url, use_listings_cache=False)
    except MissingExtra:
        raise
    except Exception as error:
        kind = next((k for k in (FileNotFoundError, PermissionError) if isinstance(error, k)), ConnectionError)
        raise kind(f"{without_secrets(url)} {_why(error, url)}") from None


def check_cloud(url: str) -> None:
    """Raise unless what reads a URL is installed; nothing is asked of any server.

    Raises
    ------
    MissingExtra : naming the package.
    ValueError : for a scheme that fsspec does not know, URLs chained with "::", or a bucket's with credentials in it.
    """
    if (fault := _fault(url)) is not None:
        raise ValueError(f"{without_secrets(url.partition('::')[0])}: {fault}")


def _fault(url: str) -> str | None:
    """Return what is wrong with a URL itself; raise MissingExtra where what reads it is not installed."""
    scheme = scheme_of(url)
    if scheme in _NAMES_ONLY and "@" in url[len(scheme) + 3 :].partition("/")[0]:
        return f"credentials in the URL are not read; set {_CREDENTIALS[scheme]}"
    if re.search(r"::[a-z0-9]+://", url):
        return "is followed by :: and another URL; give a single one"
    if scheme in _PACKAGES and find_spec(_PACKAGES[scheme]) is None:
        raise MissingExtra(f"{scheme}:// URLs need {_PACKAGES[scheme]}: pip install {_PACKAGES[scheme]}")
    check_extra("cloud", f"{scheme}:// URLs need", "fsspec", *_OF_EXTRA.get(scheme, ()))
    from fsspec import available_protocols

    return None if scheme in available_protocols() else f"fsspec knows no {scheme}://; give s3://, gs://, https:// ..."


_lock = threading.Lock()


def _filesystem(url: str) -> Any:
    """Return the file system of a URL's host or bucket, one for all threads of a process."""
    if (fault := _fault(url)) is not None:
        raise ImageError(without_secrets(url), fault)
    scheme = scheme_of(url)
    with _lock:
        return _made(scheme, url[len(scheme) + 3 :].partition("/")[0], os.getpid())


@lru_cache(maxsize=32)
def _made(scheme: str, host: str, process: int) -> Any:
    del process  # only part of the key: a connection does not survive a fork
    from fsspec.core import url_to_fs

    return url_to_fs(f"{scheme}://{host}/", use_listings_cache=False)[0]


def _repeated(download: Callable[[], T]) -> T:
    """Call it, and again after a pause where it was interrupted."""
    for pause in _PAUSES:
        try:
            return download()
        except Exception as error:
            if not isinstance(error, (ConnectionError, TimeoutError)) and type(error).__name__ not in _INTERRUPTED:
                raise
        time.sleep(pause)
    return download()


def _why(error: Exception, url: str) -> str:
    """Return why a URL cannot be read, and the remedy; nothing of the URL."""
    kind, said = type(error).__name__, _scrubbed(str(error), url)
    credentials = _CREDENTIALS.get(scheme_of(url), "its library's credentials")
    status = getattr(error, "status", None)  # aiohttp's
    if kind in _WITHOUT_CREDENTIALS:
        return f"cannot be read without credentials; set {credentials}"
    if isinstance(error, PermissionError) or status in (401, 403) or any(word in said for word in _REFUSED):
        return f"may not be read with the credentials given ({said or status}); check {credentials}"
    if "bucket does not exist" in said or "NoSuchBucket" in said:
        return "lies in no bucket that there is; check its name, and the endpoint (for S3: AWS_ENDPOINT_URL)"
    if isinstance(error, FileNotFoundError) or status == 404:
        return "does not exist"
    if isinstance(error, IsADirectoryError):
        return "is a folder, not a file"
    if isinstance(error, ImportError):
        return f"cannot be read: {said}"
    return f"cannot be read ({said or kind}); check the network and try again"


def _scrubbed(message: str, url: str) -> str:
    """Return a library's message on one line, without passwords and queries of the URL, or of any URLs in it."""
    host, _, path = url[url.index("://") + 3 :].partition("/")
    for secret in (host.rpartition("@")[0], path.partition("?")[2]):
        message = message.replace(secret, "...") if secret else message
    line = " ".join(message.split())
    return re.sub(r"://[^\s/@'\"]*@", "://", re.sub(r"\?[^\s'\")]*", "", line))[:300]
