"""A benchmark from data to tables: what it writes agrees with itself, and nothing is done twice."""

from __future__ import annotations

import io
import json
import re
import zipfile

import numpy as np
import pytest
from classifier_variants import CLASSES
from click.testing import CliRunner
from fakes import FakeEncoder, png
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from sklearn.neighbors import NearestCentroid

import fewshot.benchmark.inputs
import fewshot.benchmark.methods
import fewshot.benchmark.suite
from fewshot import (
    DistributionCalibrationClassifier,
    EpisodeSampler,
    PrototypeClassifier,
    RidgeClassifier,
    SimpleShotClassifier,
    run_benchmark,
)
from fewshot.benchmark.methods import METHODS, Method, describe_classifier, select_methods
from fewshot.benchmark.protocol import Protocol
from fewshot.benchmark.result_files import MethodRow, ResultFile
from fewshot.benchmark.suite import run_suite
from fewshot.benchmark.tables import leaders
from fewshot.cli import main
from fewshot.vectors import feature_files
from fewshot.vectors.feature_files import Exported

SMALL = Protocol(queries=4, episodes=40, seed=3)


def toy(path, *, classes=8, each=12, noise=1.0, seed=0, **more):
    """Gaussian classes as a feature file; labels are numbers, as many a researcher's are."""
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(classes), each)
    X = rng.normal(size=(classes, 10))[y] + noise * rng.normal(size=(len(y), 10))
    np.savez(path, vectors=X.astype(np.float32), labels=y, **more)
    return str(path)


@pytest.fixture
def data(tmp_path):
    return toy(tmp_path / "toy.npz")


@pytest.fixture
def drawn():
    """Ask for it where pictures are to be drawn, which takes a second."""


@pytest.fixture(autouse=True)
def _quick(request, monkeypatch):
    if "drawn" not in request.fixturenames:
        monkeypatch.setattr(fewshot.benchmark.suite, "draw_accuracy", lambda *_: ())


@pytest.fixture
def runs(monkeypatch):
    """The methods that were really run, in order."""
    ran = []
    real = fewshot.benchmark.suite.run_benchmark

    def counting(classifiers, *args, **kwargs):
        ran.extend(classifiers)
        return real(classifiers, *args, **kwargs)

    monkeypatch.setattr(fewshot.benchmark.suite, "run_benchmark", counting)
    return ran


def call(*args, status=0):
    result = CliRunner().invoke(main, ["bench", *map(str, args)])
    assert result.exit_code == status, (result.stdout, result.stderr, result.exception)
    return result


def test_the_command_writes_rows_that_agree_with_every_single_answer(data, tmp_path):
    out = tmp_path / "deep" / "results"
    result = call(data, "--methods", "prototype-euclidean,ridge,soft-k-means", "--ways", "3,5", "--shots", "1,2",
                  "--queries", 4, "--episodes", 40, "--seed", 3, "--out", out)  # fmt: skip
    (line,) = result.stdout.splitlines()
    answer = json.loads(line)
    assert (answer["out"], answer["rows"], answer["computed"], answer["skipped"]) == (str(out), 12, 12, 0)
    written = json.loads((out / "results.json").read_text())
    assert written["versions"]["fewshot"] == fewshot.__version__
    rows = written["rows"]
    assert [(r["ways"], r["shots"]) for r in rows[::3]] == [(3, 1), (3, 2), (5, 1), (5, 2)]
    assert {(r["method"], r["transductive"]) for r in rows} == {
        ("prototype-euclidean", False), ("ridge", False), ("soft-k-means", True),
    }  # fmt: skip
    for row in rows:
        assert (row["data"], row["queries"], row["episodes"], row["seed"], row["flag"]) == ("toy", 4, 40, 3, None)
        assert row["seconds"] > 0
        with np.load(out / row["file"], allow_pickle=False) as file:
            assert all(file[name].dtype.kind != "O" for name in file)
            accuracies = file[f"accuracies/{row['method']}"]
            right = file[f"predicted/{row['method']}"] == file["true"]
        assert row["accuracy"] == accuracies.mean()
        assert_allclose(row["ci95"], 1.96 * accuracies.std(ddof=1) / np.sqrt(40))
        # eight classes of twelve pictures: two hands each of 1 + 4 or 2 + 4
        assert row["disjoint_episodes"] == {3: 5, 5: 3}[row["ways"]]
        assert row["ci95_disjoint"] > 0
        assert_allclose(right.mean(axis=1), accuracies)
    best = {(b["ways"], b["shots"], b["transductive"]): b["method"] for b in answer["best"]}
    assert len(best) == 8
    for (ways, shots, transductive), method in best.items():
        some = [r for r in rows if (r["ways"], r["shots"], r["transductive"]) == (ways, shots, transductive)]
        assert method == max(some, key=lambda r: r["accuracy"])["method"]


