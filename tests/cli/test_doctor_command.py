from __future__ import annotations

import csv
import io
import json

import pytest
from click.testing import CliRunner
from fakes import BLUE, GREEN, RED, FakeEncoder, png

from fewshot import ClassRegistry
from fewshot.cli import main


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "r.fewshot"
    with ClassRegistry(path, encoder=FakeEncoder()) as registry:
        reds = [png(RED), png((200, 60, 30)), png((220, 30, 60)), png((250, 80, 90))]
        registry.add("red", [*reds, png((20, 240, 20))])
        registry.add("green", [png(GREEN), png((60, 200, 10)), png((30, 220, 70)), png((90, 240, 40))])
        registry.add("blue", [png(BLUE), png((40, 20, 230)), png((60, 90, 250)), png((90, 10, 200))])
    return path


def run(*args):
    return CliRunner().invoke(main, [*map(str, args)])


def test_a_program_gets_all_of_it_as_one_json_value(path):
    result = run("doctor", path)
    assert result.exit_code == 0
    (line,) = result.stdout.splitlines()
    found = json.loads(line)
    assert [one["mislabelled"] for one in found["suspects"]] == [True]
    assert found["suspects"][0]["example"] | {"source": 0} == {"id": 5, "label": "red", "source": 0}
    assert found["suspects"][0]["closest"] == "green"
    assert 0 < found["left_out"]["value"] < found["accuracy"]["value"] <= 1
    assert found["advice"]
    assert "commands" not in found


def test_a_person_gets_a_summary(path):
    lines = run("doctor", path, "--format", "table").stdout.splitlines()
    assert lines[0].startswith("accuracy   ")
    assert lines[2].startswith("add next   ")
    assert "likely mislabelled (1):" in lines


def test_fixes_are_proposed_and_none_is_run(path):
    before = path.read_bytes()
    (command,) = [one["command"] for one in json.loads(run("doctor", path, "--fix").stdout)["commands"]][:1]
    assert command == f"fewshot move {path} --example 5 green"
    shown = run("doctor", path, "--fix", "--format", "table").stdout
    assert f"\n{command}\n" in shown
    assert path.read_bytes() == before
    moved = run(*command.split()[1:])
    assert json.loads(moved.stdout) | {"source": 0} == {"example": 5, "label": "green", "source": 0}
    assert json.loads(run("doctor", path).stdout)["suspects"] == []


def test_each_finding_is_a_row_of_a_table(path):
    rows = list(csv.DictReader(io.StringIO(run("doctor", path, "--format", "csv").stdout)))
    assert rows[0]["finding"] == "mislabelled"
    assert {row["finding"] for row in rows} >= {"mislabelled", "add"}


def test_the_report_is_written_into_a_folder_that_is_made(path, tmp_path):
    result = run("doctor", path, "--report", tmp_path / "new" / "report")
    page = tmp_path / "new" / "report" / "doctor.html"
    assert json.loads(result.stdout)["report"] == str(page)
    assert "<!doctype html>" in page.read_text(encoding="utf-8")


def test_what_is_wrong_is_one_line(path, tmp_path):
    missing = run("doctor", tmp_path / "no.fewshot")
    assert missing.exit_code == 1
    assert "no.fewshot" in missing.stderr
    file = tmp_path / "file"
    file.write_text("")
    assert run("doctor", path, "--report", file).exit_code == 1


def test_a_report_goes_to_a_folder_of_this_machine_and_none_is_made_without_a_registry(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").write_text("kept")
    for report, reason in (
        ("taken", "cannot write taken/: it is a file; give a folder"),
        ("memory://r", "cannot write memory://r: URLs are only read"),
    ):
        result = run("doctor", path, "--report", report)
        assert (result.exit_code, result.stdout) == (1, "")
        assert reason in result.stderr
    assert run("doctor", "none.fewshot", "--report", "new").exit_code == 1
    assert {one.name for one in tmp_path.iterdir()} == {"r.fewshot", "taken"}
