"""A disk on which no file can be locked."""

from __future__ import annotations

import _sqlite3
import ctypes
import os
from contextlib import contextmanager
from unittest import mock


@contextmanager
def without_locks(code):
    """Files cannot be locked, as on network drives without a lock service: SQLite's and Python's fcntl fail."""
    library = ctypes.CDLL(_sqlite3.__file__)
    library.sqlite3_vfs_find.restype = ctypes.c_void_p
    vfs = library.sqlite3_vfs_find(None)
    set_call = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
    # What is before xSetSystemCall in sqlite3_vfs: 16 bytes of numbers and padding, then 3 fields and 13 methods.
    address = ctypes.cast(vfs + 16 + 16 * ctypes.sizeof(ctypes.c_void_p), ctypes.POINTER(ctypes.c_void_p)).contents
    change = set_call(address.value)

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_void_p, use_errno=True)
    def refused(*_):
        ctypes.set_errno(code)
        return -1

    assert change(vfs, b"fcntl", ctypes.cast(refused, ctypes.c_void_p)) == 0
    try:
        with mock.patch("fcntl.lockf", side_effect=OSError(code, os.strerror(code))):
            yield
    finally:
        assert change(vfs, b"fcntl", None) == 0