def test_predictions_are_those_of_scikit_learn_on_the_named_pictures(tmp_path):
    files = np.array([f"picture-{n}.jpg" for n in range(96)])
    path = toy(tmp_path / "toy.npz", sources=files)
    report = run_suite([path], tmp_path / "out", methods=["prototype-euclidean"], shots=[2], protocol=SMALL)
    answers = ResultFile(tmp_path / "out" / report.rows[0].file, MethodRow).predictions("prototype-euclidean")
    with np.load(path) as file:
        X, y = file["vectors"], file["labels"]
    (some,) = EpisodeSampler(y, n_way=5, n_shot=2, n_query=4, n_episodes=40, random_state=3)
    fitted = NearestCentroid().fit(X[some.support[7]], y[some.support[7]])
    mine = answers.episode == 7
    assert_array_equal(answers.file[mine], files[some.query[7]])
    assert_array_equal(answers.true[mine], y[some.query[7]].astype(str))
    assert_array_equal(answers.predicted[mine], fitted.predict(X[some.query[7]]).astype(str))


def test_running_again_computes_only_what_is_missing_and_says_so(data, tmp_path, runs):
    first = call(data, "--methods", "ridge", "--shots", 1, "--queries", 4, "--episodes", 9, "--out", tmp_path / "out")
    assert "skipped" not in first.stderr
    again = call(
        data, "--methods", "ridge,cache", "--shots", 1, "--queries", 4, "--episodes", 9, "--out", tmp_path / "out"
    )
    assert runs == ["ridge", "cache"]
    assert "already there, skipped: toy, features, 5-way 1-shot: ridge\n" in again.stderr
    answer = json.loads(again.stdout)
    assert (answer["rows"], answer["computed"], answer["skipped"]) == (2, 1, 1)
    methods = [row["method"] for row in json.loads((tmp_path / "out" / "results.json").read_text())["rows"]]
    assert sorted(methods) == ["cache", "ridge"]


@pytest.mark.parametrize(
    ("seconds", "said"), [(1e-3, []), (0.5, ["toy, features, 5-way 1-shot: 2 x 640 episodes: about 11 min"])]
)
def test_methods_that_take_minutes_are_announced_before_they_begin(data, tmp_path, monkeypatch, seconds, said):
    real = fewshot.benchmark.suite._results

    def slow(features, classifiers, device, sampler, names):
        found = real(features, classifiers, device, sampler, names)
        return {
            name: result._replace(fields={**result.fields, "seconds": 3.0 + seconds * len(sampler)})
            for name, result in found.items()
        }

    monkeypatch.setattr(fewshot.benchmark.suite, "_results", slow)
    notes = []
    run_suite([data], tmp_path / "out", methods=["prototype", "ridge"], shots=[1],
              protocol=Protocol(queries=4, episodes=640), note=notes.append)  # fmt: skip
    announced = [note.partition(";")[0] for note in notes if "about" in note]
    assert announced == said
    if said:
        assert "about" in notes[notes.index(next(note for note in notes if "prototype:" in note)) - 1]


def test_whatever_the_numbers_depend_on_is_computed_anew(data, tmp_path, runs):
    def bench(source=data, methods=("simpleshot",), **more):
        protocol = more.pop("protocol", SMALL)
        return run_suite([source], tmp_path / "out", methods=methods, shots=[1], protocol=protocol, **more)

    bench()
    bench(toy(tmp_path / "renamed.npz"))  # the same vectors and labels
    assert len(runs) == 1
    bench(toy(tmp_path / "toy.npz", seed=1))
    bench(protocol=Protocol(queries=4, episodes=40, seed=4))
    bench(protocol=Protocol(queries=3, episodes=40, seed=3))
    bench(ways=[4])
    bench(base=toy(tmp_path / "base.npz", seed=5))
    bench(base=toy(tmp_path / "base.npz", seed=6))
    assert len(runs) == 7


