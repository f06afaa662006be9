"""An open-set benchmark from data to tables: what it writes agrees with its runner, and nothing is done twice."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.testing import assert_allclose
from openset_data import sampler

from fewshot.benchmark import run_openset_suite
from fewshot.benchmark.openset_runner import run_openset_benchmark
from fewshot.benchmark.protocol import Protocol
from fewshot.cli import main
from fewshot.openset import SCORES, Background


@pytest.fixture
def files(data, others, tmp_path):
    np.savez(tmp_path / "toy.npz", vectors=data[0], labels=data[1])
    np.savez(tmp_path / "others.npz", vectors=others[0], labels=others[1])
    return tmp_path


def bench(files, *more, status=0):
    words = [
        "bench",
        files / "toy.npz",
        "--open-set",
        "--ways",
        3,
        "--episodes",
        40,
        "--queries",
        4,
        "--out",
        files / "out",
    ]
    result = CliRunner().invoke(main, [str(word) for word in [*words, *more]])
    assert result.exit_code == status, (result.stdout, result.stderr, result.exception)
    return json.loads(result.stdout) if status == 0 else result.stderr


def test_bench_open_set_writes_what_run_open_set_finds(files, data, others):
    said = bench(files, "--base", files / "others.npz")
    assert said["rows"] == 2 * len(SCORES)
    rows = json.loads((files / "out" / "open-set.json").read_text())["rows"]
    result = run_openset_benchmark(
        list(SCORES),
        data[0],
        sampler(data[1].astype(str), n_shot=5, n_query=4, n_episodes=40),
        background=Background.of(*others),
    )
    five = {row["score"]: row for row in rows if row["shots"] == 5}
    for name, metrics in result.scores.items():
        assert_allclose(five[name]["metrics"]["oscr"], metrics.mean("oscr"))
        assert_allclose(five[name]["gain"], result.paired(name, "softmax"), atol=1e-9)
    best = max(five.values(), key=lambda row: row["metrics"]["auroc"][0])
    assert said["best"][1]["score"] == best["score"]
    table = (files / "out" / "open-set.md").read_text()
    mean, width = best["metrics"]["auroc"]
    assert f"{100 * mean:.2f} ± {100 * width:.2f}" in table.split("3-way 5-shot")[1].split("---: |\n")[1].split("\n")[0]


def test_a_setting_that_is_there_is_not_computed_again_and_another_background_is_another(files):
    without = len(SCORES) - 1  # without a background, no Mahalanobis
    assert bench(files, "--shots", 1)["computed"] == without
    assert bench(files, "--shots", "1,2")["computed"] == without
    assert bench(files, "--shots", 1, "--base", files / "others.npz")["computed"] == len(SCORES)
    again = bench(files, "--shots", 1)
    assert (again["computed"], again["skipped"], again["rows"]) == (0, without, without)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--ways", "7"], "14 classes that an episode needs; there are 12 classes (an open-set episode has as many"),
        (["--methods", "ridge"], "leave --methods out"),
        (["--ways", "various", "--shots", "various"], "open-set episodes have a number of ways"),
    ],
)
def test_open_set_settings_that_make_no_sense_are_refused(files, more, message):
    assert message in " ".join(bench(files, *more, status=2 if "--methods" in more else 1).split())


def test_of_one_episode_no_interval_is_known_and_the_file_is_still_json(files):
    def strictly(name):
        raise AssertionError(f"{name} is no JSON")

    words = ("--shots", 1, "--episodes", 1)
    assert bench(files, *words)["computed"] == len(SCORES) - 1
    rows = json.loads((files / "out" / "open-set.json").read_text(), parse_constant=strictly)["rows"]
    assert rows[0]["metrics"]["auroc"][1] is None
    assert "nan" not in (files / "out" / "open-set.md").read_text()
    assert bench(files, *words)["computed"] == 0


def test_two_data_of_one_name_are_told_apart_by_what_was_given(files, data):
    (files / "other").mkdir()
    np.savez(files / "other" / "toy.npz", vectors=data[0][::-1], labels=data[1])
    bench(files, files / "other" / "toy.npz", "--shots", 1)
    rows = json.loads((files / "out" / "open-set.json").read_text())["rows"]
    assert {row["data"] for row in rows} == {str(files / "toy.npz"), str(files / "other" / "toy.npz")}


def test_a_background_that_names_a_class_that_is_asked_for_is_told(files):
    result = CliRunner().invoke(
        main,
        [str(word) for word in ("bench", files / "toy.npz", "--open-set", "--ways", 3, "--shots", 1, "--episodes", 2,
         "--queries", 4, "--base", files / "toy.npz", "--out", files / "out")],
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert "toy and the background both name a class '0': if it is the same, it is not unknown" in result.stderr


def test_every_row_agrees_with_the_metrics_of_each_episode(files):
    bench(files)
    for row in json.loads((files / "out" / "open-set.json").read_text())["rows"]:
        with np.load(files / "out" / row["file"], allow_pickle=False) as file:
            assert row["accuracy"] == file["accuracies"].mean()
            for name, (mean, _) in row["metrics"].items():
                assert_allclose(mean, file[f"{name}/{row['score']}"].mean())
            gain = file[f"auroc/{row['score']}"] - file["auroc/softmax"]
            assert_allclose(row["gain"], [gain.mean(), 1.96 * gain.std(ddof=1) / np.sqrt(40)], atol=1e-12)


def test_a_score_that_fails_is_listed_and_the_others_go_on(files, monkeypatch):
    def broken(known, query):
        raise TypeError("no such tensor")

    monkeypatch.setitem(SCORES, "energy", replace(SCORES["energy"], formula=broken))
    words = ["bench", files / "toy.npz", "--open-set", "--ways", 3, "--shots", 1, "--episodes", 5, "--queries", 4]
    result = CliRunner().invoke(main, [str(word) for word in [*words, "--out", files / "out"]])
    assert result.exit_code == 1
    said = json.loads(result.stdout)
    setting = "toy, features, 3-way 1-shot"
    assert said["failed"] == [{"setting": setting, "method": "energy", "reason": "TypeError: no such tensor"}]
    assert said["rows"] == len(SCORES) - 2
    rows = json.loads((files / "out" / "open-set.json").read_text())["rows"]
    assert {row["score"] for row in rows} == SCORES.keys() - {"energy", "mahalanobis"}
    monkeypatch.undo()
    assert bench(files, "--shots", 1, "--episodes", 5)["computed"] == 1


def test_an_interrupted_run_keeps_what_was_finished(files, monkeypatch):
    def interrupted(scores, X, sampler, **settings):
        if sampler.n_shot == 2:
            raise KeyboardInterrupt
        return run_openset_benchmark(scores, X, sampler, **settings)

    arguments = {"ways": [3], "shots": [1, 2], "protocol": Protocol(queries=4, episodes=5)}
    with monkeypatch.context() as patched:
        patched.setattr("fewshot.benchmark.openset_suite.run_openset_benchmark", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_openset_suite([str(files / "toy.npz")], files / "out", **arguments)
    assert {row["shots"] for row in json.loads((files / "out" / "open-set.json").read_text())["rows"]} == {1}
    report = run_openset_suite([str(files / "toy.npz")], files / "out", **arguments)
    assert (report.computed, report.skipped) == (len(SCORES) - 1, len(SCORES) - 1)
