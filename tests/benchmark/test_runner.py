"""The engine gives what a loop over episodes gives, with honest intervals."""

from __future__ import annotations

import re
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid

from fewshot import EpisodeSampler, NearestNeighborClassifier, PrototypeClassifier, RidgeClassifier, run_benchmark
from fewshot.benchmark.runner import BenchmarkResult, MethodResult
from fewshot.episodes import Episodes
from fewshot.errors import MissingExtra


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(12), 30)
    return (rng.normal(size=(12, 20))[y] + 1.5 * rng.normal(size=(len(y), 20))).astype(np.float32), y


def sampler(y, **changes):
    return EpisodeSampler(y, **{"n_way": 5, "n_shot": 2, "n_query": 6, "n_episodes": 300, **changes})


VARIOUS = {"n_way": "various", "n_shot": "various", "n_query": 8, "n_episodes": 60}
IMBALANCED = {"query_imbalance": 2.0, "n_query": 3}


# NearestCentroid divides by zero where each class has one example, in a number that it then does not use.
@pytest.mark.filterwarnings("ignore:invalid value encountered in divide:RuntimeWarning")
@pytest.mark.parametrize("changes", [{}, VARIOUS, IMBALANCED], ids=["fixed", "various", "imbalanced"])
def test_batched_methods_answer_as_scikit_learn_does_episode_by_episode(data, changes):
    X, y = data
    result = run_benchmark(
        {
            "prototype": PrototypeClassifier(metric="sqeuclidean"),
            "centroid": NearestCentroid(),
            "1-nn": NearestNeighborClassifier(metric="sqeuclidean"),
            "sklearn 1-nn": KNeighborsClassifier(1),
        },
        X,
        sampler(y, **{**changes, "n_episodes": 60}),
    )
    assert_array_equal(result["prototype"].predicted, result["centroid"].predicted)
    assert_array_equal(result["1-nn"].predicted, result["sklearn 1-nn"].predicted)
    assert 0.3 < result["prototype"].accuracy < 0.95  # else the lines above say little


def test_accuracies_are_the_shares_of_right_answers(data):
    X, y = data
    result = run_benchmark([RidgeClassifier()], X, sampler(y, **VARIOUS))
    method = result["RidgeClassifier()"]
    episodes = result.episodes
    for row in (0, 17, 59):
        asked = episodes.query_labels[row] >= 0
        assert (method.predicted[row, ~asked] == -1).all()
        truth = y[episodes.query[row, asked]]
        answered = episodes.classes[row, method.predicted[row, asked]]
        assert_allclose(method.accuracies[row], (truth == answered).mean())


def test_little_memory_changes_no_answer(data):
    X, y = data
    first, second = (run_benchmark([RidgeClassifier()], X, sampler(y), memory=m) for m in (1, 2**28))
    assert_array_equal(first["RidgeClassifier()"].predicted, second["RidgeClassifier()"].predicted)


def result_of(**accuracies):
    none = np.zeros((3, 1), np.int64)
    methods = {
        name: MethodResult(name, np.array(values), none, 0.0, np.array(values[1:]))
        for name, values in accuracies.items()
    }
    return BenchmarkResult(methods, Episodes(none, none, none, none, none), 0, True)


def test_intervals_are_those_of_the_textbook():
    result = result_of(a=[0.2, 0.4, 0.9], b=[0.1, 0.3, 0.8])
    # variance of a: ((0.3)^2 + (0.1)^2 + (0.4)^2) / 2 = 0.13
    assert_allclose(result["a"].accuracy, 0.5)
    assert_allclose(result["a"].ci95, 1.96 * np.sqrt(0.13 / 3))
    assert_allclose(result["a"].ci95_disjoint, 1.96 * np.sqrt(0.125 / 2))  # of 0.4 and 0.9
    paired = result.paired("a", "b")
    assert_allclose((paired.difference, paired.ci95), (0.1, 0.0), atol=1e-12)
    assert paired.significant
    assert not result_of(a=[0.0, 1.0, 0.5], b=[1.0, 0.0, 0.5]).paired("a", "b").significant


def test_paired_differences_are_sharper_than_two_intervals(data):
    X, y = data
    result = run_benchmark({"ridge": RidgeClassifier(), "prototype": PrototypeClassifier()}, X, sampler(y))
    assert result.paired("ridge", "prototype").ci95 < result["ridge"].ci95


def test_methods_of_two_results_are_compared_on_the_same_episodes_only(data):
    X, y = data
    one = run_benchmark({"near": PrototypeClassifier()}, X, sampler(y))
    two = run_benchmark({"near": PrototypeClassifier()}, X[:, :3], sampler(y))
    found = one.paired("near", "near", two)
    difference = one["near"].accuracies - two["near"].accuracies
    assert (found.first, found.second) == ("near", "near")
    assert_allclose(found.difference, difference.mean())
    assert_allclose(found.ci95, 1.96 * difference.std(ddof=1) / np.sqrt(len(difference)))
    others = run_benchmark({"near": PrototypeClassifier()}, X, sampler(y, random_state=7))
    with pytest.raises(ValueError, match=r"different episodes, .* with random_state .* with 7: run both with the same"):
        one.paired("near", "near", others)


def test_a_result_is_a_frame_of_a_row_for_each_method(data):
    X, y = data
    result = run_benchmark({"near": PrototypeClassifier(), "ridge": RidgeClassifier()}, X, sampler(y))
    frame = result.to_frame()
    assert frame.index.tolist() == ["near", "ridge"]
    for name, row in frame.iterrows():
        one = result[name]
        assert row[["accuracy", "ci95", "seconds"]].tolist() == [one.accuracy, one.ci95, one.seconds]
        assert (row["episodes"], row["disjoint_episodes"]) == (len(one.accuracies), len(one.disjoint))