def test_an_interrupted_run_keeps_what_was_finished(data, tmp_path, monkeypatch, runs):
    real = fewshot.benchmark.suite.run_benchmark

    def interrupted(classifiers, *args, **kwargs):
        if "cache" in classifiers:
            raise KeyboardInterrupt
        return real(classifiers, *args, **kwargs)

    arguments = {"methods": ["ridge", "cache", "matching"], "shots": [1], "protocol": SMALL}
    with monkeypatch.context() as patched:
        patched.setattr(fewshot.benchmark.suite, "run_benchmark", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_suite([data], tmp_path / "out", **arguments)
    assert [row["method"] for row in json.loads((tmp_path / "out" / "results.json").read_text())["rows"]] == ["ridge"]
    assert not list((tmp_path / "out").rglob("*.part"))
    report = run_suite([data], tmp_path / "out", **arguments)
    assert runs == ["ridge", "cache", "matching"]
    assert (report.computed, report.skipped) == (2, 1)


def test_a_method_run_anew_takes_its_former_place_beside_the_others(data, tmp_path):
    def bench(**more):
        return run_suite(
            [data], tmp_path / "out", methods=["simpleshot", "ridge"], shots=[1], protocol=SMALL, **more
        ).rows

    before, after = bench(), bench(base=toy(tmp_path / "base.npz", seed=5))
    assert before[0].accuracy != after[0].accuracy
    assert before[1] == after[1]
    with zipfile.ZipFile(tmp_path / "out" / after[0].file) as archive:
        assert len(archive.namelist()) == len(set(archive.namelist())) == 4 + 2 * 3
    with np.load(tmp_path / "out" / after[0].file) as file:
        assert file["accuracies/simpleshot"].mean() == after[0].accuracy


def test_the_base_gives_simpleshot_its_centre(data, tmp_path):
    base = toy(tmp_path / "base.npz", seed=5)
    (row,) = run_suite([data], tmp_path / "out", methods=["simpleshot"], shots=[1], protocol=SMALL, base=base).rows
    with np.load(base) as file, np.load(data) as asked:
        center, X, y = file["vectors"].mean(axis=0), asked["vectors"], asked["labels"]
    (some,) = EpisodeSampler(y, n_way=5, n_shot=1, n_query=4, n_episodes=40, random_state=3)
    shares = [
        np.mean(SimpleShotClassifier(center=center).fit(X[s], y[s]).predict(X[q]) == y[q])
        for s, q in zip(some.support, some.query, strict=True)
    ]
    assert_allclose(row.accuracy, np.mean(shares))


CALIBRATION = "distribution-calibration"


def test_the_base_gives_distribution_calibration_its_classes_without_what_has_no_label(data, tmp_path):
    with np.load(toy(tmp_path / "base.npz", seed=5, classes=4)) as file:
        vectors, labels = file["vectors"], file["labels"].astype(str)
    known = labels != "3"
    np.savez(tmp_path / "partly.npz", vectors=vectors, labels=np.where(known, labels, ""))
    arguments = {"methods": [CALIBRATION], "shots": [1], "protocol": Protocol(queries=4, episodes=3)}
    for name, some in (("base", slice(None)), ("partly", known)):
        (row,) = run_suite([data], tmp_path / "out", base=str(tmp_path / f"{name}.npz"), **arguments).rows
        made = DistributionCalibrationClassifier(base=vectors[some], base_labels=labels[some].astype("<U1"))
        assert row.classifier == describe_classifier(made)


def test_a_base_that_names_the_same_classes_is_warned_of(data, tmp_path):
    arguments = [data, "--methods", "simpleshot", "--queries", 4, "--episodes", 3, "--out", tmp_path / "out"]
    warning = "toy and the base both name a class '0': if it is the same, the figures are optimistic\n"
    assert warning in call(*arguments, "--base", data).stderr
    with np.load(data) as file:
        np.savez(tmp_path / "other.npz", vectors=file["vectors"], labels=file["labels"] + 100)
    assert "both name" not in call(*arguments, "--base", tmp_path / "other.npz").stderr


def test_what_needs_base_classes_is_in_all_only_where_there_are_some(data, tmp_path, runs, monkeypatch):
    names = (CALIBRATION, "simpleshot", "ridge")
    monkeypatch.setattr(fewshot.benchmark.methods, "METHODS", {name: METHODS[name] for name in names})
    with np.load(toy(tmp_path / "base.npz", seed=5)) as file:
        np.savez(tmp_path / "unlabelled.npz", vectors=file["vectors"])
    arguments = [data, "--shots", 1, "--queries", 4, "--episodes", 3, "--out", tmp_path / "out"]
    for base in ([], ["--base", tmp_path / "unlabelled.npz"]):
        result = call(*arguments, *base)
        assert f"left out, for it learns from base data with labels (--base): {CALIBRATION}\n" in result.stderr
    assert CALIBRATION not in runs
    assert "left out" not in call(*arguments, "--base", tmp_path / "base.npz").stderr
    assert CALIBRATION in runs


@pytest.mark.parametrize("base", [None, "bare"])
def test_asked_for_by_name_without_base_classes_it_is_refused_before_anything_is_embedded(
    colours, fakes, tmp_path, base
):
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "0.png").write_bytes(png((9, 9, 9), 4))
    more = [] if base is None else ["--base", tmp_path / base]
    result = call(colours, "--encoder", "mean", "--methods", CALIBRATION, *more, "--out", tmp_path / "out", status=1)
    assert f"{CALIBRATION} learns from base data with labels; give some of other classes with --base" in result.stderr
    assert fakes["mean"].encoded == 0


