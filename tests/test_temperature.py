"""Probabilities are right as often as they say, in the units of the support, behind both doors."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from numpy.testing import assert_allclose, assert_array_equal
from test_contract import VARIANTS, episodes, shown

from fewshot import (
    EpisodeSampler,
    LinearDiscriminantClassifier,
    NearestNeighborClassifier,
    PrototypeClassifier,
    RidgeClassifier,
    SoftKMeansClassifier,
)
from fewshot.classifiers.witnesses import Witnesses
from fewshot.cli import main
from fewshot.confidence import gaps_of, probabilities_of, read_table, write_table
from fewshot.temperature import (
    SHIPPED,
    Sharpness,
    expected_shift,
    fit,
    gaps,
    log_likelihood,
    margin,
    reliability,
    tempered,
)

# These have their sharpness from what they derive from: prototypes, logistic regression.
DERIVED = {"PrototypeClassifier of inner_product", "DistributionCalibrationClassifier"}
FLAT = Sharpness.of((10.0, 0.0, 0.0))
TEN = {"PrototypeClassifier": FLAT, "PrototypeClassifier of sqeuclidean": FLAT}


def clouds(classes=20, each=40, d=16, noise=1.0, seed=0):
    """Gaussian classes of one spread."""
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(classes), each)
    return (rng.normal(size=(classes, d))[y] + noise * rng.normal(size=(len(y), d))).astype(np.float32), y


# -- the formula


@pytest.mark.parametrize("metric", ["cosine", "sqeuclidean"])
def test_prototype_probabilities_by_hand(metric):
    clf = PrototypeClassifier(metric=metric).fit([[2, 0], [0, 1]], ["a", "b"])
    # Cosines of (3, 4): 0.6 and 0.8, 0.2 of the support's own margin of 1 - 0. Squared distances: 17 and 18, 1 of 5.
    gap = 0.2
    found = clf.predict_proba([[3, 4]], TEN)[0]
    small = 1 / (1 + math.exp(10 * gap))
    assert_allclose(sorted(found), [small, 1 - small], rtol=1e-5)
    assert clf.classes_[found.argmax()] == clf.predict([[3, 4]])[0]


def test_bend_and_doubt_by_hand():
    found = tempered(torch.tensor([[0.0, 0.5]]), 4.0, 2.0, 0.1)
    sure = 1 / (1 + math.exp(-4 * (0.5 + 2 * 0.25)))
    assert_allclose(found, [[0.9 * sure + 0.05, 0.9 * (1 - sure) + 0.05]], rtol=1e-6)


def test_the_margin_is_the_own_score_above_the_mean_of_the_others_and_padding_does_not_count():
    scores = torch.tensor([[[5.0, 1.0, 3.0], [0.0, 4.0, 0.0], [9.0, 9.0, 0.0]]])
    assert margin(scores, torch.tensor([[0, 1, -1]])).item() == 3.5  # 5 - 2 and 4 - 0
    assert_allclose(gaps(scores, torch.tensor(2.0))[0, 0], [0, 2, 1])


def test_a_support_that_does_not_tell_its_classes_apart_gives_finite_probabilities():
    found = PrototypeClassifier().fit([[1, 0], [1, 0]], ["a", "b"]).predict_proba([[0, 1], [1, 1]])
    assert_allclose(found, 0.5)


def test_sharpness_lies_between_the_known_ways_and_shots_and_is_constant_beyond():
    sharpness = Sharpness.of((16.0, 1.0, 0.3), (4.0, 0.0, 0.1), (1.0, 3.0, 0.5), (1.0, 0.0, 0.1))
    beta, bend, doubt = sharpness.at(5, torch.tensor([1.0, 5 / 3, 5.0, 50.0]))  # 1 / (5 / 3) lies half-way
    assert_allclose(beta.flatten(), [16, 8, 4, 4], rtol=1e-5)
    assert_allclose(bend.flatten(), [1, 0.5, 0, 0], atol=1e-6)
    assert_allclose(doubt.flatten(), [0.3, 0.2, 0.1, 0.1], rtol=1e-5)
    one = torch.ones(1)
    assert_allclose([sharpness.at(ways, one)[0].item() for ways in (2, 5, 10, 20, 99)], [16, 16, 4, 1, 1], rtol=1e-5)


@pytest.mark.parametrize("classifier", [PrototypeClassifier(metric="sqeuclidean"), LinearDiscriminantClassifier()])
def test_the_unit_of_the_embeddings_changes_no_probability(classifier):
    X, y = clouds(4, 6, noise=3.0)
    once = classifier.fit(X, y).predict_proba(X[::5] + 0.5)
    assert_allclose(classifier.fit(1000 * X, y).predict_proba(1000 * (X[::5] + 0.5)), once, atol=1e-3)
    assert 0.3 < once.max(1).min() < 0.95


# -- what is left out


def test_folds_leave_out_each_witness_of_a_class_with_several_once_and_never_a_single_one():
    labels = torch.tensor([[0, 0, 1, 2, 2, 2, -1]])
    folds = list(Witnesses.among(labels, 3).folds())
    assert len(folds) == 3
    left = [truth.tolist()[0] for _, truth in folds]
    assert left == [[0, -1, -1, 2, -1, -1], [-1, 0, -1, -1, 2, -1], [-1, -1, -1, -1, -1, 2]]
    for seen, truth in folds:
        assert_array_equal(torch.where(truth >= 0, truth, seen.labels), labels[:, :6])
    assert not list(Witnesses.among(torch.tensor([[0, 1, 2]]), 3).folds())


def test_of_many_classes_every_nth_bears_witness_with_its_first_ten():
    labels = torch.arange(90).repeat(20)[None]
    witnesses = Witnesses.among(labels, 90)
    assert witnesses.labels.unique().tolist() == list(range(0, 90, 3))
    assert witnesses.where.shape == (1, 300)
    assert int(witnesses.where.max()) < 900  # the first ten of 90 classes
    assert_array_equal(labels.gather(1, witnesses.where), witnesses.labels)
    seen, _ = next(witnesses.folds())
    assert seen.n_classes == 30


def test_left_out_examples_that_are_all_right_make_surer_and_wrong_ones_less_so():
    gap = torch.tensor([[[0.0, 0.2]] * 20])
    at = FLAT.at(5, torch.ones(1))
    right, wrong = (expected_shift(log_likelihood(gap, torch.full((1, 20), c), at)).item() for c in (0, 1))
    assert right > 0.3
    assert wrong < -0.8
    none = expected_shift(log_likelihood(gap, torch.full((1, 20), -1), at))
    assert_allclose(none, 0, atol=1e-6)


def test_at_five_shots_easy_classes_are_answered_more_surely_than_the_table_says_and_hard_ones_less():
    shift = {}
    for noise in (0.2, 2.0):
        X, y = clouds(5, 5, noise=noise)
        clf = PrototypeClassifier().fit(X, y)
        one = torch.from_numpy(y)[None]
        witnesses = Witnesses.among(one, 5)
        shift[noise] = clf._shift(witnesses.gathered(torch.from_numpy(X)[None]), witnesses, TEN["PrototypeClassifier"])
    assert shift[0.2] > 0.1
    assert shift[2.0] < -0.1


# -- both doors


@pytest.mark.parametrize(
    "sizes", [(5, [[1] * 5]), (4, [[1, 2, 5, 12]]), (3, [[1, 1, 1], [4, 1, 2], [3, 13, 3]])], ids=str
)
@pytest.mark.parametrize("classifier", VARIANTS, ids=shown)
def test_a_batch_of_episodes_has_the_probabilities_of_an_estimator_fitted_on_each_alone(classifier, sizes):
    support, labels, query = episodes(*sizes, e=3, q=4)
    together = classifier.episode_probabilities(*map(torch.from_numpy, (support, labels, query)))
    for number in range(len(support)):
        own = labels[number] >= 0
        alone = classifier.fit(support[number][own], labels[number][own])
        assert_allclose(together[number], alone.predict_proba(query[number]), atol=1e-4)
        assert_array_equal(together[number].argmax(-1), alone.predict(query[number]))


def test_a_single_query_to_a_transductive_method_is_as_sure_as_a_prototype():
    X, y = clouds(3, 1)
    asked = X[:1] + 0.3
    sure = SoftKMeansClassifier().fit(X, y).predict_proba(asked)
    assert_allclose(sure, PrototypeClassifier().fit(X, y).predict_proba(asked), atol=1e-5)


# -- fitting and measuring


def test_fit_finds_the_sharpness_that_made_the_answers():
    rng = np.random.default_rng(0)
    gap = torch.from_numpy(rng.exponential(0.3, size=(1, 4_000, 3))).float()
    gap -= gap.amin(-1, keepdim=True)
    shares = tempered(gap, 8.0, 0.0, 0.2)[0].numpy().astype(float)
    draws = rng.random((len(shares), 1))
    truth = (shares.cumsum(1) < draws).sum(1).clip(0, 2)
    found = fit([(gap, torch.from_numpy(truth)[None])])
    assert found.bend == 0.0
    assert 6.5 < found.beta < 10
    assert 0.1 <= found.doubt <= 0.3


def test_reliability_by_hand():
    # Two answers in the bin (0.6, 0.667], one right; two in (0.933, 1], both right.
    shares = torch.tensor([[0.65, 0.35], [0.35, 0.65], [0.95, 0.05], [0.99, 0.01]])
    found = reliability(shares, torch.tensor([0, 0, 0, 0]))
    assert found.n == 4
    assert found.accuracy == 0.75
    assert_allclose(found.ece, 0.5 * abs(0.65 - 0.5) + 0.5 * abs(0.97 - 1.0), atol=1e-6)
    assert_allclose(found.nll, -np.log([0.65, 0.35, 0.95, 0.99]).mean(), rtol=1e-5)
    assert_allclose(found.bins, [(0.65, 0.5, 2), (0.97, 1.0, 2)], rtol=1e-5)


def test_a_fitted_table_calibrates_classes_it_has_not_seen():
    X, y = clouds(160, 8, noise=2.0)
    first, second = y < 80, y >= 80
    clf = RidgeClassifier()

    def asked(part):
        return X[part], EpisodeSampler(y[part], n_way=5, n_shot=1, n_query=5, n_episodes=150)

    point = fit([gaps_of(clf, *asked(first))])
    after = reliability(*probabilities_of(clf, *asked(second), {"RidgeClassifier": Sharpness((point,) * 4)}))
    rash = {"RidgeClassifier": Sharpness.of((60.0, 0.0, 0.0))}
    wrong = reliability(*probabilities_of(clf, *asked(second), rash))
    assert after.ece < 0.03
    assert wrong.ece > 0.15
    assert after.nll < wrong.nll


def test_every_method_has_a_shipped_entry_of_its_own():
    names = {classifier.sharpness_name for classifier in VARIANTS} - DERIVED
    assert names <= set(SHIPPED)
    assert NearestNeighborClassifier(n_neighbors=3).sharpness_name in SHIPPED


# -- files and the command


def test_a_table_is_read_as_it_was_written_and_another_file_is_refused_by_name(tmp_path):
    table = {"RidgeClassifier": Sharpness.of((3.0, 1.0, 0.1), (4.0, 0.0, 0.0), (5.0, 0.5, 0.2), (6.0, 0.0, 0.0))}
    write_table(table, tmp_path / "t.json")
    assert read_table(tmp_path / "t.json") == table
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ValueError, match=r"other\.json is no table of fewshot calibrate \('format'\); write one with"):
        read_table(tmp_path / "other.json")
    (tmp_path / "new.json").write_text('{"format": 2, "sharpness": {}}')
    with pytest.raises(ValueError, match="format 2 instead of 1"):
        read_table(tmp_path / "new.json")


def test_the_command_fits_one_half_of_the_classes_measures_the_other_and_writes_table_and_picture(tmp_path):
    pytest.importorskip("matplotlib")
    X, y = clouds(10, 12, noise=1.0)
    np.savez(tmp_path / "data.npz", vectors=X, labels=y.astype(str))
    out, picture = tmp_path / "sure.json", tmp_path / "sure.png"
    command = ["calibrate", str(tmp_path / "data.npz"), "--out", str(out), "--picture", str(picture)]
    few = ["--queries", "5", "--episodes", "20", "--methods", "prototype,nearest"]
    result = CliRunner().invoke(main, [*command, *few])
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert (answer["fitted_to"], answer["measured_on"]) == (5, 5)
    assert [(row["method"], row["shots"]) for row in answer["rows"]] == [
        ("prototype", 1), ("prototype", 5), ("nearest", 1), ("nearest", 5)
    ]  # fmt: skip
    table = read_table(out)
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
    assert not (tmp_path / "t.json").exists()
