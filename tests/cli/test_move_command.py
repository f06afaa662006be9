from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from fakes import GREEN, RED, FakeEncoder, classes, png

from fewshot import ClassRegistry
from fewshot.cli import main


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "r.fewshot"
    with ClassRegistry(path, encoder=FakeEncoder()) as registry:
        registry.add("red", [png(RED), png((200, 60, 30)), png(GREEN)])
    return path


def run(*args):
    return CliRunner().invoke(main, ["move", *map(str, args)])


def test_an_example_is_moved_to_a_class_known_or_new(path):
    moved = [json.loads(run(path, "green", "--example", id_).stdout) for id_ in (3, 2)]
    assert [(one["example"], one["label"]) for one in moved] == [(3, "green"), (2, "green")]
    assert classes(path) == {"red": 1, "green": 2}


def test_a_label_that_begins_with_a_dash_comes_after_two(path):
    assert run(path, "--example", 3, "--", "-lemon").exit_code == 0
    assert classes(path) == {"red": 2, "-lemon": 1}


def test_an_unknown_id_is_named_and_makes_no_class(path):
    result = run(path, "green", "--example", 99)
    assert result.exit_code == 1
    assert "no example 99" in result.stderr
    assert classes(path) == {"red": 3}