def test_a_base_of_pictures_has_the_labels_of_its_folders(colours, fakes, tmp_path):
    report = run_suite([str(colours)], tmp_path / "out", encoders=["mean"], methods=[CALIBRATION], ways=[3], shots=[1],
                       protocol=Protocol(queries=3, episodes=2), base=str(colours))  # fmt: skip
    paths = sorted(colours.rglob("*.png"))
    vectors, labels = fakes["mean"].encode(list(map(str, paths))), [path.parent.name for path in paths]
    made = DistributionCalibrationClassifier(base=vectors, base_labels=np.array(labels))
    assert [row.classifier for row in report.rows] == [describe_classifier(made)]


def cells(markdown):
    lines = [line for line in markdown.splitlines() if line.startswith("| ")]
    return {line.split(" | ")[0].strip("| "): line.split(" | ")[1].strip("| ") for line in lines}


def test_bold_are_the_best_and_those_not_significantly_worse(data, tmp_path):
    methods = ["prototype", "prototype-euclidean", "ridge", "nearest", "cosine-head", "mahalanobis"]
    protocol = Protocol(queries=4, episodes=150)
    report = run_suite([data], tmp_path / "out", methods=methods, shots=[3], protocol=protocol)
    accuracies = ResultFile(tmp_path / "out" / report.rows[0].file, MethodRow).arrays("accuracies")
    best = max(accuracies.values(), key=np.mean)
    expected = set()
    for name, values in accuracies.items():
        difference = best - values
        if difference.mean() <= 1.96 * difference.std(ddof=1) / np.sqrt(150):
            expected.add(name)
    assert 1 <= len(expected) < len(methods)  # else the next line says little
    found = cells((tmp_path / "out" / "results.md").read_text())
    assert {name for name, cell in found.items() if cell.startswith("**")} == expected
    row = report.rows[0]
    assert found["prototype"].strip("*") == f"{100 * row.accuracy:.2f} ± {100 * row.ci95:.2f}"


def test_leaders_by_hand():
    rng = np.random.default_rng(0)
    good = rng.random(100)
    # always 0.1 below: significant, though the two intervals overlap; noise around it: not
    assert leaders({"good": good, "below": good - 0.1}) == {"good"}
    noisy = good + np.where(np.arange(100) % 2, 0.5, -0.51)
    assert leaders({"good": good, "noisy": noisy, "below": good - 0.1}) == {"good", "noisy"}
    assert leaders({"good": good, "noisy": noisy}) == set()
    assert leaders({"good": good}) == set()
    assert leaders({}) == set()


