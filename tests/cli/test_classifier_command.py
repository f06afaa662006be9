from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from fakes import RED, FakeEncoder, png

from fewshot import ClassRegistry
from fewshot.cli import main


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "r.fewshot"
    with ClassRegistry(path, encoder=FakeEncoder()) as registry:
        registry.add("red", [png(RED), png((200, 60, 30))])
        registry.add("green", [png((0, 255, 0)), png((60, 200, 10))])
    return path


def run(*args):
    return CliRunner().invoke(main, ["classifier", *map(str, args)])


def test_a_registrys_classifier_is_shown_and_changed(path):
    assert json.loads(run(path).stdout)["classifier"] == "whitened"
    assert json.loads(run(path, "ridge").stdout)["classifier"] == "ridge"
    assert json.loads(run(path, "nearest", "--neighbors", 3).stdout)["classifier"] == "nearest (n_neighbors=3)"
    with ClassRegistry(path, encoder=FakeEncoder()) as registry:
        assert registry.classifier.n_neighbors == 3
        assert registry.predict_vectors([[0.5, 0.4, 0.1]])[0].score == pytest.approx(2 / 3)


def test_the_comparison_lists_each_with_its_interval_and_says_that_few_examples_say_little(path):
    result = run(path, "--compare")
    rows = json.loads(result.stdout)
    assert {row["classifier"] for row in rows} == {
        *("whitened", "prototype", "nearest", "ridge", "logistic", "discriminant")
    }
    assert [row["classifier"] for row in rows if row["chosen"]] == ["whitened"]
    assert all({"accuracy", "ci95", "n"} <= row.keys() for row in rows)
    assert "4 examples were left out: differences within ci95 may be chance" in result.stderr


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["ridge", "--compare"], "--compare changes nothing: give it without NAME"),
        (["ridge", "--neighbors", "2"], "--neighbors is for the classifier nearest"),
        (["--compare", "--layers", "auto"], "--layers and --tta are of the encoder to compare with: give --encoder"),
        (["--compare", "--tta"], "--layers and --tta are of the encoder to compare with: give --encoder"),
        (["--encoder", "pocket"], "--encoder is for --compare; fewshot reindex changes"),
    ],
)
def test_options_that_do_not_go_together_are_refused(path, args, message):
    result = run(path, *args)
    assert (result.exit_code, message in " ".join(result.stderr.split())) == (2, True)


def test_layers_and_flips_of_another_encoder_are_compared(path):
    result = run(path, "--compare", "--encoder", "pocket", "--layers", "1,stages.2", "--tta")
    rows = json.loads(result.stdout)
    assert {row["encoder"] for row in rows} == {"an encoder of your own", "pocket --layers 1,stages.2 --tta"}
    assert len(rows) == 12


def test_an_unknown_name_is_one_line_with_those_there_are(path):
    result = run(path, "svm")
    assert result.exit_code == 1
    assert result.stderr == (
        "Error: no classifier is called 'svm'; there are whitened, prototype, nearest, ridge, logistic, discriminant\n"
    )
