"""Temperature scaling in units of the support's margin: the formula, the estimators and the fit."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from classifier_variants import VARIANTS, clouds, episodes, shown
from fakes import BLUE, RED, FakeEncoder, png
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import softmax

from fewshot import (
    BDCSPNClassifier,
    ClassRegistry,
    EpisodeSampler,
    LaplacianShotClassifier,
    LinearDiscriminantClassifier,
    NearestNeighborClassifier,
    PrototypeClassifier,
    RidgeClassifier,
    SimpleShotClassifier,
    SoftKMeansClassifier,
    load_encoder,
)
from fewshot.benchmark.calibrate import calibration_set
from fewshot.calibration import (
    FEATURES,
    CalibrationParams,
    calibrated_probabilities,
    fit_calibration,
    margins,
    measure_reliability,
    read_calibration,
    shipped_calibration,
    support_margin,
    write_calibration,
)

# These have the entry of their base class: prototypes, logistic regression.
DERIVED = {"PrototypeClassifier of inner_product", "DistributionCalibrationClassifier"}
FLAT = CalibrationParams.constant(10.0)
TEN = {"PrototypeClassifier": FLAT, "PrototypeClassifier of sqeuclidean": FLAT}


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


def test_beta_and_uniform_mix_by_hand():
    found = calibrated_probabilities(torch.tensor([[0.0, 0.5]]), 4.0, 0.1, 1.0)
    sure = 1 / (1 + math.exp(-4 * 0.5))
    assert_allclose(found, [[0.9 * sure + 0.05, 0.9 * (1 - sure) + 0.05]], rtol=1e-6)


def test_gamma_by_hand():
    # The others are 0.5 behind on average: 0.2 and 0.8 are 0.4 and 1.6 of that.
    found = calibrated_probabilities(torch.tensor([[0.8, 0.0, 0.2]]), 3.0, 0.0, 2.0)
    bent = [0.5 * (2.6**2 - 1) / 2, 0.0, 0.5 * (1.4**2 - 1) / 2]
    assert_allclose(found, [softmax([-3.0 * one for one in bent])], rtol=1e-5)
    assert_allclose(calibrated_probabilities(torch.zeros(1, 4), 3.0, 0.0, 2.0), 0.25)


@pytest.mark.parametrize("gamma", [0.25, 1.0, 4.0])
def test_no_gamma_changes_the_order_of_classes_however_close(gamma):
    gap = torch.tensor([[1e-5, 0.0, 2e-5, 1.0, 1.1, 9.0]])
    found = calibrated_probabilities(gap, 10.0, 0.1, gamma)
    assert found.argsort(descending=True).tolist() == [[1, 0, 2, 3, 4, 5]]
    assert_allclose(found.sum(), 1.0, rtol=1e-6)


def test_the_support_margin_is_the_own_score_above_the_mean_of_the_others_and_padding_does_not_count():
    scores = torch.tensor([[[5.0, 1.0, 3.0], [0.0, 4.0, 0.0], [9.0, 9.0, 0.0]]])
    unit, others = support_margin(scores, torch.tensor([[0, 1, -1]]))
    assert (unit.item(), others.item()) == (3.5, 1.0)  # 5 - 2 and 4 - 0
    assert_allclose(margins(scores, torch.tensor(2.0))[0, 0], [0, 2, 1])


def test_a_support_that_does_not_separate_its_classes_gives_finite_probabilities():
    found = PrototypeClassifier().fit([[1, 0], [1, 0]], ["a", "b"]).predict_proba([[0, 1], [1, 1]])
    assert_allclose(found, 0.5)


def design(rows, **named):
    """A design matrix (1, rows, len(FEATURES)) that is 0 but for the columns named."""
    found = torch.zeros(1, rows, len(FEATURES))
    for name, value in named.items():
        found[..., FEATURES.index(name)] = value
    return found


def coefficients(**named):
    return tuple(named.get(name, 0.0) for name in FEATURES)


def test_the_inverse_temperature_is_the_exponential_of_a_sum_over_features():
    params = CalibrationParams(coefficients(intercept=math.log(3.0), log_margin=2.0), 0.2, 2.0)
    behind = torch.tensor([[[0.8, 0.0, 0.2]]])
    found = params.probabilities(behind, design(1, intercept=1.0, log_margin=math.log(2.0)))
    assert_allclose(found, calibrated_probabilities(behind, 12.0, 0.2, 2.0), rtol=1e-5)


@pytest.mark.parametrize("classifier", [PrototypeClassifier(metric="sqeuclidean"), LinearDiscriminantClassifier()])
def test_the_unit_of_the_embeddings_changes_no_probability(classifier):
    X, y = clouds(4, 6, noise=3.0)
    once = classifier.fit(X, y).predict_proba(X[::5] + 0.5)
    assert_allclose(classifier.fit(1000 * X, y).predict_proba(1000 * (X[::5] + 0.5)), once, atol=1e-3)
    assert 0.3 < once.max(1).min() < 0.95


# -- estimators and batches of episodes


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


def test_a_single_query_to_a_transductive_method_has_the_probability_of_prototypes():
    X, y = clouds(3, 1)
    asked = X[:1] + 0.3
    sure = SoftKMeansClassifier().fit(X, y).predict_proba(asked)
    assert_allclose(sure, PrototypeClassifier().fit(X, y).predict_proba(asked), atol=1e-5)


@pytest.mark.parametrize("classifier", [c for c in VARIANTS if not c.transductive], ids=shown)
def test_an_inductive_method_gives_a_query_the_same_probabilities_alone_and_in_a_batch(classifier):
    X, y = clouds(4, 3, d=12, noise=2.0)
    queries = X[::2] + 0.5
    fitted = classifier.fit(X, y)
    together = fitted.predict_proba(queries)
    assert_allclose(np.concatenate([fitted.predict_proba(one[None]) for one in queries]), together, atol=1e-4)


@pytest.mark.parametrize("metric", ["cosine", "sqeuclidean"])
def test_one_neighbour_is_more_probable_the_nearer_it_is_and_stays_the_likeliest(metric):
    clf = NearestNeighborClassifier(metric=metric).fit([[1, 0], [0, 1], [0, 1]], ["a", "c", "b"])
    near, between = clf.predict_proba([[1, 0.1], [1, 0.8]])
    assert near[0] > between[0] > 0.34
    queries = [[0, 1], [0.1, 1]]  # as near to b as to c
    likeliest = clf.predict_proba(queries).argmax(1)
    assert_array_equal(clf.classes_[likeliest], clf.predict(queries))


def test_the_logits_of_several_neighbours_are_the_mean_closeness_of_each_class_s_closest():
    # Of a's three the two closest count, 1 and 3 away; b and c have one each, 5 away.
    X = [[10.0], [12.0], [90.0], [14.0], [4.0]]
    clf = NearestNeighborClassifier(n_neighbors=2, metric="sqeuclidean").fit(X, ["a", "a", "a", "b", "c"])
    learned, query = clf._learned, torch.tensor([[[9.0]]])
    found = clf._calibration_logits(learned, query, clf._scores(learned, query))
    assert_allclose(found[0, 0], [-(1 + 9) / 2, -25, -25], rtol=1e-4)
    assert clf.predict([[9.0]]) == ["a"]


def test_the_class_with_most_votes_stays_the_likeliest_though_another_is_nearer():
    clf = NearestNeighborClassifier(n_neighbors=3, metric="sqeuclidean").fit([[0.0], [2.0], [2.1]], ["b", "a", "a"])
    query = [[0.9]]  # b is at 0.9, a's two are at 1.1 and 1.2
    assert clf.predict(query) == ["a"]
    found = clf.predict_proba(query)[0]
    assert_allclose(found, [0.5, 0.5], atol=1e-4)
    assert found[0] > found[1]


def test_scores_and_probabilities_come_together_as_they_do_alone():
    X, y = clouds(4, 3)
    clf = RidgeClassifier().fit(X, y)
    scores, shares = clf.scores_and_probabilities(X, {"RidgeClassifier": FLAT})
    assert_array_equal(scores, clf.scores(X))
    assert_array_equal(shares, clf.predict_proba(X, {"RidgeClassifier": FLAT}))


def test_a_registry_answers_with_the_probability_of_the_closest_class(tmp_path, monkeypatch):
    encoder = FakeEncoder()
    tables = {encoder.fingerprint: TEN}
    monkeypatch.setattr("fewshot.calibration.shipped_calibration", lambda fingerprint=None: tables.get(fingerprint, {}))
    with ClassRegistry(tmp_path / "r.fewshot", encoder=encoder, classifier="prototype") as registry:
        registry.add("red", [png(RED)])
        registry.add("blue", [png(BLUE)])
        (answer,) = registry.predict([png((4 * 51, 0, 3 * 51))], top=1)  # cosines 0.8 and 0.6
    assert answer.label == "red"
    assert answer.probability == pytest.approx(1 / (1 + math.exp(-10 * 0.2)), rel=1e-4)


# -- fitting and measuring


def test_fit_recovers_the_parameters_that_made_the_labels():
    rng = np.random.default_rng(0)
    gap = torch.from_numpy(rng.exponential(0.3, size=(1, 4_000, 3))).float()
    gap -= gap.amin(-1, keepdim=True)
    log_margin = torch.from_numpy(rng.normal(size=(1, 4_000))).float()
    features = design(4_000, intercept=1.0, log_margin=log_margin)
    beta = (math.log(8.0) + 0.7 * log_margin[..., None]).exp()
    shares = calibrated_probabilities(gap, beta, 0.2, 1.0)[0].numpy().astype(float)
    draws = rng.random((len(shares), 1))
    truth = (shares.cumsum(1) < draws).sum(1).clip(0, 2)
    true = torch.from_numpy(truth)[None]
    found = fit_calibration([(gap[:, n::4], features[:, n::4], true[:, n::4]) for n in range(4)])
    fitted = dict(zip(FEATURES, found.log_inverse_temperature, strict=True))
    assert math.exp(fitted.pop("intercept")) == pytest.approx(8.0, rel=0.25)
    assert fitted.pop("log_margin") == pytest.approx(0.7, abs=0.4)
    assert found.uniform_mix == pytest.approx(0.2, abs=0.1)
    assert not any(fitted.values())  # these columns are 0
    assert found.shape == pytest.approx(1.0, abs=0.35)


def drawn(shares, rng):
    """True classes (q,) that come as often as probabilities (q, c) say."""
    return (
        (shares.double().cumsum(1) < torch.from_numpy(rng.random((len(shares), 1))))
        .sum(1)
        .clamp(0, shares.shape[1] - 1)
    )


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_fit_recovers_the_gamma_that_made_the_labels(gamma):
    rng = np.random.default_rng(0)
    gap = torch.from_numpy(rng.exponential(0.3, size=(8_000, 5))).float()
    gap -= gap.amin(-1, keepdim=True)
    truth = drawn(calibrated_probabilities(gap, 8.0, 0.0, gamma), rng)
    found = fit_calibration([(gap[None], design(8_000, intercept=1.0), truth[None])])
    assert found.shape == pytest.approx(gamma, rel=0.35)


def test_no_other_parameters_have_a_higher_likelihood():
    rng = np.random.default_rng(1)
    gap = np.sort(rng.random((3, 6)), axis=1).repeat(200, axis=0)
    gap -= gap[:, :1]
    truth = np.concatenate([rng.choice(6, 200, p=shares) for shares in rng.dirichlet([8, 4, 2, 1, 1, 2], size=3)])
    features, behind = design(600, intercept=1.0), torch.from_numpy(gap[None]).float()

    def loss(params):
        shares = params.probabilities(behind, features)[0].numpy().astype(float)
        sure = shares[:, 0]  # the best class is the first one
        return -np.log(shares[np.arange(600), truth]).mean() - np.log(np.where(truth == 0, sure, 1 - sure)).mean()

    found = fit_calibration([(behind, features, torch.from_numpy(truth)[None])])
    first, *others = found.log_inverse_temperature
    changes = [{"log_inverse_temperature": (first + step, *others)} for step in (-0.1, 0.1)]
    changes += [{"uniform_mix": found.uniform_mix * (1 + step)} for step in (-0.1, 0.1)]
    changes += [{"shape": found.shape * (1 + step)} for step in (-0.1, 0.1)]
    for change in changes:
        assert loss(replace(found, **change)) > loss(found) - 1e-4, change


def test_a_fit_keeps_coefficients_that_the_data_do_not_constrain():
    before = CalibrationParams(coefficients(intercept=2.0, inverse_shots=-0.4, loo_margin=0.2), 0.02, 1.2)
    gap = torch.tensor([[[0.0, 0.2]] * 20])
    found = fit_calibration([(gap, design(20, intercept=1.0), torch.zeros(1, 20, dtype=torch.int64))], before)
    assert found.log_inverse_temperature[1:] == before.log_inverse_temperature[1:]
    assert found.log_inverse_temperature[0] > 2.5  # all twenty were right


def test_reliability_by_hand():
    # Two predictions in the bin (0.6, 0.667], one right; two in (0.933, 1], both right.
    shares = torch.tensor([[0.65, 0.35], [0.35, 0.65], [0.95, 0.05], [0.99, 0.01]])
    found = measure_reliability(shares, torch.tensor([0, 0, 0, 0]))
    assert found.n == 4
    assert found.accuracy == 0.75
    assert_allclose(found.ece, 0.5 * abs(0.65 - 0.5) + 0.5 * abs(0.97 - 1.0), atol=1e-6)
    assert_allclose(found.nll, -np.log([0.65, 0.35, 0.95, 0.99]).mean(), rtol=1e-5)
    assert_allclose(found.bins, [(0.65, 0.5, 2), (0.97, 1.0, 2)], rtol=1e-5)


def test_a_fitted_table_calibrates_classes_it_has_not_seen():
    X, y = clouds(160, 8, noise=2.0)
    first, second = y < 80, y >= 80
    clf = RidgeClassifier()

    def sampled(part):
        return X[part], EpisodeSampler(y[part], n_way=5, n_shot=1, n_query=5, n_episodes=150)

    params = fit_calibration([calibration_set(clf, *sampled(first))])
    behind, features, truth = calibration_set(clf, *sampled(second))
    after = measure_reliability(params.probabilities(behind, features), truth)
    wrong = measure_reliability(CalibrationParams.constant(60.0).probabilities(behind, features), truth)
    assert after.ece < 0.03
    assert wrong.ece > 0.15
    assert after.nll < wrong.nll


@pytest.mark.parametrize("encoder", [None, "pocket"])
def test_every_method_has_a_shipped_entry_of_its_own(encoder):
    names = {classifier.calibration_name for classifier in VARIANTS} - DERIVED
    names.add(NearestNeighborClassifier(n_neighbors=3).calibration_name)
    assert names <= set(shipped_calibration(encoder and load_encoder(encoder).fingerprint))


def test_the_bundled_encoder_has_its_own_table_and_an_unknown_one_that_of_imagenet():
    assert shipped_calibration(load_encoder("pocket").fingerprint) != shipped_calibration()
    assert shipped_calibration("of nobody") == shipped_calibration()


# -- files


def test_a_table_is_read_as_it_was_written_and_another_file_is_refused_by_name(tmp_path):
    mine = CalibrationParams(tuple(range(len(FEATURES))), 0.25, 0.5)
    table = {"RidgeClassifier": mine, "Mine": FLAT}
    write_calibration(table, tmp_path / "t.json")
    assert read_calibration(tmp_path / "t.json") == table
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ValueError, match=r"other\.json is no calibration table \('format'\); write one with"):
        read_calibration(tmp_path / "other.json")


def entry(**changed):
    """One method's entry of a file."""
    return {"log_inverse_temperature": [1] * len(FEATURES), "uniform_mix": 0.1, "shape": 1.0} | changed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 5}, "format 5 instead of 6"),
        ({"features": ["one"]}, r"features \['one'\] instead of \['intercept', 'log_ways'"),
        ({"calibration": {"Mine": entry(log_inverse_temperature=[1, 2])}}, "Mine: 8 numbers from -1000 to 1000"),
        ({"calibration": {"Mine": entry(log_inverse_temperature=[math.nan] * 8)}}, "from -1000 to 1000 are needed"),
        ({"calibration": {"Mine": entry(log_inverse_temperature=[10**400] * 8)}}, "too large"),
        (
            {"calibration": {"Mine": entry(uniform_mix=1.1)}},
            "Mine: uniform_mix 1.1 and shape 1 must be 0 to 1 and 0.01",
        ),
        ({"calibration": {"Mine": entry(shape=0.0)}}, "shape 0 must be 0 to 1 and 0.01 to 100"),
        ({"calibration": {"Mine": entry(shape=math.nan)}}, "shape nan must be"),
        ({"calibration": {"Mine": {"log_inverse_temperature": [1] * 8, "uniform_mix": 0.1}}}, "'shape'"),
        ({"calibration": {"Mine": entry(shape=[1.0])}}, "list"),
        ({"calibration": ["Mine"]}, "list"),
    ],
)
def test_a_damaged_table_is_refused(tmp_path, change, message):
    write_calibration({"Mine": FLAT}, tmp_path / "t.json")
    (tmp_path / "t.json").write_text(json.dumps(json.loads((tmp_path / "t.json").read_text()) | change))
    with pytest.raises(ValueError, match=message):
        read_calibration(tmp_path / "t.json")


@pytest.mark.parametrize("kind", [SimpleShotClassifier, BDCSPNClassifier, LaplacianShotClassifier])
@pytest.mark.parametrize("encoder", [None, "pocket"])
def test_a_method_with_a_centre_has_a_shipped_entry_of_its_own(encoder, kind):
    table = shipped_calibration(encoder and load_encoder(encoder).fingerprint)
    plain, centred = kind(), kind(center=np.zeros(16))
    assert centred.calibration_params(table) == table[f"{kind.__name__} of centred"]
    assert centred.calibration_params(table) != plain.calibration_params(table)


@pytest.mark.parametrize("shape", [0.3, 1.0, 2.0])
def test_the_best_probability_is_the_largest_of_all(shape):
    behind = torch.rand(2, 5, 300, generator=torch.Generator().manual_seed(1))
    behind[..., 7] = 0.0
    params = CalibrationParams((1.5, *[0.1] * (len(FEATURES) - 1)), 0.1, shape)
    features = torch.rand(2, 5, len(FEATURES), generator=torch.Generator().manual_seed(2))
    largest = params.probabilities(behind, features).amax(dim=-1)
    assert_allclose(params.best_probability(behind, features), largest, rtol=1e-4)
