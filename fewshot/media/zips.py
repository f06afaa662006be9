"""What may be read of a zip: nothing that leads elsewhere, nothing that swells to more than a picture."""

from __future__ import annotations

import os
import re
import stat
import threading
import zipfile
from functools import lru_cache

MAX_SWELLING, UNMEASURED = 100, 16 * 2**20
"""What is over so many times as large as the zip holds of it is refused, if it has over so many bytes."""


def is_outside(name: str) -> bool:
    """Whether a name leads out of the archive: absolute, with a drive, or with ".." in it."""
    return name.startswith(("/", "\\")) or bool(re.match("[A-Za-z]:", name)) or ".." in re.split(r"[\\/]", name)


def refusal(info: zipfile.ZipInfo, most: int) -> str | None:
    """Say why a file of a zip is not read, None if it is; by the zip's list alone, before anything is unpacked.

    No more is ever unpacked than the list says: Python's zipfile stops there.
    """
    if is_outside(info.filename):
        return "its name leads out of the zip, so it is refused; make the zip anew, or unpack it yourself"
    if stat.S_ISLNK(info.external_attr >> 16):
        return "is a link, and links in zips are not followed; make the zip anew with the file itself"
    if info.file_size > most:
        return f"it is {info.file_size:,} bytes long, over the limit of {most:,}"
    if info.file_size > max(UNMEASURED, MAX_SWELLING * info.compress_size):
        return (
            f"it would swell from {info.compress_size:,} to {info.file_size:,} bytes, over {MAX_SWELLING} times, as a "
            "zip bomb does; unpack it yourself if it is none"
        )
    return None


def members(archive: str | os.PathLike[str]) -> list[str]:
    """Return the names of a zip's files, sorted.

    Raises
    ------
    ValueError : if its list is damaged.
    """
    try:
        with zipfile.ZipFile(archive) as found:
            return sorted(info.filename for info in found.infolist() if not info.is_dir())
    except Exception as error:  # BadZipFile, struct's, UnicodeDecodeError, NotImplementedError ...
        raise ValueError(f"{os.fspath(archive)} is a damaged zip ({error}); fetch it again, or make it anew") from error


def opened(archive: str | os.PathLike[str]) -> tuple[zipfile.ZipFile, threading.Lock]:
    """Return an open zip, and what to hold while reading; it is kept open until it changes on disk.

    Opening a zip means reading its list of members: 0.2 s for the 33,283 of Omniglot's, too long for each picture.
    """
    about = os.stat(archive)
    return _opened(os.fspath(archive), about.st_mtime_ns, about.st_size, os.getpid())


@lru_cache(maxsize=8)
def _opened(archive: str, *version: int) -> tuple[zipfile.ZipFile, threading.Lock]:
    del version  # only part of the key: the file's time and size, and the process, as a fork shares the file's position
    return zipfile.ZipFile(archive), threading.Lock()
