"""Episodes that fit the data: chosen where they are not given, and said."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

from fewshot.benchmark.inputs import open_source
from fewshot.benchmark.protocol import Protocol
from fewshot.cli import main


@pytest.fixture
def source(tmp_path):
    def made(*sizes, groups=None):
        labels = np.repeat([f"c{n}" for n in range(len(sizes))], sizes)
        more = {} if groups is None else {"groups": np.repeat(groups, sizes)}
        np.savez(
            tmp_path / "data.npz", vectors=np.random.default_rng(0).normal(size=(len(labels), 4)), labels=labels, **more
        )
        return open_source(str(tmp_path / "data.npz"), split="test")

    return made


def fitted(source, ways=None, shots=None, *, unknown=False, **given):
    notes = []
    protocol, settings = Protocol(**given).fitted([source], ways, shots, notes.append, unknown=unknown)
    return (settings, protocol.queries, protocol.episodes), notes


def test_data_that_serve_the_defaults_get_them_and_nothing_is_said(source):
    assert fitted(source(*[20] * 5)) == (([(5, 1), (5, 5)], 15, 10_000), [])


@pytest.mark.parametrize(
    ("sizes", "given", "expected", "said"),
    [
        ((4, 9, 9), {}, ([(3, 1)], 3, 10_000), "--ways 3 --shots 1 --queries 3"),
        ((6, 9, 9, 9, 9), {}, ([(5, 1), (5, 5)], 1, 10_000), "--queries 1"),
        ((12,) * 5, {"shots": (1,)}, ([(5, 1)], 11, 10_000), "--queries 11"),
        ((30,) * 3, {"unknown": True, "ways": None}, None, "4-way 1-shot: no group has the 4 classes"),
        ((30,) * 7, {"unknown": True}, ([(3, 1), (3, 5)], 15, 10_000), "--ways 3"),
        ((16,) * 5, {"query_imbalance": 2.0, "shots": (1,)}, ([(5, 1)], 3, 10_000), "--queries 3"),
        ((10,) * 5, {"replacement": False, "queries": 1, "shots": (1,)}, ([(5, 1)], 1, 5), "--episodes 5"),
    ],
)
def test_what_is_not_given_is_chosen_by_the_smallest_class_and_the_number_of_classes(
    source, sizes, given, expected, said
):
    if expected is None:
        with pytest.raises(ValueError, match=said):
            fitted(source(*sizes), **given)
        return
    found, (note,) = fitted(source(*sizes), **given)
    assert found == expected
    assert note.startswith(f"chosen to fit the data: {said}; an episode has {len(sizes)} classes to draw from")
    assert f"of data, has {min(sizes)} examples" in note


def test_within_groups_the_classes_are_those_of_the_largest_group(source):
    settings = fitted(source(*[20] * 5, groups=["a", "a", "b", "b", "b"]), within_groups=True)[0][0]
    assert settings == [(3, 1), (3, 5)]


def test_what_is_given_is_refused_by_the_names_of_the_options(source):
    with pytest.raises(
        ValueError, match=r"class 'c0' has 4 examples, but an episode may need --shots \+ --queries = 6"
    ):
        fitted(source(4, 9), queries=5)
    with pytest.raises(ValueError, match="only 1 episodes without a common example could be drawn, not 7"):
        fitted(source(10, 10), replacement=False, queries=5, episodes=7, shots=(1,))


def test_the_command_runs_on_three_classes_of_four_images_without_an_option(source, tmp_path):
    source(4, 4, 4)
    command = ["bench", str(tmp_path / "data.npz"), "--methods", "prototype", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    (best,) = json.loads(result.stdout)["best"]
    assert (best["ways"], best["shots"]) == (3, 1)
    row = json.loads((tmp_path / "out" / "results.json").read_text())["rows"][0]
    assert (row["queries"], row["episodes"]) == (3, 10_000)
