"""What `fewshot remove` removes, and erases."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from fakes import BLUE, GREEN, RED, FakeEncoder, png

from fewshot import ClassRegistry
from fewshot.cli import main


@pytest.fixture
def registry(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with ClassRegistry("r.fewshot", encoder=FakeEncoder()) as made:
        made.add("red", [png(RED), png(RED, 5)])
        made.add("blue", [png(BLUE)])
        made.rejection.add_negatives([png(GREEN)])
    return "r.fewshot"


def remove(*words):
    result = CliRunner().invoke(main, ["remove", *map(str, words)])
    return result.exit_code, result.stdout and json.loads(result.stdout), result.stderr


def test_any_number_is_forgotten_at_once(registry):
    status, answer, _ = remove(registry, "blue", "--example", 1, "--negative", 1, "--forget")
    assert (status, answer["examples"], answer["negatives"], answer["searched"]) == (0, 2, 1, ["r.fewshot"])
    with ClassRegistry(registry) as opened:
        assert (opened.classes(), opened.rejection.n_negatives) == ({"red": 1}, 0)


def test_what_is_left_elsewhere_is_said_on_standard_error(registry, tmp_path):
    (tmp_path / "here.png").write_bytes(png(BLUE, 9))
    with ClassRegistry(registry, encoder=FakeEncoder()) as opened:
        opened.add("blue", [tmp_path / "here.png"])
        opened.add("sky", [png(BLUE)], allow_conflict=True)
    _, answer, said = remove(registry, "blue", "--forget")
    assert "not erased: the same bytes are kept as example" in said
    assert "not erased: 1 files that examples were registered from" in said
    assert answer["originals"] == [str(tmp_path / "here.png")]


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (("red", "blue"), 2, "several go with --forget"),
        (("--example", "1", "--example", "2"), 2, "several go with --forget"),
        (("rde", "--forget"), 1, "did you mean 'red'?"),
        (("--example", "99", "--forget"), 1, "no example 99; nothing was erased"),
    ],
)
def test_a_removal_that_cannot_be_says_why_and_removes_nothing(words, status, message, registry):
    found, _, said = remove(registry, *words)
    assert (found, message in said) == (status, True), said
    with ClassRegistry(registry) as opened:
        assert opened.classes() == {"red": 2, "blue": 1}
