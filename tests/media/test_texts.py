"""Texts: composed, stripped, UTF-8, and refused with the reason."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from fewshot.errors import TextError
from fewshot.media import ZippedImage, describe_text, open_text, text_bytes


def zipped(folder: Path, data: bytes) -> ZippedImage:
    with zipfile.ZipFile(folder / "texts.zip", "w") as archive:
        archive.writestr("good/1.txt", data)
    return ZippedImage(str(folder / "texts.zip"), "good/1.txt")


def test_a_str_is_the_text_itself_and_a_path_a_file_of_it(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("a fine film\n", encoding="utf-8")

    assert open_text("b.txt") == "b.txt"
    with pytest.raises(TextError, match="is the name of a file; give pathlib"):
        open_text(str(file))
    for source in (file, file.read_bytes(), io.BytesIO(b"a fine film"), zipped(tmp_path, b" a fine film ")):
        assert open_text(source) == "a fine film"


def test_texts_that_differ_in_blanks_at_their_ends_and_in_composition_have_equal_bytes():
    composed, decomposed = "caf\u00e9 noir", "  cafe\u0301 noir\n"

    assert text_bytes(composed) == text_bytes(decomposed) == b"caf\xc3\xa9 noir"
    assert text_bytes("a  b") != text_bytes("a b")


def test_a_byte_order_mark_is_no_part_of_the_text():
    assert open_text(b"\xef\xbb\xbfhello") == "hello"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("", "the text is empty"),
        (" \n\t", "the text is empty"),
        (b"caf\xe9", "is not UTF-8 (byte 3 is 0xe9); if it is a text, save it as UTF-8"),
        ("hello".encode("utf-16"), "is UTF-16; if it is a text, save it as UTF-8"),
        ("a\0b", "holds NUL characters: it is no text"),
        ("half \ud83d", "cannot be written as UTF-8 (character 5 is half of a pair)"),
        ("x" * 1_000_001, "it is 1,000,001 characters long, over the limit of 1,000,000; split it"),
        (io.BytesIO(b"x" * 4_000_001), "it is 4,000,001 bytes long, over the limit of 4,000,000"),
        (float("nan"), "is missing, as an empty cell of a table is"),
        (None, "is missing, as an empty cell of a table is"),
        (Path("nowhere.txt"), "no such file"),
        (Path("/"), "is a folder, not a text file"),
    ],
)
def test_what_is_no_text_is_refused_with_the_reason(source, reason):
    with pytest.raises(TextError) as refused:
        open_text(source)
    assert refused.value.reason == reason


def test_another_kind_of_thing_is_a_type_error_that_says_what_a_text_may_be():
    with pytest.raises(
        TypeError, match=r"a text must be a str, a text file's Path or CloudFile, bytes of UTF-8, .*, not ndarray"
    ):
        open_text(np.zeros(3))


def test_a_long_text_is_named_by_its_beginning_on_one_line():
    assert describe_text("a fine\nfilm") == '"a fine film"'
    assert describe_text("word " * 50) == '"' + ("word " * 50)[:60] + '..."'
    assert describe_text(Path("a.txt")) == "a.txt"