def test_the_interval_of_new_images_is_shown_where_there_is_one(tmp_path):
    arguments = {"methods": ["ridge"], "ways": [3], "shots": [1]}
    (row,) = run_suite([toy(tmp_path / "toy.npz")], tmp_path / "both", protocol=SMALL, **arguments).rows
    with np.load(tmp_path / "toy.npz") as file:
        X, y = file["vectors"], file["labels"]
    apart = EpisodeSampler(y, n_way=3, n_shot=1, n_query=4, n_episodes=5, replacement=False, random_state=3)
    expected = run_benchmark([RidgeClassifier()], X, apart)["RidgeClassifier()"].ci95
    assert (row.disjoint_episodes, row.ci95_disjoint) == (5, expected)
    text = (tmp_path / "both" / "results.md").read_text()
    assert f" ± {100 * row.ci95:.2f} ({100 * row.ci95_disjoint:.2f}) |" in text
    assert "it is from 5 episodes no two of which share an image" in text

    few = toy(tmp_path / "few.npz", classes=3, each=8)
    for protocol, words in (
        (SMALL, "for new images it is too narrow"),
        (Protocol(2, 2, 0, replacement=False), "No two episodes share an image"),
    ):
        out = tmp_path / str(protocol.queries)
        (row,) = run_suite([few], out, protocol=protocol, **arguments).rows
        text = (out / "results.md").read_text()
        assert f" ± {100 * row.ci95:.2f} |" in text
        assert words in text
        (written,) = json.loads((out / "results.json").read_text())["rows"]
        if protocol.replacement:
            assert (written["ci95_disjoint"], written["disjoint_episodes"]) == (None, 0)
        else:
            assert (written["ci95_disjoint"], written["disjoint_episodes"]) == (row.ci95, 2)


def test_a_folder_of_a_version_without_that_interval_is_refused_by_name(data, tmp_path):
    arguments = [data, "--methods", "ridge", "--shots", 1, "--queries", 4, "--episodes", 5, "--out", tmp_path / "out"]
    call(*arguments)
    (path,) = (tmp_path / "out" / "episodes").iterdir()
    with np.load(path) as file:
        arrays = dict(file)
    row = json.loads(str(arrays["row/ridge"]))
    del row["ci95_disjoint"]
    np.savez(path, **{**arrays, "row/ridge": np.array(json.dumps(row))})
    (line,) = call(*arguments, status=1).stderr.splitlines()
    assert re.search(r"another version's \(.*'ci95_disjoint'\); delete it, or choose another --out", line)


@pytest.fixture
def colours(tmp_path):
    """Four classes of eight pictures each, of colours that the mean tells apart with some mistakes."""
    rng = np.random.default_rng(0)
    for label, colour in {
        "red": (200, 60, 60),
        "green": (60, 200, 60),
        "blue": (60, 60, 200),
        "grey": (110,) * 3,
    }.items():
        (tmp_path / "colours" / label).mkdir(parents=True)
        for n in range(8):
            noisy = np.clip(np.array(colour) + rng.integers(-50, 50, 3), 0, 255).tolist()
            (tmp_path / "colours" / label / f"{n}.png").write_bytes(png(noisy, 4 + n))
    (tmp_path / "colours" / "notes.txt").write_text("")
    return tmp_path / "colours"


@pytest.fixture
def fakes(monkeypatch):
    """Encoders by name: "mean" and "double" are fakes."""
    made = {"mean": FakeEncoder(name="mean"), "double": FakeEncoder(times=2.0, more=1, name="double")}
    monkeypatch.setattr(fewshot.benchmark.inputs, "load_encoder", lambda name, **_: made[name])
    return made


