"""``fewshot predict --group``: which are of one object, and one answer for each."""

from __future__ import annotations

import csv
import json
import zipfile

import numpy as np
import pytest
from click.testing import CliRunner
from fakes import png

from fewshot import ClassRegistry, FunctionEncoder
from fewshot.cli import main

pytestmark = pytest.mark.usefixtures("pocket_stays")


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("groups") / "colours.fewshot")
    with ClassRegistry(path) as made:
        for label, colour in (("red", (220, 20, 20)), ("green", (20, 220, 20)), ("blue", (20, 20, 220))):
            made.add(label, [png(colour, 32), png(tuple(c - 15 for c in colour), 32)])
    return path


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    """Two frames of a track that is red, and three of one that is blue."""
    folder = tmp_path_factory.mktemp("frames")
    for n, (track, colour) in enumerate([("t1", (200, 40, 30)), ("t2", (30, 30, 200)), ("t2", (20, 60, 180))] * 2):
        if n == 3:
            continue
        (folder / track).mkdir(exist_ok=True)
        (folder / track / f"{track}_frame{n}.png").write_bytes(png(tuple(c + n for c in colour), 32))
    (folder / "t1" / "t1_frame9.png").write_bytes(png((190, 45, 30), 32))
    return folder


def run(*words, status=0):
    result = CliRunner().invoke(main, ["predict", *map(str, words)])
    assert result.exit_code == status, result.output
    return result


def test_each_folder_is_answered_once_with_its_members(registry, frames):
    found = json.loads(run(registry, frames, "--group", "folder", "--format", "json").stdout)

    assert [(one["group"], one["label"]) for one in found] == [(f"{frames}/t1", "red"), (f"{frames}/t2", "blue")]
    assert [len(one["members"]) for one in found] == [2, 4]
    first = found[0]
    assert {"probability", "unknown_score", "agreement", "effective_size", "false_accept_bound", "top"} <= first.keys()
    assert first["members"][0].keys() == {"path", "label", "probability", "unknown_score"}
    assert first["top"][0] == ["red", first["probability"]]


def test_the_part_of_a_path_in_parentheses_is_the_group_across_folders_and_in_zips(registry, frames, tmp_path):
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for file in frames.glob("*/*.png"):
            archive.write(file, file.name)

    for place in (frames, tmp_path / "all.zip"):
        lines = run(registry, place, "--group", r"(t\d)_frame", "--format", "jsonl").stdout.splitlines()
        assert sorted(json.loads(line)["group"] for line in lines) == ["t1", "t2"]
    whole = run(registry, frames, "--group", r"t\d_", "--format", "jsonl").stdout.splitlines()
    assert sorted(json.loads(line)["group"] for line in whole) == ["t1_", "t2_"]


def test_a_broken_member_is_listed_and_the_exit_status_says_so(registry, frames, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.png").write_bytes(png((200, 40, 30), 32))
    (tmp_path / "a" / "2.png").write_bytes(b"broken")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "3.png").write_bytes(b"")

    result = run(registry, tmp_path, "--group", "folder", "--format", "json", status=1)

    a, b = json.loads(result.stdout)
    assert a["label"] == "red"
    assert "error" in a["members"][1]
    assert b["error"] == "none of its members can be read"
    assert f"no prediction for {tmp_path / 'a' / '2.png'}: " in result.stderr
    table = run(registry, tmp_path, "--group", "folder", "--format", "table", status=1).stdout
    assert "none of its members can be read" in table


def test_too_little_agreement_gives_no_label(registry, frames):
    mixed = [frames / "t1" / "t1_frame0.png", frames / "t2" / "t2_frame1.png"]
    options = ("--group", "frame", "--min-agreement", "0.6", "--format", "csv")

    (row,) = csv.DictReader(run(registry, *mixed, *options).stdout.splitlines())

    assert (row["label"], float(row["agreement"])) == ("", 0.5)
    assert row["top_label"]


def test_rows_of_a_table_are_grouped_by_a_column(tmp_path, monkeypatch):
    def letters(texts):
        return np.array([[text.count(letter) + 0.01 for letter in "abc"] for text in texts])

    encoder = FunctionEncoder(letters, dim=3, fingerprint="letters", modality="text")
    path = str(tmp_path / "texts.fewshot")
    with ClassRegistry(path, encoder=encoder) as made:
        made.add("a", ["aaa", "aab"])
        made.add("b", ["bbb", "bbc"])
    (tmp_path / "new.csv").write_text("thread,text\n7,aaaa\n8,bb\n7,a\n", encoding="utf-8")
    with ClassRegistry(path, encoder=encoder) as opened:
        monkeypatch.setattr("fewshot.cli.predict_commands.open_registry", lambda *_: opened)
        found = json.loads(
            run(
                path, "--from-csv", tmp_path / "new.csv", "--text", "text", "--group", "thread", "--format", "json"
            ).stdout
        )

    assert [(one["group"], one["label"]) for one in found] == [("7", "a"), ("8", "b")]
    assert [member["text"] for member in found[0]["members"]] == ["aaaa", "a"]


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (("--group", "("), 2, "--group '(' is neither 'folder' nor a regular expression: missing )"),
        (("--group", "camera"), 1, "--group 'camera' is not found in 6 of 6 paths"),
        (("--min-agreement", "0.6"), 2, "--min-agreement is for --group"),
        (("--group", "folder", "--min-agreement", "2"), 2, "2.0 is not in the range 0<=x<=1"),
        (("--group", "folder", "--format", "coco"), 2, "--group answers in table, json, jsonl, csv, not coco"),
        (("--group", "a", "--from-csv", "x.csv", "--text", "t"), 2, "leave FILE... out"),
    ],
)
def test_what_cannot_be_grouped_is_refused_in_words(registry, frames, words, status, message):
    assert message in run(registry, frames, *words, status=status).stderr
