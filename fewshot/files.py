"""Files that appear whole or not at all, and folders with one writer."""

from __future__ import annotations

import errno
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

DOUBT_SECONDS = 0.25
"""A file that is busy for so long may be one that nobody can lock: see ``why_no_locks``."""

_FULL = (errno.ENOSPC, errno.EDQUOT)
DISK = (*_FULL, errno.EROFS)
"""The system's numbers for a disk that takes nothing: what fails with one of these was to be written."""
_LOCKED = (errno.EROFS, errno.EACCES, errno.EPERM)
# Rust's and C's libraries write by themselves and raise errors of their own, which hold the system's words.
_WORDS = {
    "disk is full": errno.ENOSPC,  # SQLite's
    "unable to open database file": errno.EACCES,  # SQLite's, most often of its journal
    "No space left": errno.ENOSPC,
    "readonly": errno.EROFS,  # SQLite's
    "Read-only": errno.EROFS,
    "disk I/O error": errno.EIO,  # SQLite's
    "Input/output error": errno.EIO,
    "File too large": errno.EFBIG,
}


def code_of(error: BaseException) -> int | None:
    """Return the system's number for why something cannot be written, None where an error is about something else."""
    found = getattr(error, "errno", None)
    return next((code for words, code in _WORDS.items() if words in str(error)), None) if found is None else found


def why_not(error: Exception) -> str:
    """Say why something could not be written, and what to do."""
    code = code_of(error)
    if "unable to open" in str(error):
        return "no file can be made in its folder; check the permissions there, or free some space"
    if code in _FULL:
        return "the disk is full; free some space and try again"
    if code in _LOCKED:
        return "it may not be written to; check its permissions and its folder's, or choose another place"
    return f"{getattr(error, 'strerror', None) or error}; check the disk, or choose another place"


def unwritable(path: str | os.PathLike[str], error: Exception) -> OSError:
    """Return an error that says in a sentence which file cannot be written, why, and what to do."""
    made = OSError(f"cannot write {os.fspath(path)}: {why_not(error)}")
    made.errno = code_of(error)
    return made


def identity_of(path: str) -> tuple[int, int] | None:
    """Tell the file that lies at a path from any other that may take its place; None if there is none."""
    try:
        about = os.stat(path)
    except FileNotFoundError:
        return None
    return about.st_dev, about.st_ino


def check_is_another(path: str | os.PathLike[str], source: str | os.PathLike[str] | None) -> None:
    """Refuse to write over what is read.

    Raises
    ------
    ValueError : if both paths are of one file.
    """
    if source is not None and os.path.exists(path) and os.path.exists(source) and os.path.samefile(path, source):
        raise ValueError(f"{os.fspath(path)} is what would be exported, and would be lost; give another file")


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path beside ``path``; what was written there takes its place at the end, on success only.

    Then the new file is on the disk, as is its name; after a power failure before, there is the old one or the new.

    Raises
    ------
    FileNotFoundError, IsADirectoryError : if there is no folder to write in, or the target is one.
    OSError : if it cannot be written, with the reason and what to do.
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise FileNotFoundError(f"cannot write {target}: there is no folder {target.parent}")
    if target.is_dir():
        raise IsADirectoryError(f"cannot write {target}: it is a folder; give a file")
    temporary = target.with_name(f".{target.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
        _sync_folder(target.parent)
    except Exception as error:
        if _about_writing(error, temporary):
            raise unwritable(target, error) from error
        raise
    finally:
        with suppress(OSError):  # of a folder that is read-only, where there is none
            temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk, where the system can: Windows and some network folders cannot."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _about_writing(error: Exception, temporary: Path) -> bool:
    """Whether an error is about the file being written: not about one that was read, nor worded already."""
    if not isinstance(error, OSError):
        return code_of(error) is not None
    worded = str(error).startswith("cannot write") or error.errno is None
    read = error.filename is not None and error.filename != str(temporary) and os.path.exists(error.filename)
    return not worded and (error.errno in DISK or not read)


def why_no_locks(path: str | os.PathLike[str]) -> str | None:
    """Say that no file in the folder of a path can be locked, and what to do; None if it can.

    A new file is tried, which nobody else can have locked. Some network drives say of each file that it is.
    """
    if sys.platform == "win32":  # has other locks, on its network drives, too
        return None
    import fcntl

    try:
        with tempfile.NamedTemporaryFile(dir=os.path.dirname(os.path.abspath(path)), prefix=".fewshot-") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                return (
                    f"no file can be locked in the folder of {os.fspath(path)}, perhaps on a network drive "
                    f"({error.strerror}). Keep it on a disk of this machine, or turn on locks where that drive is "
                    "mounted (NFS: version 4, or the lock service rpc.statd; WSL: a folder of Linux, not below /mnt)"
                )
    except OSError:  # nothing can be made there
        return None
    return None


@contextmanager
def exclusive_lock(path: Path) -> Iterator[bool]:
    """Hold a file that no other process holds meanwhile; says whether it was free.

    The lock is the operating system's: it ends with the process, however that ends.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path, timeout=0)
    free = True
    try:
        lock.acquire()
    except Timeout:
        free = False
    except OSError as error:
        raise unwritable(path, error) from error
    try:
        yield free
    finally:
        lock.release()
