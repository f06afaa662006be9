"""The bytes of a file that was given as a path, URL, bytes, a file object or a member of a zip."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import IO, Any

from fewshot.errors import ExampleError, MissingExtra
from fewshot.media.cloud_files import CloudFile, is_url
from fewshot.media.zips import ZippedImage, oversize


def file_bytes(source: Any, name: str, error: type[ExampleError], *, what: str, kinds: str, max_bytes: int) -> bytes:
    """Return a file's bytes, at most ``max_bytes`` of them.

    Parameters
    ----------
    source : path, URL, bytes, binary file object, ZippedImage or CloudFile
    name : str
        Its name in messages.
    error : type of ExampleError
        Raised where it cannot be read.
    what, kinds : str
        What it should be, "an image", and as what that can be given, for messages.
    max_bytes : int

    Raises
    ------
    ExampleError : of the type given, naming the source.
    MissingExtra : for a URL, where what reads it is not installed.
    TypeError : for anything else.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        return bytes(source)
    try:
        found = _read(CloudFile(source) if is_url(source) else source, name, error, what, max_bytes)
    except MissingExtra:
        raise
    except FileNotFoundError:
        raise error(name, "no such file") from None
    except IsADirectoryError:
        raise error(name, f"is a folder, not {what} file") from None
    except ExampleError as failed:
        raise failed if isinstance(failed, error) else error(failed.source, failed.reason) from None
    except Exception as failed:  # whatever zipfile, zlib or a closed or foreign file object comes up with
        raise error(name, f"cannot be read ({getattr(failed, 'strerror', None) or failed})") from failed
    if found is None:
        raise TypeError(f"{what} must be {kinds}, not {type(source).__name__}")
    return found


def _read(source: Any, name: str, error: type[ExampleError], what: str, max_bytes: int) -> bytes | None:
    """Read a file by what names it; None for anything else."""
    if isinstance(source, ZippedImage):
        return source.read()
    if isinstance(source, CloudFile):
        return source.read(max_bytes)
    if isinstance(source, (str, os.PathLike)):
        return _read_file(Path(source), error, what, max_bytes)
    return _read_stream(source, name, error, max_bytes) if hasattr(source, "read") else None


def _read_file(path: Path, error: type[ExampleError], what: str, max_bytes: int) -> bytes:
    about = path.stat()
    if stat.S_ISCHR(about.st_mode) or stat.S_ISBLK(about.st_mode):
        raise error(str(path), f"is a device, not {what} file")
    if about.st_size > max_bytes:
        raise error(str(path), oversize(about.st_size, max_bytes))
    if stat.S_ISFIFO(about.st_mode):  # as of a shell's <(...); its size is not known beforehand
        with open(path, "rb") as pipe:
            return _read_stream(pipe, str(path), error, max_bytes)
    return path.read_bytes()


def _read_stream(stream: IO[bytes], name: str, error: type[ExampleError], max_bytes: int) -> bytes:
    """Read a file object to its end and, where it can seek, put it back to where it stood."""
    start = stream.tell() if stream.seekable() else None
    data = stream.read(max_bytes + 1)
    if start is not None:
        stream.seek(start)
    if not isinstance(data, bytes):
        raise error(name, "the file object gives text; open the file in binary mode ('rb')")
    if len(data) > max_bytes:
        raise error(name, oversize(len(data), max_bytes))
    return data