def test_a_frame_without_pandas_is_refused_in_one_line(data, monkeypatch):
    X, y = data
    result = run_benchmark({"near": PrototypeClassifier()}, X, sampler(y))
    monkeypatch.setattr("fewshot.benchmark.runner.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"^BenchmarkResult.to_frame needs pandas: pip install pandas$"):
        result.to_frame()


def test_results_are_shown_in_short(data):
    X, y = data
    result = run_benchmark({"near": PrototypeClassifier()}, X, sampler(y))
    near, some = result["near"], result.episodes
    (e, c), s, q = some.classes.shape, some.support.shape[1], some.query.shape[1]
    assert repr(some) == f"Episodes(e={e}, c={c}, s={s}, q={q})"
    assert repr(result) == f"BenchmarkResult({some!r}, {{near: {near.accuracy:.4f} ± {near.ci95:.4f}}})"
    assert repr(near).startswith(
        f"MethodResult('near', accuracy={near.accuracy:.4f}, ci95={near.ci95:.4f}, episodes={e}"
    )


@pytest.mark.parametrize("changes", [{}, IMBALANCED], ids=["fixed", "imbalanced"])
def test_the_disjoint_accuracies_are_those_of_a_run_without_replacement(data, changes):
    X, y = data
    classifiers = {"ridge": RidgeClassifier(), "centroid": NearestCentroid()}
    asked = sampler(y, n_episodes=60, **changes)
    result, apart = run_benchmark(classifiers, X, asked), asked.disjoint()
    alone = run_benchmark(classifiers, X, apart)
    assert not alone.replacement
    for name in classifiers:
        assert len(result[name].accuracies) == 60
        assert_array_equal(result[name].disjoint, alone[name].accuracies)
        assert len(alone[name].accuracies) == len(apart) > 5
        assert alone[name].ci95_disjoint == alone[name].ci95 == result[name].ci95_disjoint > result[name].ci95


def test_where_no_two_episodes_can_be_disjoint_their_interval_is_not_a_number(data):
    X, y = data
    for changes in (VARIOUS, {"n_way": 12, "n_query": 20}):
        method = run_benchmark([RidgeClassifier()], X, sampler(y, **changes))["RidgeClassifier()"]
        assert len(method.disjoint) == 0
        assert np.isnan(method.ci95_disjoint)


def test_new_images_of_the_same_classes_stay_in_the_disjoint_interval_and_leave_the_usual_one():
    rng = np.random.default_rng(0)
    y, means = np.repeat(np.arange(12), 40), 0.7 * rng.normal(size=(12, 8))
    found = []
    for seed in range(40):
        X = (means[y] + rng.normal(size=(len(y), 8))).astype(np.float32)
        asked = sampler(y, n_shot=1, n_query=3, n_episodes=1000, random_state=seed)
        method = run_benchmark({"prototype": PrototypeClassifier()}, X, asked)["prototype"]
        found.append((method.accuracy, method.ci95, method.ci95_disjoint))
    accuracies, usual, disjoint = np.array(found).T
    off = np.abs(accuracies - accuracies.mean())
    assert (off < usual).mean() < 0.6
    assert (off < disjoint).mean() >= 0.95


def test_a_scikit_learn_classifier_is_not_changed(data):
    X, y = data
    classifier = LogisticRegression()
    run_benchmark([classifier], X, sampler(y, n_episodes=3))
    assert not hasattr(classifier, "coef_")


@pytest.mark.parametrize(
    ("classifiers", "rows", "message"),
    [
        ([RidgeClassifier(), RidgeClassifier()], slice(None), r"RidgeClassifier\(\) is given twice; give a dict"),
        ([RidgeClassifier()], slice(0, 100), "X has 100 rows, but the sampler was given 360 labels"),
    ],
)
def test_what_does_not_fit_together_is_refused(data, classifiers, rows, message):
    X, y = data
    with pytest.raises(ValueError, match=message):
        run_benchmark(classifiers, X[rows], sampler(y))


def test_the_seconds_of_each_method_hold_the_sampling_once_and_no_disjoint_episodes(data, monkeypatch):
    X, y = data
    clock = SimpleNamespace(now=0.0, perf_counter=lambda: clock.now)
    monkeypatch.setattr("fewshot.benchmark.runner.time", clock)

    class Sampler(EpisodeSampler):
        def __iter__(self):
            clock.now += 1 if self.replacement else 1000
            yield from super().__iter__()

    class Classifier(PrototypeClassifier):
        def episode_scores(self, *args, **kwargs):
            clock.now += 10
            return super().episode_scores(*args, **kwargs)

    asked = Sampler(y, n_way=5, n_shot=2, n_query=6, n_episodes=5)
    result = run_benchmark({"a": Classifier(), "b": Classifier()}, X, asked)
    assert len(result["a"].disjoint) > 1
    assert [result[name].seconds for name in "ab"] == [11, 11]
    assert clock.now == 1 + 1000 + 4 * 10  # each method once on the episodes, once on the disjoint ones


def test_a_notebook_shows_the_methods_best_first():
    result = result_of(**{"<worse>": [0.2, 0.4, 0.6], "better": [0.6, 0.6, 0.6]})
    rows = re.findall(r"<td style='text-align:left'>(.*?)</td><td>([\d.]+) ±", result._repr_html_())
    assert rows == [("better", "60.0"), ("&lt;worse&gt;", "40.0")]
