"""``fewshot evaluate`` and ``predict`` with labels that are paths."""

from __future__ import annotations

import csv
import json
import zipfile

import pytest
from click.testing import CliRunner
from fakes import png

from fewshot.cli import main

pytestmark = pytest.mark.usefixtures("pocket_stays")
# The two reds are alike: nothing tells them apart.
COLOURS = {"warm/red/bright": (250, 10, 10), "warm/red/dark": (250, 10, 10), "cold/blue": (10, 10, 250)}


def run(*words, status=0):
    result = CliRunner().invoke(main, list(map(str, words)))
    assert result.exit_code == status, result.output
    return result


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Class folders in folders: two pictures of each colour."""
    place = tmp_path_factory.mktemp("nested") / "colours"
    for number, (label, colour) in enumerate(COLOURS.items()):
        (place / label).mkdir(parents=True)
        for n in range(2):
            (place / label / f"{n}.png").write_bytes(png(colour, 24 + 2 * number + n))
    return place


@pytest.fixture(scope="module")
def registry(folder, tmp_path_factory):
    path = str(tmp_path_factory.mktemp("registry") / "colours.fewshot")
    added = run("add", path, "--from-folder", folder, "--nested")
    assert json.loads(added.stdout)["added"] == 6
    return path


def test_paths_of_folders_are_the_labels_where_nested_is_asked_for(registry, folder, tmp_path):
    assert set(json.loads(run("classes", registry).stdout)) == set(COLOURS)
    # without it the outermost folders are the classes, or it is not clear which are: both say what else there is
    told = run("add", tmp_path / "r.fewshot", "--from-folder", folder).stderr
    assert "count for the class, unless --nested makes paths of folders the labels: " in told
    for place in ("a/x", "a/y", "b/z"):
        (tmp_path / "unclear" / place).mkdir(parents=True)
        (tmp_path / "unclear" / place / "1.png").write_bytes(png())
    refused = run("add", tmp_path / "r.fewshot", "--from-folder", tmp_path / "unclear", status=1)
    assert refused.stderr.endswith(f"--from-folder {tmp_path / 'unclear'} --nested\n")
    assert run("add", tmp_path / "r.fewshot", "red", "a.png", "--nested", status=2).stderr.endswith(
        "Error: --nested is for --from-folder\n"
    )


def test_each_level_is_reported_and_with_roll_up_how_deep_the_answers_are(registry, folder, tmp_path):
    plain = json.loads(run("evaluate", registry, folder, "--nested").stdout)
    rows = tmp_path / "rows.csv"
    rolled = json.loads(run("evaluate", registry, folder, "--nested", "--roll-up", "0.8", "--out", rows).stdout)

    assert [one["level"] for one in plain["levels"]] == [1, 2, 3]
    assert [one["n"] for one in plain["levels"]] == [6, 6, 4]
    assert plain["levels"][0] == {"level": 1, "n": 6, "accuracy": 1.0}
    assert [one["level"] for one in rolled["levels"]] == [0, 1, 2, 3]
    assert sum(one["answered"] for one in rolled["levels"]) == 6
    assert rolled["levels"][2] == {"level": 2, "n": 6, "accuracy": 1.0, "answered": 6, "answered_accuracy": 1.0}
    assert rolled["accuracy"] == plain["accuracy"]
    with open(rows, newline="") as file:
        table = list(csv.DictReader(file))
    assert {row["answer"] for row in table} == {"warm/red", "cold/blue"}


def test_a_flat_registry_has_no_levels_in_its_report(folder, tmp_path):
    path = tmp_path / "flat.fewshot"
    run("add", path, "--from-folder", folder / "warm" / "red")
    assert "levels" not in json.loads(run("evaluate", path, folder / "warm" / "red").stdout)


@pytest.mark.parametrize("output", ["csv", "label-studio", "coco", "fiftyone"])
def test_what_other_tools_import_holds_the_level_that_is_sure(registry, tmp_path, monkeypatch, output):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "new.png").write_bytes(png((250, 10, 10), 40))
    words = ("predict", registry, "new.png", "--roll-up", "0.8", "--format", output)
    plain = json.loads(run("predict", registry, "new.png").stdout)[0]
    text = run(*words).stdout

    (single,) = json.loads(run("predict", registry, "new.png", "--roll-up", "0.8", "--format", "json").stdout)
    assert plain["probability"] < 0.8  # else there is nothing to roll up
    assert (single["label"], single["top"]) == ("warm/red", plain["top"])
    if output == "csv":
        (row,) = csv.DictReader(text.splitlines())
        assert (row["label"], row["top_label"]) == ("warm/red", plain["label"])
    else:
        assert '"warm/red"' in text


def test_a_share_below_one_half_is_refused(registry):
    for command in ("predict", "evaluate"):
        assert "0.3 is not in the range 0.5<=x<=1" in run(command, registry, "x", "--roll-up", "0.3", status=2).stderr
    assert (
        "--nested is for DIR"
        in run("evaluate", registry, "--from-csv", "a.csv", "--text", "t", "--label", "l", "--nested", status=2).stderr
    )


def test_a_report_is_no_file_and_no_url_and_none_is_begun_without_a_registry(registry, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").write_text("kept")
    evaluate = ("evaluate", registry, folder, "--nested", "--report")
    assert "taken/: it is a file; give a folder" in run(*evaluate, "taken", status=1).stderr
    assert "URLs are only read" in run(*evaluate, "memory://r", status=1).stderr
    assert "URLs are only read" in run(*evaluate[:-1], "--out", "memory://r.csv", status=1).stderr
    run("evaluate", "none.fewshot", folder, "--nested", "--report", "new", status=1)
    assert [one.name for one in tmp_path.iterdir()] == ["taken"]


@pytest.mark.parametrize("command", ["doctor", "evaluate", "detect", "info", "remove"])
def test_a_bundle_and_a_url_are_no_registry(command, tmp_path):
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as file:
        file.writestr("bundle.json", "{}")
    more = {"evaluate": [tmp_path], "detect": ["a.png"], "remove": ["a"]}.get(command, [])
    assert "is a bundle, which is for fewshot predict" in run(command, tmp_path / "b.zip", *more, status=1).stderr
    assert "a registry is a file of this machine" in run(command, "memory://r.fewshot", *more, status=1).stderr


def test_folders_in_folders_of_a_registry_of_paths_bring_nested_to_mind(registry, folder, tmp_path):
    (tmp_path / "flat" / "cold").mkdir(parents=True)
    (tmp_path / "flat" / "cold" / "0.png").write_bytes((folder / "cold" / "blue" / "0.png").read_bytes())
    told = run("evaluate", registry, tmp_path / "flat").stderr
    assert "the registry has 'cold/blue': where folders in folders are the label, give --nested" in told
    assert "--nested" not in run("evaluate", registry, folder, "--nested").stderr
