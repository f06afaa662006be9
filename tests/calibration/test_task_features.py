"""What a task shows of how sure its answers may be, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from classifier_variants import clouds
from numpy.testing import assert_allclose, assert_array_equal

from fewshot import PrototypeClassifier
from fewshot.calibration.task_features import DOUBTS, SIGNS, Signs
from fewshot.classifiers.support_sample import Witnesses


def columns(ways=10, shots=5 / 3, alike=0.5, kept=math.nan, broad=0.5, gap=(0.0, 1.0, 2.0), near=0.0, together=False):
    """The signs of one query by name."""
    one = (torch.tensor([value]) for value in (shots, alike, kept, broad))
    found = Signs(ways, *one).columns(torch.tensor([[gap]]), torch.tensor([[near]]), together=together)
    return dict(zip(SIGNS, found[0, 0].tolist(), strict=True))


def test_signs_by_hand():
    found = columns(ways=20, shots=1.0, alike=0.75, kept=0.5, broad=0.45, gap=(0.0, 0.25, 0.75), near=0.4)
    few, ways, lead = 1.0, math.log(2), math.log(0.5)  # the others are 0.5 behind on average
    by_hand = {"one": 1.0, "ways": ways, "few": few, "lead": lead, "near": 0.4, "alike": 0.5, "broad": -0.5}
    by_hand |= {"kept": math.log(0.5) + 0.5, "own-lead": 0.0, "own-near": 0.0}
    for name, value in found.items():
        assert value == pytest.approx(math.prod(by_hand[part] for part in name.split()), abs=1e-5), name
    assert {part for name in SIGNS for part in name.split()} == set(by_hand)
    assert columns(kept=math.nan)["kept"] == 0.0


def test_what_tells_how_much_to_doubt_and_to_bend_is_among_the_signs():
    assert set(DOUBTS) <= set(SIGNS)


def test_signs_are_constant_beyond_the_ways_and_shots_that_were_fitted_to():
    assert [columns(ways=n)["ways"] for n in (2, 99)] == [columns(ways=n)["ways"] for n in (5, 20)]
    assert [columns(shots=n)["few"] for n in (50.0, 5.0)] == [-1.0, -1.0]
    assert_allclose(columns(shots=5 / 3)["few"], 0.0, atol=1e-6)
    assert [columns(near=x)["near"] for x in (-9.0, 9.0)] == pytest.approx([-0.2, 1.2])
    assert [columns(broad=x)["broad"] for x in (0.0, 1.0)] == pytest.approx([-1.5, 0.5])


def test_queries_asked_together_share_their_lead_beside_their_own_and_others_do_not():
    gap, near = torch.tensor([[[0.0, 0.2], [0.8, 0.0]]]), torch.tensor([[0.1, 0.5]])
    one = torch.ones(1)
    of = {which: Signs(2, one, one, one, one).columns(gap, near, together=which)[0] for which in (True, False)}
    lead, near, own_lead, own_near = (SIGNS.index(name) for name in ("lead", "near", "own-lead", "own-near"))
    assert_allclose(of[True][:, lead].exp(), [0.5, 0.5], rtol=1e-5)
    assert_allclose(of[True][:, own_lead].exp(), [0.4, 1.6], rtol=1e-5)
    assert_allclose(of[True][:, near], [0.3, 0.3], rtol=1e-5)
    assert_allclose(of[True][:, own_near], [-0.2, 0.2], rtol=1e-5)
    assert_allclose(of[False][:, lead].exp(), [0.2, 0.8], rtol=1e-5)
    assert_allclose(of[False][:, near], [0.1, 0.5], rtol=1e-5)
    assert not of[False][:, [own_lead, own_near]].any()


# -- what the support shows


def read(X, y):
    labels = torch.as_tensor(np.asarray(y))[None]
    witnesses = Witnesses.among(labels, int(labels.max()) + 1)
    return witnesses.signs(witnesses.gathered(torch.as_tensor(np.asarray(X), dtype=torch.float32)[None]))


def test_how_alike_classes_are_is_the_mean_cosine_of_their_mean_directions():
    # The first class points along (1, 1), the others along the axes: cosines 0.7071, 0.7071 and 0.
    found = read([[3, 0], [0, 1], [5, 0], [0, 7]], [0, 0, 1, 2])
    assert_allclose(found.alike, [2 * math.sqrt(0.5) / 3], rtol=1e-5)


def test_what_left_out_examples_keep_of_their_margin_by_hand():
    # Each of the first class is at 60 degrees from the other and 30 from their mean; the second class lies across.
    half, wide = 0.5, math.sqrt(0.75)
    found = read([[1, 0, 0], [half, wide, 0], [0, 0, 2]], [0, 0, 1])
    assert_allclose(found.kept, [half / wide], rtol=1e-5)


def test_how_broad_examples_are_is_their_mean_absolute_number_in_root_mean_squares():
    # One number of four apart from 0: 1/2; all four alike, of either sign: 1; padding counts nothing.
    found = read([[3, 0, 0, 0], [1, -1, 1, 1], [9, 9, 9, 9]], [0, 1, -1])
    assert_allclose(found.broad, [0.75], rtol=1e-6)


def test_a_query_is_as_near_as_the_support_says():
    # Cosines of the support to its own classes are 1 and to the other 0.6; of the query 0.96 and 0.8.
    clf = PrototypeClassifier()
    support, query = torch.tensor([[[1.0, 0.0], [0.6, 0.8]]]), torch.tensor([[[0.8, 0.6]]])
    signs = clf.episode_gaps(support, torch.tensor([[0, 1]]), query)[2]
    assert signs[0, 0, SIGNS.index("near")].item() == pytest.approx((0.96 - 0.6) / (1 - 0.6), rel=1e-5)


def test_padding_and_single_examples_tell_nothing_of_what_is_kept():
    assert read([[1, 0], [0, 1]], [0, 1]).kept.isnan().all()
    padded = read([[1, 0, 0], [0.5, math.sqrt(0.75), 0], [0, 0, 2], [9, 9, 9]], [0, 0, 1, -1])
    alone = read([[1, 0, 0], [0.5, math.sqrt(0.75), 0], [0, 0, 2]], [0, 0, 1])
    assert_allclose(padded.kept, alone.kept, rtol=1e-6)
    assert_allclose(padded.alike, alone.alike, atol=1e-6)


def test_examples_of_tight_classes_keep_more_of_their_margin():
    kept = {noise: read(*clouds(5, 5, noise=noise)).kept.item() for noise in (0.2, 2.0)}
    assert kept[0.2] > 0.95
    assert kept[2.0] < 0.6


def test_of_many_classes_every_nth_bears_witness_with_its_first_five():
    labels = torch.arange(60).repeat(20)[None]
    witnesses = Witnesses.among(labels, 60)
    assert witnesses.labels.unique().tolist() == list(range(0, 60, 3))
    assert witnesses.where.shape == (1, 100)
    assert int(witnesses.where.max()) < 300  # the first five of 60 classes
    assert_array_equal(labels.gather(1, witnesses.where), witnesses.labels)
