"""A multi-label registry from the command line: made, asked, evaluated; what it refuses."""

from __future__ import annotations

import csv
import json

import pytest
from click.testing import CliRunner
from fakes import BLUE, GREEN, RED, FakeEncoder, png
from media_examples import FILMS, SOUPS, load_test_encoder

from fewshot import ClassRegistry
from fewshot.cli import main

MAGENTA, BLACK = (255, 0, 255), (0, 0, 0)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Pictures of red, of blue and of both, in two class folders; and some to ask about."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fewshot.encoders.load_encoder", lambda **_: FakeEncoder(name="colours"))
    for part, start in (("photos", 0), ("test", 5)):
        for label, colours in (("red", (RED, MAGENTA)), ("blue", (BLUE, MAGENTA))):
            (tmp_path / part / label).mkdir(parents=True)
            for colour in colours:
                for number in range(start, start + 3):
                    name = "-".join(map(str, colour))
                    shade = [max(0, one - 5 * number) for one in colour]
                    (tmp_path / part / label / f"{name}-{number}.png").write_bytes(png(shade))
    (tmp_path / "black.png").write_bytes(png(BLACK))
    return tmp_path


def call(*words, status=0):
    result = CliRunner().invoke(main, [*map(str, words)])
    assert result.exit_code == status, result.output
    return result


def answer(*words, status=0):
    return json.loads(call(*words, status=status).stdout)


@pytest.fixture
def registry(folder):
    made = answer("add", "r.fewshot", "--multi-label", "--from-folder", "photos")
    assert (made["added"], made["classes"], "conflicts" in made) == (12, 2, False)
    call("add", "r.fewshot", "--negative", "black.png")
    return "r.fewshot"


def test_all_labels_are_answered_each_with_its_probability(registry, folder):
    (both, none) = answer("predict", registry, "test/red/255-0-255-5.png", "black.png")
    assert {label for label, _ in both["labels"]} == {"red", "blue"}
    assert (none["labels"], none["label"]) == ([], None)
    table = call("predict", registry, "test/red/255-0-255-5.png", "--format", "table").stdout
    assert "red 0." in table
    assert "blue 0." in table
    rows = list(csv.DictReader(call("predict", registry, "test/red", "--format", "csv").stdout.splitlines()))
    assert {row["label"] for row in rows} >= {"red"}
    assert any(sorted(row["label"].split(";")) == ["blue", "red"] for row in rows)


def test_other_tools_get_a_multiple_choice_or_an_annotation_for_each_label(registry):
    result = call("predict", registry, "test/red/255-0-255-5.png", "--format", "label-studio")
    assert 'choice="multiple"' in result.stderr
    (task,) = json.loads(result.stdout)
    (prediction,) = task["predictions"]
    assert sorted(prediction["result"][0]["value"]["choices"]) == ["blue", "red"]
    found = answer("predict", registry, "test/red/255-0-255-5.png", "--format", "coco")
    assert len(found["annotations"]) == 2
    assert min(one["score"] for one in found["annotations"]) == prediction["score"]


def test_an_evaluation_tells_f1_and_average_precision_and_counts_a_picture_once(registry, folder):
    found = answer("evaluate", registry, "test", "--out", "rows.csv")
    assert found["n"] == 9
    assert found["micro_f1"] > 0.8
    assert found["mean_average_precision"] > 0.9
    assert found["per_class"]["red"]["n"] == 6
    rows = list(csv.DictReader((folder / "rows.csv").read_text().splitlines()))
    assert sum(row["labels"] == "blue;red" for row in rows) == 3


def test_an_example_of_several_labels_is_added_by_naming_the_others(registry):
    added = answer("add", registry, "green", "black.png", "--and-label", "dark", status=1)
    assert [one["held_by"] for one in added["conflicts"]] == [["none of these"]] * 2
    (file,) = ["test/red/255-0-0-5.png"]
    assert answer("add", registry, "red", file, "--and-label", "warm")["added"] == 2
    assert answer("classes", registry) == {"red": 7, "blue": 6, "warm": 1}
    assert answer("info", registry)["classifier"] == "multi-label"


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (("predict", "r.fewshot", "black.png", "--max-false-accept", "0.1"), 1, "there is no limit on false accepts"),
        (("predict", "r.fewshot", "black.png", "--format", "fiftyone"), 1, "which holds one label of each image"),
        (("threshold", "r.fewshot", "--max-false-accept", "0.1"), 1, "there is no limit on false accepts"),
        (("classifier", "r.fewshot", "nearest"), 1, "there is no choice of a classifier"),
        (("tune", "r.fewshot"), 1, "there is no fine-tuning"),
        (("add", "r.fewshot", "red", "black.png", "--classifier", "nearest"), 1, "there is no choice of a classifier"),
        (("add", "r.fewshot", "--from-folder", "photos", "--and-label", "x"), 2, "--and-label names another class"),
        (("add", "r.fewshot", "red", "black.png", "--separator", ";"), 2, "--separator is of --from-csv"),
        (("evaluate", "r.fewshot", "test", "--separator", ";"), 2, "--separator is of --from-csv"),
        (("evaluate", "one.fewshot", "--from-csv", "x.csv", "--text", "a", "--label", "b", "--separator", ";"), 1,
         "takes one label for each example, and --separator gives several"),
        (("add", "one.fewshot", "red", "black.png", "--and-label", "blue"), 1, "takes one label for each example"),
        (("add", "one.fewshot", "red", "black.png", "--multi-label"), 1, "cannot be opened as multi-label"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused_in_one_line(words, status, message, registry):
    with ClassRegistry("one.fewshot", encoder=FakeEncoder(name="colours")) as one:
        one.add("green", [png(GREEN)])
    said = call(*words, status=status).stderr
    assert message in said
    assert status == 2 or len(said.splitlines()) == 1


def test_a_cell_of_a_table_may_hold_several_labels(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fewshot.encoders.load_encoder", load_test_encoder)
    rows = [
        f'"{text}",{labels}' for text, labels in (*((t, "soup") for t in SOUPS), *((t, "film; old") for t in FILMS))
    ]
    (tmp_path / "t.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    columns = ("--from-csv", "t.csv", "--text", "text", "--label", "label", "--separator", ";")
    added = answer("add", "t.fewshot", "--multi-label", "--encoder", "test-text", *columns)
    assert (added["added"], added["classes"]) == (len(SOUPS) + 2 * len(FILMS), 3)
    found = answer("evaluate", "t.fewshot", *columns)
    assert (found["n"], found["unregistered"], found["per_class"]["old"]["n"]) == (len(rows), [], len(FILMS))


def test_what_is_exported_is_imported_with_all_labels(registry):
    call("export", "r.fewshot", "all.npz")
    made = answer("import", "new.fewshot", "all.npz", "--multi-label")
    assert (made["added"], "conflicts" in made) == (12, False)
    assert answer("info", "new.fewshot")["multi_label"] is True
    call("import", "one.fewshot", "all.npz", status=1)  # three pictures are of two classes
