"""Texts of CSV and JSON Lines files."""

from __future__ import annotations

import pytest

from fewshot.cli.text_rows import read_text_rows


def test_a_column_of_texts_and_one_of_labels_are_read_with_the_row_of_each(tmp_path):
    file = tmp_path / "a.csv"
    file.write_bytes('\ufefflabel,text\ngood,"a fine, moving\nfilm"\nbad,\n'.encode())

    rows = read_text_rows(str(file), "text", "label")

    assert [(row.text, row.label) for row in rows] == [("a fine, moving\nfilm", "good"), ("", "bad")]
    assert rows[1].where == f"{file}, row 2"
    assert [row.label for row in read_text_rows(str(file), "text")] == ["", ""]


def test_tabs_separate_in_tsv_and_each_line_of_jsonl_is_a_row(tmp_path):
    (tmp_path / "a.tsv").write_text("t\tl\na, b\tgood\n", encoding="utf-8")
    (tmp_path / "a.jsonl").write_text('{"t": "a", "l": 3}\n\n{"t": null, "l": "x"}\n', encoding="utf-8")

    assert [(row.text, row.label) for row in read_text_rows(str(tmp_path / "a.tsv"), "t", "l")] == [("a, b", "good")]
    assert [(row.text, row.label, row.where) for row in read_text_rows(str(tmp_path / "a.jsonl"), "t", "l")] == [
        ("a", "3", f"{tmp_path / 'a.jsonl'}, line 1"),
        ("", "x", f"{tmp_path / 'a.jsonl'}, line 3"),
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"text,label\na,b\n", "row 1 has no column 'review'; it has 'text', 'label'"),
        ("a.csv", b"review\na, b\n", "row 1 has more cells than there are columns; quote texts that hold commas"),
        ("a.csv", b"review\n", "holds no rows"),
        ("a.csv", b"review,review\na,b\n", "it has two columns 'review'; rename one"),
        ("a.csv", b"review;label\na;b\n", "'review;label'. Cells are separated by commas in a .csv, by tabs in a .tsv"),
        ("a.csv", b'review\nb\n"a', "row 2 cannot be read: unexpected end of data"),
        ("a.csv", b"review\n" + 16_000_001 * b"a", "row 1 cannot be read: field larger than field limit"),
        ("a.csv", b"review\ncaf\xe9\n", "is not UTF-8 (invalid continuation byte); save it as UTF-8"),
        ("a.jsonl", b'{"review": "a"}\n[1]\n', "line 2 is no JSON object"),
        ("a.jsonl", b"{\n", "line 1 is no JSON (Expecting property name"),
    ],
)
def test_a_table_that_cannot_be_read_is_refused_with_where_and_why(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)

    with pytest.raises(ValueError) as refused:  # noqa: PT011
        read_text_rows(str(tmp_path / name), "review")

    assert str(tmp_path / name) in str(refused.value)
    assert message in str(refused.value)


def test_a_table_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such file: nowhere\.csv"):
        read_text_rows("nowhere.csv", "text")


def test_a_folder_is_refused_with_the_option_for_one(tmp_path):
    with pytest.raises(ValueError, match="is a folder, not a table; a folder of texts is added with: --from-folder"):
        read_text_rows(str(tmp_path), "review")
