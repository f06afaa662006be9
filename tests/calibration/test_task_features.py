"""Task features by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from classifier_variants import clouds
from numpy.testing import assert_allclose, assert_array_equal

from fewshot import PrototypeClassifier
from fewshot.calibration.task_features import FEATURES, TaskFeatures
from fewshot.classifiers.support_sample import SupportSample


def columns(
    ways=10,
    shots=5 / 3,
    class_similarity=0.5,
    loo_margin=math.nan,
    density=0.5,
    margins=(0.0, 1.0, 2.0),
    similarity=0.0,
):
    """The design matrix of one query by column name."""
    task = TaskFeatures(ways, *(torch.tensor([value]) for value in (shots, class_similarity, loo_margin, density)))
    found = task.design_matrix(torch.tensor([[margins]]), torch.tensor([[similarity]]))
    return dict(zip(FEATURES, found[0, 0].tolist(), strict=True))


def test_features_by_hand():
    query = {"margins": (0.0, 0.25, 0.75), "similarity": 0.4}  # the others are 0.5 behind on average
    found = columns(ways=20, shots=5.0, class_similarity=0.75, loo_margin=0.5, density=0.45, **query)
    by_hand = {"intercept": 1.0, "log_ways": math.log(2.0), "inverse_shots": -1.0, "class_similarity": 0.5}
    by_hand |= {"loo_margin": (math.log(0.5) + 0.5) * (1 - 2 / 5), "sparsity": 0.25}
    assert found == pytest.approx(by_hand | {"similarity": 0.4, "log_margin": math.log(0.5)}, abs=1e-5)


@pytest.mark.parametrize(("shots", "ratio"), [(5.0, math.nan), (2.0, 0.5), (1.5, 0.5)])
def test_the_leave_one_out_margin_counts_only_beyond_two_examples(shots, ratio):
    assert columns(shots=shots, loo_margin=ratio)["loo_margin"] == 0.0


def test_features_are_constant_beyond_what_was_fitted_to():
    assert [columns(ways=n)["log_ways"] for n in (2, 99)] == [columns(ways=n)["log_ways"] for n in (5, 20)]
    assert [columns(shots=n)["inverse_shots"] for n in (50.0, 5.0, 1.0, 0.5)] == [-1.0, -1.0, 1.0, 1.0]
    assert_allclose(columns(shots=5 / 3)["inverse_shots"], 0.0, atol=1e-6)
    assert [columns(similarity=x)["similarity"] for x in (-9.0, 9.0)] == pytest.approx([-0.2, 1.2])
    assert [columns(density=x)["sparsity"] for x in (0.0, 0.4, 0.5, 1.0)] == pytest.approx(
        [2.25, 1.0, 0.0, 0.0], abs=1e-6
    )


# -- features of the support


def read(X, y):
    labels = torch.as_tensor(np.asarray(y))[None]
    sample = SupportSample.choose(labels, int(labels.max()) + 1)
    return sample.features(sample.gather(torch.as_tensor(np.asarray(X), dtype=torch.float32)[None]))


def test_class_similarity_is_the_mean_cosine_of_their_mean_directions():
    # The first class points along (1, 1), the others along the axes: cosines 0.7071, 0.7071 and 0.
    found = read([[3, 0], [0, 1], [5, 0], [0, 7]], [0, 0, 1, 2])
    assert_allclose(found.class_similarity, [2 * math.sqrt(0.5) / 3], rtol=1e-5)


def test_the_leave_one_out_margin_by_hand():
    # Each of the first class is at 60 degrees from the other and 30 from their mean; the second class lies across.
    half, wide = 0.5, math.sqrt(0.75)
    found = read([[1, 0, 0], [half, wide, 0], [0, 0, 2]], [0, 0, 1])
    assert_allclose(found.loo_margin, [half / wide], rtol=1e-5)


def test_density_is_the_mean_absolute_value_over_the_root_mean_square():
    # One number of four apart from 0: 1/2; all four alike, of either sign: 1; padding counts nothing.
    found = read([[3, 0, 0, 0], [1, -1, 1, 1], [9, 9, 9, 9]], [0, 1, -1])
    assert_allclose(found.density, [0.75], rtol=1e-6)


def test_a_query_s_similarity_is_scaled_by_the_support_s():
    # Cosines of the support to its own classes are 1 and to the other 0.6; of the query 0.96 and 0.8.
    clf = PrototypeClassifier()
    support, query = torch.tensor([[[1.0, 0.0], [0.6, 0.8]]]), torch.tensor([[[0.8, 0.6]]])
    features = clf.episode_margins(support, torch.tensor([[0, 1]]), query)[2]
    assert features[0, 0, FEATURES.index("similarity")].item() == pytest.approx((0.96 - 0.6) / (1 - 0.6), rel=1e-5)


def test_single_examples_have_no_leave_one_out_margin_and_padding_changes_nothing():
    assert read([[1, 0], [0, 1]], [0, 1]).loo_margin.isnan().all()
    padded = read([[1, 0, 0], [0.5, math.sqrt(0.75), 0], [0, 0, 2], [9, 9, 9]], [0, 0, 1, -1])
    alone = read([[1, 0, 0], [0.5, math.sqrt(0.75), 0], [0, 0, 2]], [0, 0, 1])
    assert_allclose(padded.loo_margin, alone.loo_margin, rtol=1e-6)
    assert_allclose(padded.class_similarity, alone.class_similarity, atol=1e-6)


def test_tight_classes_have_a_larger_leave_one_out_margin():
    ratio = {noise: read(*clouds(5, 5, noise=noise)).loo_margin.item() for noise in (0.2, 2.0)}
    assert ratio[0.2] > 0.95
    assert ratio[2.0] < 0.6


def test_of_many_classes_the_first_five_examples_of_every_nth_are_sampled():
    labels = torch.arange(60).repeat(20)[None]
    sample = SupportSample.choose(labels, 60)
    assert sample.labels.unique().tolist() == list(range(0, 60, 3))
    assert sample.indices.shape == (1, 100)
    assert int(sample.indices.max()) < 300  # the first five of 60 classes
    assert_array_equal(labels.gather(1, sample.indices), sample.labels)
