"""Open-set episodes judged as scikit-learn does, many at once as one by one."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from numpy.testing import assert_allclose
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from fewshot import EpisodeSampler, NearestNeighborClassifier, PrototypeClassifier
from fewshot.benchmark.openset_runner import METRICS, open_set_metrics, run_open_set
from fewshot.classifiers.membership import Membership
from fewshot.cli import main
from fewshot.openset.background import Background
from fewshot.openset.unknown_scores import SCORES, Known


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(12), 30)
    return (rng.normal(size=(12, 20))[y] + 1.2 * rng.normal(size=(len(y), 20))).astype(np.float32), y


@pytest.fixture(scope="module")
def others():
    return np.random.default_rng(1).normal(size=(90, 20)).astype(np.float32), np.repeat(np.arange(9), 10).astype(str)


def sampler(y, **changes):
    return EpisodeSampler(y, **{"n_way": 6, "n_shot": 2, "n_query": 5, "n_episodes": 60, **changes})


@pytest.mark.parametrize("ties", [False, True], ids=["no draws", "many draws"])
def test_the_metrics_are_scikit_learns_and_the_brute_forces(ties):
    rng = np.random.default_rng(2)
    known, unknown = rng.normal(size=(8, 30)), rng.normal(1.0, size=(8, 20))
    if ties:
        known, unknown = known.round(), unknown.round()
    correct = rng.random((8, 30)) < 0.8
    found = open_set_metrics(torch.tensor(known), torch.tensor(unknown), torch.tensor(correct))
    for e in range(8):
        truth, both = np.repeat([0, 1], [30, 20]), np.concatenate([known[e], unknown[e]])
        assert_allclose(found.auroc[e], roc_auc_score(truth, both), rtol=1e-6)
        assert_allclose(found.aupr[e], average_precision_score(truth, both), rtol=1e-6)
        lines = np.unique(both)
        wrongly = np.array([0.0, *((unknown[e] <= line).mean() for line in lines)])
        rightly = np.array([0.0, *(((known[e] <= line) & correct[e]).mean() for line in lines)])
        assert_allclose(found.oscr[e], (np.diff(wrongly) * (rightly[1:] + rightly[:-1]) / 2).sum(), rtol=1e-6)
        line = min(line for line in lines if (known[e] <= line).mean() >= 0.95)
        assert_allclose(found.fpr95[e], (unknown[e] <= line).mean())
        accepted = both <= line
        assert_allclose(found.accepted_accuracy[e], (accepted[:30] & correct[e]).sum() / accepted.sum())
        # With known as the positive, scikit-learn's curve says the same of the line.
        shares = roc_curve(1 - truth, -both, drop_intermediate=False)
        assert_allclose(found.fpr95[e], shares[0][shares[1] >= 0.95 - 1e-12][0])


def test_a_score_that_tells_all_apart_is_perfect_and_its_opposite_is_not():
    known, unknown, correct = torch.zeros(1, 4), torch.ones(1, 4), torch.tensor([[True, True, True, False]])
    best, worst = open_set_metrics(known, unknown, correct), open_set_metrics(unknown, known, correct)
    assert [getattr(best, name)[0] for name in METRICS] == [1.0, 1.0, 0.0, 0.75, 0.75]
    assert [getattr(worst, name)[0] for name in METRICS] == [0.0, 0.5, 1.0, 0.0, 0.375]


@pytest.mark.parametrize("n_query", [5, 40], ids=["many episodes a batch", "long episodes"])
def test_episodes_at_once_are_judged_as_one_by_one(data, others, n_query):
    X, y = np.concatenate([data[0]] * 3), np.concatenate([data[1]] * 3)
    background = Background.of(*others)
    asked = sampler(y, n_query=n_query, n_episodes=20)
    result = run_open_set(list(SCORES), X, asked, background=background)
    (chunk,) = asked
    for e in (0, 7, 19):
        support, labels = X[chunk.support[e, :6]], chunk.support_labels[e, :6]
        assert set(y[chunk.support[e, :6]]).isdisjoint(y[chunk.query[e, 3 * n_query :]])  # genuinely unknown
        known = Known.of(torch.tensor(support[None]), Membership(torch.tensor(labels[None]), 3), background)
        truth = np.repeat([0, 1], 3 * n_query)
        for name, score in SCORES.items():
            values = score(known, torch.tensor(X[chunk.query[e]][None]))[0].numpy()
            assert_allclose(result[name].auroc[e], roc_auc_score(truth, values), atol=2e-3)
        named = PrototypeClassifier().fit(support, labels).predict(X[chunk.query[e, : 3 * n_query]])
        assert_allclose(result.accuracy[e], (named == chunk.query_labels[e, : 3 * n_query]).mean(), atol=1e-6)


def test_the_classifier_asked_for_names_the_known(data):
    X, y = data
    first = run_open_set(["cosine"], X, sampler(y))
    second = run_open_set(["cosine"], X, sampler(y), classifier=NearestNeighborClassifier(metric="sqeuclidean"))
    assert_allclose(first["cosine"].auroc, second["cosine"].auroc)
    assert (first.accuracy != second.accuracy).any()
    assert first["cosine"].oscr.mean() <= first.accuracy.mean()


def test_means_and_paired_differences_carry_the_textbooks_interval(data):
    X, y = data
    result = run_open_set(["centered", "softmax"], X, sampler(y))
    first, second = result["centered"].auroc, result["softmax"].auroc
    assert_allclose(result["centered"].mean("auroc"), (first.mean(), 1.96 * first.std(ddof=1) / np.sqrt(60)))
    difference = first - second
    expected = (difference.mean(), 1.96 * difference.std(ddof=1) / np.sqrt(60))
    assert_allclose(result.paired("centered", "softmax"), expected)


@pytest.mark.parametrize(
    ("scores", "changes", "message"),
    [
        (["cosine"], {"n_way": 5}, "n_way must be even .* not 5"),
        (["cosine"], {"query_imbalance": 2.0, "n_query": 2}, "query_imbalance None, not 6 and 2.0"),
        (["mahalanobis"], {}, "'mahalanobis' compares with a background"),
        (["entropy"], {}, "score must be one of 'softmax', .* not 'entropy'"),
    ],
)
def test_what_cannot_be_judged_is_refused(data, scores, changes, message):
    X, y = data
    with pytest.raises(ValueError, match=message):
        run_open_set(scores, X, sampler(y, **changes))


def test_vectors_of_other_data_are_refused(data):
    X, y = data
    with pytest.raises(ValueError, match="X has 100 rows, but the sampler was given 360 labels"):
        run_open_set(["cosine"], X[:100], sampler(y))


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
    result = run_open_set(
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
    assert bench(files, "--shots", 1)["computed"] == 1
    assert bench(files, "--shots", "1,2")["computed"] == 1
    assert bench(files, "--shots", 1, "--base", files / "others.npz")["computed"] == 1
    again = bench(files, "--shots", 1)
    assert (again["computed"], again["rows"]) == (0, len(SCORES) - 1)  # without a background, no Mahalanobis


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
    assert bench(files, *words)["computed"] == 1
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
    assert "toy and the background both name a class '0': if it is the same, it is no unknown one" in result.stderr
