"""Opening one text, from a str, a file, bytes or a zip, in Unicode's composed form."""

from __future__ import annotations

import math
import os
import unicodedata
from collections.abc import Iterable
from typing import IO, TYPE_CHECKING, Any, Union

from fewshot.errors import TextError
from fewshot.media.cloud_files import CloudFile
from fewshot.media.file_bytes import file_bytes
from fewshot.media.zips import ZippedImage

if TYPE_CHECKING:
    from typing import TypeAlias

TEXT_SUFFIXES = frozenset({".txt"})

MAX_CHARACTERS = 1_000_000
"""Longer texts are refused: no encoder reads more than their beginning."""

_MAX_BYTES = 4 * MAX_CHARACTERS  # UTF-8 takes at most 4 bytes a character
_SHOWN = 60
_KINDS = 'a str, a text file\'s Path or CloudFile, bytes of UTF-8, or a file object opened with "rb"'

TextSource: TypeAlias = Union[str, "os.PathLike[str]", bytes, bytearray, memoryview, IO[bytes], ZippedImage, CloudFile]


class TableText(str):
    """A text of a table, which messages name by its row.

    Parameters
    ----------
    text : str
    row : str
        The table and the row, as "train.csv, row 7".
    """

    __slots__ = ("row",)
    row: str

    def __new__(cls, text: str, row: str) -> TableText:
        """Return the text itself, with its row."""
        made = super().__new__(cls, text)
        made.row = row
        return made


def describe_text(source: TextSource) -> str:
    """Name a text for a message: its file, its row of a table, or its beginning in quotation marks."""
    if isinstance(source, str):
        words = " ".join(source[: 4 * _SHOWN].split())
        cut = len(words) > _SHOWN or len(source) > 4 * _SHOWN
        shown = f'"{words[:_SHOWN]}{"..." if cut else ""}"'
        if isinstance(source, TableText):
            return f"{source.row}: {shown}" if words else source.row
        return shown
    if isinstance(source, os.PathLike):
        return os.fspath(source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return f"<{len(source)} bytes>"
    return str(source) if isinstance(source, (ZippedImage, CloudFile)) else str(getattr(source, "name", f"<{source}>"))


def open_text(source: TextSource) -> str:
    """Open a text: in Unicode's composed form (NFC), without blanks at its ends.

    Parameters
    ----------
    source : str, path, bytes, binary file object, ZippedImage or CloudFile
        A ``str`` is the text itself, also one that begins as a URL does; a ``pathlib.Path`` or ``CloudFile`` a file of
        it. Files and bytes are UTF-8, with or without a byte
        order mark.

    Raises
    ------
    TextError : naming the source, if it is empty, longer than ``MAX_CHARACTERS``, or not UTF-8.
    TypeError : for what is no text.
    """
    name = describe_text(source)
    if source is None or (isinstance(source, float) and math.isnan(source)):
        raise TextError(name, "is missing, as an empty cell of a table is")
    if isinstance(source, str) and source.lower().endswith(".txt") and os.path.isfile(source):
        raise TextError(name, "is the name of a file; give pathlib.Path of it, for a str is the text itself")
    text = source if isinstance(source, str) else _decoded(_read(source), name)
    if len(text) > MAX_CHARACTERS:
        raise TextError(name, f"it is {len(text):,} characters long, over the limit of {MAX_CHARACTERS:,}; split it")
    text = unicodedata.normalize("NFC", text).strip()
    if not text:
        raise TextError(name, "the text is empty")
    if "\0" in text:
        raise TextError(name, "holds NUL characters: it is no text")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise TextError(name, f"cannot be written as UTF-8 (character {error.start} is half of a pair)") from None
    return text


def text_bytes(source: TextSource) -> bytes:
    """Return a text as UTF-8, composed and without blanks at its ends: equal texts have equal bytes.

    Raises
    ------
    TextError : naming the source, if it cannot be read.
    """
    return open_text(source).encode()


def one_or_several_texts(texts: TextSource | Iterable[TextSource]) -> Iterable[TextSource]:
    """Return texts as they are, and a single one as a list."""
    held = (str, bytes, bytearray, memoryview, os.PathLike, ZippedImage, CloudFile)
    return [texts] if isinstance(texts, held) or hasattr(texts, "read") else texts  # type: ignore[list-item]


def text_type(data: bytes) -> str:
    """Return the media type of a text's bytes."""
    del data
    return "text/plain"


def _read(source: Any) -> bytes:
    name = describe_text(source)
    return file_bytes(source, name, TextError, what="a text", kinds=_KINDS, max_bytes=_MAX_BYTES)


def _decoded(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        utf16 = data.startswith((b"\xff\xfe", b"\xfe\xff"))
        why = "is UTF-16" if utf16 else f"is not UTF-8 (byte {error.start} is 0x{data[error.start]:02x})"
        raise TextError(name, f"{why}; if it is a text, save it as UTF-8") from None