def test_pictures_are_embedded_by_each_encoder_once(colours, fakes, tmp_path, monkeypatch):
    monkeypatch.setattr(
        fewshot.benchmark.inputs,
        "training_overlap",
        lambda name, _: "double has seen these classes" if name == "double" else None,
    )
    arguments = [colours, "--encoder", "mean", "--encoder", "double", "--methods", "prototype,nearest", "--ways", 3,
                 "--shots", "1,2", "--queries", 3, "--episodes", 20, "--out", tmp_path / "out"]  # fmt: skip
    first = call(*arguments)
    assert "colours: ignored, no image of a class: 1, as " in first.stderr
    assert "notes.txt" in first.stderr
    assert [fake.encoded for fake in fakes.values()] == [32, 32]
    assert json.loads(call(*arguments).stdout)["skipped"] == 8
    call(*arguments[:-1], tmp_path / "other", "--cache", tmp_path / "out" / "vectors.sqlite")
    assert [fake.encoded for fake in fakes.values()] == [32, 32]
    rows = json.loads((tmp_path / "out" / "results.json").read_text())["rows"]
    assert {(r["encoder"], r["encoder_fingerprint"], r["flag"]) for r in rows} == {
        ("mean", fakes["mean"].fingerprint, None),
        ("double", fakes["double"].fingerprint, "double has seen these classes"),
    }
    answers = ResultFile(tmp_path / "out" / rows[0]["file"], MethodRow).predictions("prototype")
    assert all(f"/{label}/" in file for label, file in zip(answers.true, answers.file, strict=True))
    text = (tmp_path / "out" / "results.md").read_text()
    flagged, plain = re.findall(r"^## .*?(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert flagged.startswith("## colours, double †")
    assert "3-way 1-shot †" in flagged
    assert "† double has seen these classes" in flagged
    assert "†" not in plain


def test_unlabelled_pictures_serve_as_a_base(colours, fakes, tmp_path):
    (tmp_path / "base").mkdir()
    for n in range(3):
        (tmp_path / "base" / f"{n}.png").write_bytes(png((30 * n, 60, 90), 4))
    (row,) = run_suite([str(colours)], tmp_path / "out", encoders=["mean"], methods=["simpleshot"], ways=[3], shots=[1],
                       protocol=SMALL, base=str(tmp_path / "base")).rows  # fmt: skip
    center = np.array([30, 60, 90], np.float32) / 255
    assert row.classifier == describe_classifier(SimpleShotClassifier(center=center.astype(np.float32)))


@pytest.mark.filterwarnings("error")
def test_the_pictures_open_and_are_not_blank(drawn, data, tmp_path):
    run_suite([data], tmp_path / "out", methods=["ridge", "soft-k-means"], ways=[3, 5], protocol=SMALL)
    for name in ("accuracy_by_shots.png", "accuracy_by_time.png"):
        with Image.open(io.BytesIO((tmp_path / "out" / name).read_bytes())) as picture:
            assert picture.format == "PNG"
            assert min(picture.size) > 300
            assert len(picture.convert("RGB").getcolors(2**20)) > 50


def test_without_matplotlib_a_line_says_so_before_any_work_and_there_are_tables(drawn, data, tmp_path, monkeypatch):
    monkeypatch.setattr("fewshot.validation.find_spec", {}.get)
    arguments = [data, "--methods", "ridge", "--shots", 1, "--queries", 4, "--episodes", 5, "--out", tmp_path / "out"]
    result = call(*arguments)
    first, second = result.stderr.splitlines()
    assert first == "no plots: plots need matplotlib: pip install 'fewshot[plot]'"
    assert second.startswith("toy, features, 5-way 1-shot: ridge: ")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["episodes", "results.json", "results.md"]


def test_protocols_other_than_the_plain_one(tmp_path):
    path = toy(tmp_path / "toy.npz", groups=np.repeat(["a", "b"], 48))
    arguments = {"methods": ["ridge"], "ways": [3], "shots": [1]}
    for protocol, words in [
        (Protocol(2, 6, 0, query_imbalance=2.0), "imbalanced queries (Dirichlet 2)"),
        (Protocol(2, 6, 0, replacement=False), "no image in two episodes"),
        (Protocol(2, 6, 0, within_groups=True), "classes of one group"),
    ]:
        (row,) = run_suite([path], tmp_path / "out", protocol=protocol, **arguments).rows
        assert words in row.protocol
        assert words in (tmp_path / "out" / "results.md").read_text()
        answers = ResultFile(tmp_path / "out" / row.file, MethodRow).predictions("ridge")
        if protocol.within_groups:
            for n in range(6):
                assert len({int(label) // 4 for label in answers.true[answers.episode == n]}) == 1
        if not protocol.replacement:
            assert len(set(answers.file.tolist())) == len(answers.file)


def test_various_episodes_are_kept_without_their_padding(tmp_path):
    path = toy(tmp_path / "toy.npz", classes=9)
    (row,) = run_suite(
        [path], tmp_path / "out", methods=["prototype"], ways=["various"], shots=["various"], protocol=SMALL
    ).rows
    file = ResultFile(tmp_path / "out" / row.file, MethodRow)
    answers, accuracies = file.predictions("prototype"), file.arrays("accuracies")["prototype"]
    right = answers.predicted == answers.true
    assert_allclose([right[answers.episode == n].mean() for n in range(40)], accuracies)
    assert len(set(np.bincount(answers.episode).tolist())) > 1


def test_various_ways_go_with_each_number_of_shots_and_the_reverse(tmp_path):
    path = toy(tmp_path / "toy.npz", classes=9)
    settings = {"ways": ["various", 5], "shots": [1, "various"]}
    report = run_suite([path], tmp_path / "out", methods=["prototype"], **settings, protocol=SMALL)
    found = {(row.ways, row.shots) for row in report.rows}
    assert found == {("various", 1), ("various", "various"), (5, 1), (5, "various")}


def test_a_method_that_refuses_is_listed_and_the_others_go_on(data, tmp_path, monkeypatch):
    monkeypatch.setitem(METHODS, "broken", Method(PrototypeClassifier, {"metric": "manhattan"}))
    result = call(data, "--methods", "broken,ridge", "--shots", 1, "--queries", 4, "--episodes", 5,
                  "--out", tmp_path / "out", status=1)  # fmt: skip
    answer = json.loads(result.stdout)
    assert answer["rows"] == 1
    (failed,) = answer["failed"]
    assert (failed["setting"], failed["method"]) == ("toy, features, 5-way 1-shot", "broken")
    assert "not 'manhattan'" in failed["reason"]
    assert "failed: toy, features, 5-way 1-shot: broken: metric must be one of" in result.stderr


class _Broken(PrototypeClassifier):
    """A method with a mistake that no one foresaw."""

    def _learn(self, support, membership):
        raise KeyError("support")


def test_whatever_error_a_method_raises_the_others_go_on(data, tmp_path, monkeypatch):
    monkeypatch.setitem(METHODS, "broken", Method(_Broken))
    report = run_suite([data], tmp_path / "out", methods=["broken", "ridge"], ways=[3, 5], shots=[1], protocol=SMALL)
    assert [(row.ways, row.method) for row in report.rows] == [(3, "ridge"), (5, "ridge")]
    failures = [(failure.setting, failure.method, failure.reason) for failure in report.failed]
    assert failures == [(f"toy, features, {ways}-way 1-shot", "broken", "KeyError: 'support'") for ways in (3, 5)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{data}", "--methods", "rigde"], "no method is called 'rigde' (did you mean ridge?); there are prototype,"),
        (
            ["{data}", "--queries", "12"],
            "toy, 5-way 1-shot: class '0' has 12 examples, but an episode may need --shots + --queries = 13",
        ),
        (["{data}", "--ways", "9", "--queries", "3"], "toy, 9-way 1-shot: no group has the 9 classes"),
        (["{data}", "--within-groups", "--queries", "3"], "toy has no groups"),
        (
            ["{data}", "--ways", "various", "--query-imbalance", "2", "--queries", "3"],
            "neither --query-imbalance nor --no-replacement",
        ),
        (["{colours}", "--ways", "3", "--queries", "3"], "colours holds images, which need an encoder"),
        (["{none}"], "no such file"),
        (["{data}", "--queries", "3", "--out", "{a_file}"], "results cannot be written to"),
        (["{data}", "--device", "cuda:99"], "device 'cuda:99' cannot be used here ("),
        (["{unlabelled}"], "holds no labels"),
        (["{partly}"], "partly.npz: vector 1 of 3 has no label; a benchmark needs one for each vector"),
        (["{flat}"], "is not a feature file (its vectors have the shape (3,), not (n, d))"),
        (["{objects}"], "is not a feature file (Object arrays cannot be loaded"),
        (["{ragged}"], "is not a feature file (it holds 4 vectors but labels of shape (3,))"),
        (["{data}", "--queries", "3", "--base", "{narrow}"], "(d=3, unknown), but toy those of features (d=10,"),
        (["{data}", "--queries", "3", "--base", "{colours}"], "toy is a feature file, so its base must be one too"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(arguments, message, data, colours, tmp_path):
    np.savez(tmp_path / "unlabelled.npz", vectors=np.ones((4, 3), np.float32))
    np.savez(tmp_path / "narrow.npz", vectors=np.ones((4, 3), np.float32))
    np.savez(tmp_path / "objects.npz", vectors=np.ones((1, 3)), labels=np.array([{}], object))
    np.savez(tmp_path / "ragged.npz", vectors=np.ones((4, 3)), labels=["a", "b", "c"])
    np.savez(tmp_path / "partly.npz", vectors=np.ones((3, 2)), labels=[1.0, np.nan, 2.0])
    np.savez(tmp_path / "flat.npz", vectors=np.ones(3), labels=["a", "b", "c"])
    names = ("none", "unlabelled", "narrow", "objects", "ragged", "partly", "flat")
    places = {name: tmp_path / f"{name}.npz" for name in names}
    (tmp_path / "file").write_text("")
    given = [text.format(data=data, colours=colours, a_file=tmp_path / "file", **places) for text in arguments]
    if "--methods" not in given:
        given += ["--methods", "simpleshot"]
    if "--out" not in given:
        given += ["--out", str(tmp_path / "out")]
    result = call(*given, "--episodes", 5, status=1)
    assert result.stdout == ""
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1 or "--base" in given


def test_a_wrong_number_is_wrong_usage(data, tmp_path):
    assert (
        "'0' is neither a whole number above 0 nor 'various'"
        in call(data, "--ways", "5,0", "--out", tmp_path / "out", status=2).stderr
    )


def test_an_export_as_parquet_is_read_as_its_npz(data, tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    with np.load(data) as file:
        X, y = file["vectors"], file["labels"]
    table = pyarrow.table({"label": y.astype(str), "vector": pyarrow.array(list(X))})
    parquet.write_table(table, tmp_path / "other.parquet")
    arguments = {"methods": ["ridge"], "shots": [1], "protocol": SMALL}
    (first,) = run_suite([data], tmp_path / "out", **arguments).rows
    report = run_suite([str(tmp_path / "other.parquet")], tmp_path / "out", **arguments)
    assert report.skipped == 1
    assert report.rows == (first,)


@pytest.mark.parametrize(("vectors", "lengths"), [([[1.0], [2.0, 3.0, 4.0]], "1, 3"), ([[1.0, 2.0], None], "2, None")])
def test_parquet_vectors_of_several_lengths_are_refused_and_not_cut_anew(vectors, lengths, tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"vectors": vectors, "labels": ["a", "b"]}), tmp_path / "odd.parquet")
    with pytest.raises(ValueError, match=f"its vectors have several lengths: {lengths}"):
        feature_files.read_features(tmp_path / "odd.parquet")


def test_a_missing_label_of_parquet_is_none_of_the_base_classes(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table({"vectors": [[1.0, 2.0], [3.0, 4.0]], "labels": [None, "a"]})
    parquet.write_table(table, tmp_path / "base.parquet")
    assert fewshot.benchmark.inputs.open_base(str(tmp_path / "base.parquet")).labels == ("", "a")


def test_every_name_makes_its_method_and_the_groups_part_them():
    assert set(select_methods(["all"])) == set(METHODS) == set(select_methods(["inductive", "transductive"]))
    assert not set(select_methods(["inductive"])) & set(select_methods(["transductive"]))
    names = {"bd-cspn", "pt-map", "tim", "alpha-tim", "laplacian-shot", "soft-k-means"}
    assert names <= set(select_methods(["transductive"]))
    assert {method.kind for method in METHODS.values()} == set(CLASSES)
    assert len({describe_classifier(make(None)) for make in METHODS.values()}) == len(METHODS)


def test_a_damaged_result_file_is_named(data, tmp_path):
    arguments = {"methods": ["ridge"], "shots": [1], "protocol": SMALL}
    (row,) = run_suite([data], tmp_path / "out", **arguments).rows
    (tmp_path / "out" / row.file).write_bytes(b"torn")
    with pytest.raises(ValueError, match=r"\.npz is damaged, or another version's .* delete it"):
        run_suite([data], tmp_path / "out", **arguments)


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_an_export_needs_no_encoder_and_brings_its_name_and_fingerprint(suffix, tmp_path):
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    with np.load(toy(tmp_path / "toy.npz")) as file:
        X, y = file["vectors"], file["labels"].astype(str).tolist()
    sources = [f"{n}.jpg" for n in range(len(y))]
    for name, print_ in (("mine", "f" * 32), ("others", "0" * 32)):
        columns = (np.arange(len(y)), y, X, ["00" * 32] * len(y), sources)
        feature_files.write(tmp_path / f"{name}{suffix}", Exported(*columns, print_, '{"name": "pocket"}', "cosine"))
    arguments = {"methods": ["simpleshot"], "shots": [1], "protocol": SMALL}
    mine, others = str(tmp_path / f"mine{suffix}"), str(tmp_path / f"others{suffix}")
    (row,) = run_suite([mine], tmp_path / "out", base=mine, **arguments).rows
    assert (row.encoder, row.encoder_fingerprint, row.data) == ("pocket", "f" * 32, "mine")
    assert set(ResultFile(tmp_path / "out" / row.file, MethodRow).predictions("simpleshot").file) <= set(sources)
    with pytest.raises(ValueError, match=r"vectors of pocket \(d=10, 000.*give a base by the same encoder"):
        run_suite([mine], tmp_path / "out", base=others, **arguments)
