"""A command's result in each format: a table on a terminal, JSON in a pipe, what --format says anywhere."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import subprocess
import sys

import pytest
from click.testing import CliRunner

from fewshot.cli import main
from fewshot.cli.prediction_output import OutputFormat, write_predictions
from fewshot.cli.text_table import as_lines, as_table
from fewshot.registry import Failure

pytestmark = pytest.mark.usefixtures("pocket_stays")


def call(*args, status=0):
    result = CliRunner().invoke(main, [str(arg) for arg in args])
    assert result.exit_code == status, (result.stdout, result.stderr, result.exception)
    return result.stdout


@pytest.fixture(scope="module")
def registry(photos, tmp_path_factory):
    path = tmp_path_factory.mktemp("made") / "made.fewshot"
    call("add", path, "--from-folder", photos / "photos")
    return path


def on_a_terminal(*args):
    """What a command prints where its standard output is a terminal."""
    own, given = pty.openpty()
    command = [sys.executable, "-m", "fewshot", *map(str, args)]
    with subprocess.Popen(command, stdout=given, stderr=subprocess.DEVNULL) as process:
        os.close(given)
        printed = b""
        while True:
            try:
                some = os.read(own, 65536)
            except OSError:  # how Linux says that the last writer has closed a terminal
                break
            if not some:
                break
            printed += some
    os.close(own)
    assert process.returncode == 0
    return printed.decode().replace("\r\n", "\n")


def test_columns_are_as_wide_as_their_cells_and_numbers_end_together():
    records = [{"label": "ねこ", "score": 0.5, "n": 3}, {"label": "cafe\u0301", "score": 0.125, "n": 10}]
    assert as_table(records) == "label  score   n\nねこ   0.500   3\ncafe\u0301   0.125  10\n"


def test_what_a_record_lacks_is_a_dash_and_a_cell_cannot_control_the_terminal():
    assert as_table([{"a": "x\n\x1b[2J", "b": None}, {"a": "y", "c": True}]) == (
        "a           b  c\nx\\n\\x1b[2J  -  -\ny           -  yes\n"
    )


def test_an_object_is_a_line_for_each_key_and_its_records_are_indented():
    value = {"n": 2, "per_class": {"a_b": 0.5}, "failed": [{"path": "x.jpg", "reason": "empty"}], "lost": []}
    assert as_lines(value) == (
        "n     2\nlost  none\nper_class:\n  a_b  0.5\nfailed:\n  path   reason\n  x.jpg  empty\n"
    )


@pytest.mark.parametrize("command", ["add", "predict", "evaluate", "classes", "demo", "bench", "info", "encoders"])
def test_a_command_has_the_formats(command):
    (option,) = [parameter for parameter in main.commands[command].params if parameter.name == "format"]
    assert option.type.choices[:4] == ("table", "json", "jsonl", "csv")


def test_a_terminal_gets_a_table_and_a_pipe_json(registry):
    assert on_a_terminal("classes", registry) == "class   examples\nflower         5\ntemple         5\n"
    assert on_a_terminal("classes", registry, "--format", "json") == '{"flower": 5, "temple": 5}\n'
    assert call("classes", registry) == '{"flower": 5, "temple": 5}\n'


def test_an_answer_of_a_table_has_its_probability_and_the_second_class(registry, photos, tmp_path):
    picture = photos / "new-photos" / "temple" / "0.jpg"
    (tmp_path / "empty.jpg").write_bytes(b"")
    header, first, second = call(
        "predict", registry, picture, tmp_path / "empty.jpg", "--format", "table", status=1
    ).splitlines()
    assert header.split() == ["path", "label", "probability", "score", "second", "error"]
    (row,) = json.loads(call("predict", registry, picture))
    path, label, probability, score, runner_up, error = first.split()
    assert (path, label, runner_up, error) == (str(picture), "temple", "flower", "-")
    assert (float(probability), float(score)) == (row["probability"], row["score"])
    assert second.endswith("the file is empty (0 bytes)")


def test_a_rejected_image_of_a_table_is_of_none_of_the_classes(registry, photos):
    from fewshot.cli.prediction_output import _table_row
    from fewshot.registry import Prediction

    assert _table_row("a.jpg", Prediction(None, 0.5, (("x", 0.5), ("y", 0.25)), probability=0.75)) == {
        "path": "a.jpg", "label": "(none of these)", "probability": 0.75, "score": 0.5, "second": "y",
    }  # fmt: skip


def test_csv_and_json_lines_have_a_row_for_each_class(registry):
    rows = list(csv.DictReader(io.StringIO(call("classes", registry, "--format", "csv"))))
    assert rows == [{"class": "flower", "examples": "5"}, {"class": "temple", "examples": "5"}]
    lines = call("classes", registry, "--format", "jsonl").splitlines()
    assert [json.loads(line) for line in lines] == [{"class": name, "examples": 5} for name in ("flower", "temple")]


def test_an_object_in_a_csv_cell_is_json(registry):
    (row,) = csv.DictReader(io.StringIO(call("info", registry, "--format", "csv")))
    assert json.loads(row["encoder"]) == {"name": "pocket", "layer": None, "pool": None}
    assert row["classes"] == "2"


@pytest.mark.parametrize("name", ["table", "csv", "json", "jsonl", "coco", "fiftyone"])
def test_predictions_in_several_parts_are_those_in_one(registry, photos, tmp_path, monkeypatch, name):
    (tmp_path / "no.jpg").write_text("no image")
    args = ("predict", registry, tmp_path / "no.jpg", photos / "new-photos", tmp_path / "no.jpg", "--format", name)
    whole = call(*args, status=1)
    monkeypatch.setattr("fewshot.cli.predict_commands._IMAGES_AT_ONCE", 1)
    assert call(*args, status=1) == whole


@pytest.mark.parametrize("name", ["csv", "json", "jsonl"])
def test_an_answer_is_written_before_the_next_is_asked_for(capsysbinary, name):
    parts = [[("one.jpg", Failure("one.jpg", "broken"))], [("two.jpg", Failure("two.jpg", "gone"))]]
    written = []

    def asked():
        for part in parts:
            written.append(capsysbinary.readouterr().out)
            yield part

    assert write_predictions(asked(), OutputFormat(name, None, None), registry="r", classes=list)
    before, first, second = *written, capsysbinary.readouterr().out
    assert (before, b"one.jpg" in first, b"two.jpg" in first, b"two.jpg" in second) == (b"", True, False, True)
    if name == "json":
        assert [one["path"] for one in json.loads(first + second)] == ["one.jpg", "two.jpg"]
