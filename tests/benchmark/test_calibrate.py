"""Calibration is fitted to a user's classes, and measured on held-out ones."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from classifier_variants import clouds
from click.testing import CliRunner
from fakes import png

import fewshot.benchmark.calibrate
import fewshot.benchmark.inputs
from fewshot import EpisodeSampler, PrototypeClassifier, WhitenedPrototypeClassifier
from fewshot.benchmark.calibrate import calibration_set, run_calibration
from fewshot.calibration import fit_calibration, read_calibration, shipped_calibration
from fewshot.cli import main


def test_the_command_fits_one_half_of_the_classes_measures_the_other_and_writes_table_and_picture(tmp_path):
    pytest.importorskip("matplotlib")
    X, y = clouds(10, 12, noise=1.0)
    np.savez(tmp_path / "data.npz", vectors=X, labels=y.astype(str))
    out, picture = tmp_path / "calibration.json", tmp_path / "reliability.png"
    command = ["calibrate", str(tmp_path / "data.npz"), "--out", str(out), "--picture", str(picture)]
    few = ["--queries", "5", "--episodes", "20", "--methods", "prototype,nearest"]
    result = CliRunner().invoke(main, [*command, *few])
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert (answer["fit_classes"], answer["test_classes"]) == (5, 5)
    assert [(row["method"], row["shots"]) for row in answer["rows"]] == [
        ("prototype", 1), ("prototype", 5), ("nearest", 1), ("nearest", 5)
    ]  # fmt: skip
    table = read_calibration(out)
    assert set(table) == {"PrototypeClassifier", "NearestNeighborClassifier"}
    assert picture.read_bytes().startswith(b"\x89PNG")
    clf = PrototypeClassifier().fit(X[::12], y[::12])
    assert np.abs(clf.predict_proba(X, table) - clf.predict_proba(X)).max() > 1e-3


def test_classes_too_few_for_two_halves_are_refused_naming_the_data_and_the_need(tmp_path):
    X, y = clouds(6, 12)
    np.savez(tmp_path / "data.npz", vectors=X, labels=y.astype(str))
    result = CliRunner().invoke(main, ["calibrate", str(tmp_path / "data.npz"), "--out", str(tmp_path / "t.json")])
    assert result.exit_code == 1
    assert "half of the classes of data, 5-way 1-shot: " in result.output
    assert "Give at least 10 classes of 6 examples" in result.output
    assert len(result.output.splitlines()) == 1
    assert not (tmp_path / "t.json").exists()


def test_the_rows_measure_a_fit_to_one_half_and_the_table_is_a_fit_to_all(tmp_path):
    X, y = clouds(10, 12, noise=2.0)
    y = y.astype(str)
    np.savez(tmp_path / "data.npz", vectors=X, labels=y)
    report = run_calibration(str(tmp_path / "data.npz"), queries=5, episodes=4, cache=str(tmp_path / "v"))
    first = np.isin(y, np.random.default_rng(0).permutation(sorted(set(y)))[:5])
    clf = WhitenedPrototypeClassifier()

    def sampler(part, shots):
        return EpisodeSampler(y[part], n_way=5, n_shot=shots, n_query=5, n_episodes=4, random_state=0)

    def fitted(part):
        sets = [calibration_set(clf, X[part], sampler(part, shots)) for shots in (1, 2, 5)]
        return {"WhitenedPrototypeClassifier": fit_calibration(sets, clf.calibration_params(shipped_calibration()))}

    assert report.table == fitted(np.full(120, True))
    row = report.rows[1]
    assert (report.fit_classes, report.test_classes, row.ways, row.shots) == (5, 5, 5, 5)
    for table, measured in ((shipped_calibration(), row.before), (fitted(first), row.after)):
        losses = []
        for chunk in sampler(~first, 5):
            for n in range(len(chunk)):
                clf.fit(X[~first][chunk.support[n]], chunk.support_labels[n])
                shares = clf.predict_proba(X[~first][chunk.query[n]], table)
                losses.append(-np.log(shares[np.arange(25), chunk.query_labels[n]]))
        assert measured.nll == pytest.approx(np.mean(losses), rel=1e-3)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (10, "under 20 classes: fitted to and measured on 5 ways only"),
        (20, "under 40 classes: fitted to 20 ways, too, but measured on 5 only"),
    ],
)
def test_a_note_says_what_few_classes_leave_unfitted_or_unmeasured(tmp_path, classes, message):
    X, y = clouds(classes, 7)
    np.savez(tmp_path / "data.npz", vectors=X, labels=y.astype(str))
    notes = []
    report = run_calibration(
        str(tmp_path / "data.npz"), queries=2, episodes=2, cache=str(tmp_path / "v"), note=notes.append
    )
    assert notes[0] == message
    assert {row.ways for row in report.rows} == {5}


def test_queries_that_fit_the_smallest_class_are_chosen_and_said(tmp_path):
    X, y = clouds(10, 9)
    np.savez(tmp_path / "data.npz", vectors=X[1:], labels=y[1:].astype(str))
    notes = []
    run_calibration(str(tmp_path / "data.npz"), episodes=2, cache=str(tmp_path / "v"), note=notes.append)
    assert notes[0].startswith("chosen to fit the data: --queries 3; the smallest class, '0' of data, has 8 examples")


def test_images_are_embedded_by_pocket_and_too_few_are_refused_before(tmp_path, monkeypatch):
    asked = []

    def load(name, **_):
        asked.append(name)
        raise KeyboardInterrupt  # far enough

    monkeypatch.setattr(fewshot.benchmark.inputs, "load_encoder", load)
    for label in range(10):
        (tmp_path / "images" / str(label)).mkdir(parents=True)
        for n in range(6):
            (tmp_path / "images" / str(label) / f"{n}.png").write_bytes(png((label, n, 0)))
    few = tmp_path / "images" / "0" / "5.png"
    with pytest.raises(KeyboardInterrupt):
        run_calibration(str(tmp_path / "images"), cache=str(tmp_path / "v"))
    assert asked == ["pocket"]
    few.unlink()
    with pytest.raises(ValueError, match=r"class '0' has 5 examples, but an episode may need --shots . --queries = 6"):
        run_calibration(str(tmp_path / "images"), cache=str(tmp_path / "v"))
    assert asked == ["pocket"]


def test_methods_that_take_minutes_are_announced_after_the_first(tmp_path, monkeypatch):
    X, y = clouds(10, 8)
    np.savez(tmp_path / "data.npz", vectors=X, labels=y.astype(str))
    clock = itertools.count(0.0, 70.0)
    monkeypatch.setattr(fewshot.benchmark.calibrate.time, "perf_counter", lambda: next(clock))
    notes = []
    methods = ("prototype", "nearest", "ridge")
    run_calibration(str(tmp_path / "data.npz"), methods=methods, episodes=2, cache="-", note=notes.append)
    announced = [n for n, note in enumerate(notes) if "about" in note]
    assert notes[announced[0]] == "2 more methods: about 2 min; fewer --methods or --episodes take less"
    assert [note.partition(",")[0] for note in notes[announced[0] - 1 : announced[0] + 2 : 2]] == [
        "prototype",
        "nearest",
    ]
    assert len(announced) == 1
