"""Reading images from zips safely: nothing that leads out of the archive, nothing that swells as a zip bomb does."""

from __future__ import annotations

import os
import re
import stat
import threading
import zipfile
from dataclasses import dataclass
from functools import lru_cache

from fewshot.errors import ImageError

MAX_BYTES = 512 * 2**20
"""Files of more bytes are refused unread."""
MAX_RATIO, SMALL = 100, 16 * 2**20
"""A member of more than ``SMALL`` bytes that would grow more than ``MAX_RATIO`` times is refused."""


@dataclass(frozen=True)
class ZippedImage:
    """An image inside a zip archive; read when used, from an archive that stays open between readings."""

    archive: str
    member: str

    def __str__(self) -> str:
        return f"{self.archive}/{self.member}"

    def read(self) -> bytes:
        """Return the member's bytes, never more than ``MAX_BYTES`` of them."""
        return read_member(self.archive, self.member)


def read_member(archive: str | os.PathLike[str], member: str) -> bytes:
    """Return a file of a zip, which is kept open until it changes on disk.

    Raises
    ------
    ImageError : if the file is over ``MAX_BYTES``, swells as a zip bomb does, is a link, or its name leads out of the
        zip.
    """
    opened, lock = _opened_zip(archive)
    why = refusal(opened.getinfo(member))
    if why is not None:
        raise ImageError(f"{archive}/{member}", why)
    with lock:
        return opened.read(member)


def is_outside(name: str) -> bool:
    """Whether a name leads out of the archive: absolute, with a drive, or with ".." in it."""
    return name.startswith(("/", "\\")) or bool(re.match("[A-Za-z]:", name)) or ".." in re.split(r"[\\/]", name)


def refusal(info: zipfile.ZipInfo) -> str | None:
    """Return why a member is not read, None if it is; by the zip's directory alone, before anything is unpacked.

    No more is ever unpacked than the directory says: Python's zipfile stops there.
    """
    if is_outside(info.filename):
        return "its name leads out of the zip, so it is refused; make the zip anew, or unpack it yourself"
    if stat.S_ISLNK(info.external_attr >> 16):
        return "is a link, and links in zips are not followed; make the zip anew with the file itself"
    if info.file_size > MAX_BYTES:
        return oversize(info.file_size, MAX_BYTES)
    if info.file_size > max(SMALL, MAX_RATIO * info.compress_size):
        return (
            f"it would swell from {info.compress_size:,} to {info.file_size:,} bytes, over {MAX_RATIO} times, as a "
            "zip bomb does; unpack it yourself if it is none"
        )
    return None


def oversize(size: int, limit: int) -> str:
    """Return the message for a file of more bytes than the limit."""
    return f"it is {size:,} bytes long, over the limit of {limit:,}"


def zip_members(archive: str | os.PathLike[str]) -> list[str]:
    """Return the names of a zip's files, sorted, with "/" between folders also where Windows wrote backslashes.

    Raises
    ------
    ValueError : if its directory is damaged.
    """
    try:
        with zipfile.ZipFile(archive) as found:
            names = [_posix(info.filename) for info in found.infolist()]
            return sorted(name for name in names if not name.endswith("/"))
    except Exception as error:  # BadZipFile, struct's, UnicodeDecodeError, NotImplementedError ...
        raise ValueError(f"{os.fspath(archive)} is a damaged zip ({error}); fetch it again, or make it anew") from error


def _posix(name: str) -> str:
    return name.replace("\\", "/")


def _opened_zip(archive: str | os.PathLike[str]) -> tuple[zipfile.ZipFile, threading.Lock]:
    """An open zip and the lock for reading from it; it stays open until it changes on disk.

    Opening a zip reads its whole directory: 0.2 s for the 33,283 members of Omniglot's, too long for each image.
    """
    about = os.stat(archive)
    return _cached_zip(os.fspath(archive), about.st_mtime_ns, about.st_size, os.getpid())


@lru_cache(maxsize=8)
def _cached_zip(archive: str, *version: int) -> tuple[zipfile.ZipFile, threading.Lock]:
    del version  # only part of the key: the file's time and size, and the process, as a fork shares the file's position
    opened = zipfile.ZipFile(archive)
    for info in opened.infolist():
        opened.NameToInfo.setdefault(_posix(info.filename), info)
    return opened, threading.Lock()
