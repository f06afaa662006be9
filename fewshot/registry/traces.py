"""By what erased data would be recognised in a file's raw bytes, and the search for it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

# Bytes of a sample: so many random ones do not occur twice in all files of the world.
_SAMPLE = 32
# Of a picture a sample is taken in every so many bytes, and more seldom of many: SQLite splits it into pages of 4 KiB.
_STRIDE, _SHORT_STRIDE, _MOST_SAMPLES = 1024, 256, 2**17
_KEY = 8
_SHORTEST = 6  # shorter words occur in any large file by chance
_BLOCK = 2**22
# POSIX drops all locks that a process holds on a file once it closes any handle of it, among them SQLite's: only
# another process may read what is open here.
_READ = "import shutil, sys\nwith open(sys.argv[1], 'rb') as file: shutil.copyfileobj(file, sys.stdout.buffer, 1 << 20)"
_LIST = """import os, sys
for entry in os.scandir(sys.argv[1]):
    try:
        if entry.is_file():
            with open(entry.path, 'rb') as file:
                if file.read(4) in (b'SQLi', b'PK\\3\\4', b'PAR1'):
                    sys.stdout.buffer.write(os.fsencode(entry.name) + b'\\0')
    except OSError:
        pass
"""


class Traces:
    """Samples of data, by which it is found wherever parts of it lie.

    Attributes
    ----------
    words : mapping of bytes to str
        What to search for, and of what it is.
    common : set of bytes
        Of the words, those from the beginnings of images, which other images may have, too: no proof of a copy.
    too_short : list of str
        Texts that raw bytes cannot be searched for: they would be found by chance.
    """

    def __init__(self) -> None:
        self.words: dict[bytes, str] = {}
        self.common: set[bytes] = set()
        self.too_short: list[str] = []

    def add_text(self, text: str, what: str) -> None:
        """Add a text, such as a label."""
        word = text.encode("utf-8", "surrogatepass")
        if len(word) < _SHORTEST:
            self.too_short.append(text)
        else:
            self.words[word] = what

    def add_bytes(self, data: bytes, what: str) -> None:
        """Add samples of bytes; stretches without variety, as of zeros, are left out."""
        stride = _STRIDE if len(data) > 16 * _SHORT_STRIDE else _SHORT_STRIDE
        stride = max(stride, len(data) // max(1, _MOST_SAMPLES - len(self.words)))
        beginning = _beginning(data)
        for start in range(0, max(1, len(data) - _SAMPLE + 1), stride):
            for at in range(start, min(start + stride, max(start + 1, len(data) - _SAMPLE)), _SAMPLE):
                sample = data[at : at + _SAMPLE]
                if len(sample) >= _KEY and len(set(sample)) >= len(sample) // 3 and len(set(sample[:_KEY])) > 2:
                    self.words[sample] = what
                    if at < beginning:
                        self.common.add(sample)
                    break

    def found_in(self, path: str | os.PathLike[str]) -> dict[bytes, str]:
        """Return the words that occur in a file, wherever in its pages; it is read by another process.

        Raises
        ------
        OSError : if it cannot be read.
        """
        if not self.words:
            return {}
        search, found, overlap, kept = _Search(self.words), set[bytes](), max(map(len, self.words)) - 1, b""
        for block in _blocks(_READ, path):
            data = kept + block
            found |= search.found_in(data)
            kept = data[-overlap:] if overlap else b""
        return {word: self.words[word] for word in found}


def _beginning(data: bytes) -> int:
    """How many bytes of an image precede its pixels: sizes, and tables that any image of the same program may have."""
    if data.startswith(b"\xff\xd8\xff"):  # JPEG: up to the last scan, for a thumbnail may have one, too
        return data.rfind(b"\xff\xda") + 1
    return data.find(b"IDAT") + 1 if data.startswith(b"\x89PNG") else 0


def occurs_as_word(text: str, within: str) -> bool:
    """Whether a text occurs in another with nothing of a word before or after it: "cat" in "photos/cat/1.jpg"."""
    return re.search(rf"(?<!\w){re.escape(text)}(?!\w)", within) is not None


def containers_beside(path: str) -> list[Path]:
    """Return the databases, zips and parquet files in a file's folder, but for itself."""
    folder = Path(path).parent
    names = b"".join(_blocks(_LIST, folder)).split(b"\0")
    return sorted(folder / os.fsdecode(name) for name in names if name and os.fsdecode(name) != Path(path).name)


class _Search:
    """Finds words of at least six bytes in blocks of data."""

    def __init__(self, words: Mapping[bytes, str]) -> None:
        self._short = [word for word in words if len(word) < _KEY]
        long = [word for word in words if len(word) >= _KEY]
        self._by_key: dict[int, list[bytes]] = {}
        for word in long:
            self._by_key.setdefault(int.from_bytes(word[:_KEY], "little"), []).append(word)
        self._keys = np.array(sorted(self._by_key), np.uint64)
        self._first = np.zeros(2**16, np.bool_)  # leaves out nearly all of the data at little cost
        self._first[(self._keys & np.uint64(0xFFFF)).astype(np.int64)] = True

    def found_in(self, data: bytes) -> set[bytes]:
        found = {word for word in self._short if word in data}
        for shift in range(min(_KEY, max(0, len(data) - _KEY + 1)) if len(self._keys) else 0):
            values: NDArray[np.uint64] = np.frombuffer(data, "<u8", (len(data) - shift) // _KEY, shift)
            likely = np.flatnonzero(self._first[values & np.uint64(0xFFFF)])
            for place in likely[np.isin(values[likely], self._keys)].tolist():
                at = place * _KEY + shift
                found.update(word for word in self._by_key[int(values[place])] if data.startswith(word, at))
        return found


def _blocks(script: str, path: str | os.PathLike[str]) -> Iterator[bytes]:
    """Run a script in another process with a path, and yield what it writes."""
    command = [sys.executable, "-I", "-S", "-c", script, os.fspath(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        with closing(child.stdout):
            while block := child.stdout.read(_BLOCK):
                yield block
            why = child.stderr.read().decode(errors="replace").strip()
    if child.returncode:
        raise OSError(f"{os.fspath(path)} cannot be searched: {why.splitlines()[-1] if why else child.returncode}")
