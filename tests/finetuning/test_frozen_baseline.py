"""The classifier on an untouched encoder: its head, flips, and what speaks against them."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from fewshot import (
    FineTuneClassifier,
    ImageError,
    PrototypeClassifier,
    RidgeClassifier,
    TimmEncoder,
    WhitenedPrototypeClassifier,
)
from fewshot.encoders.tta import encode_flips, flipped_centre
from fewshot.finetuning.frozen_baseline import combined, fit_baseline, flips_stay, worse
from fewshot.finetuning.search import hold_out, untouched


@pytest.fixture(scope="module")
def pocket():
    return TimmEncoder("pocket", device="cpu", precision="float32")


@pytest.fixture(scope="module")
def pictures():
    """Nine images of noise, three of a class that differ in how bright their left half is."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 120, (9, 64, 64, 3), dtype=np.uint8)
    images[3:, :, :32] += 60
    images[6:, :, :32] += 70
    return list(images), ["dark"] * 3 + ["grey"] * 3 + ["light"] * 3


def directions_of(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def some_vectors(sizes, d=12, apart=1.0, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(sizes)), sizes)
    return (rng.normal(0, apart, (len(sizes), d))[labels] + rng.normal(0, 1, (len(labels), d))), labels


def test_flips_stay_where_most_of_each_class_are_closest_to_their_own_class():
    def directions(*flips):
        plain = torch.eye(4)
        return torch.stack([plain, plain[list(flips)]], 1)

    labels = torch.tensor([0, 0, 1, 1])
    assert flips_stay(directions(1, 0, 3, 2), labels, 2)
    assert not flips_stay(directions(1, 0, 3, 0), labels, 2)  # half of class 1, as of "b" and "d"
    assert not flips_stay(directions(2, 3, 0, 1), labels, 2)
    assert flips_stay(directions(0, 1, 2, 3), torch.arange(4), 4)  # one image a class
    assert not flips_stay(directions(0, 1, 2, 1), torch.arange(4), 4)


def test_scores_are_worse_only_by_more_than_the_standard_error_of_the_difference():
    good, bad = torch.tensor([[9.0, 0.0], [9.0, 0.0]]), torch.tensor([[0.0, 9.0], [9.0, 0.0]])
    labels = torch.tensor([0, 0])
    assert worse([bad, bad, good], [good] * 3, [labels] * 3)  # 2 of 6 are wrong
    assert not worse([bad, good], [bad.flip(0), good], [labels] * 2)  # one rises as another falls
    assert not worse([good] * 3, [bad] * 3, [labels] * 3)
    assert not worse([], [], [])


def fitted(vectors, labels, head=None, tta=None):
    codes = torch.tensor(labels)
    splits = hold_out(codes, int(codes.max()) + 1, 0)
    return fit_baseline(vectors, codes, splits, head or WhitenedPrototypeClassifier(), tta=tta)


def test_flips_like_other_classes_are_not_taken_and_others_are():
    X, labels = some_vectors([5, 5, 5], apart=3.0)
    plain = torch.from_numpy(X).float()
    like, turned = plain + 0.1 * torch.randn(15, 12, generator=torch.Generator().manual_seed(0)), plain.roll(5, 0)
    assert fitted(torch.stack([plain, like], 1), labels.tolist()).tta
    assert not fitted(torch.stack([plain, turned], 1), labels.tolist()).tta
    assert fitted(torch.stack([plain, turned], 1), labels.tolist(), tta=True).tta
    assert not fitted(plain[:, None], labels.tolist(), tta=False).tta


@pytest.mark.parametrize("head", [WhitenedPrototypeClassifier(), PrototypeClassifier(metric="sqeuclidean")])
def test_the_accuracy_of_an_untouched_encoder_is_that_of_its_head_on_what_is_held_out(head):
    X, labels = some_vectors([4, 4, 4, 4])
    codes, X = torch.from_numpy(labels), X.astype(np.float32)
    splits = hold_out(codes, 4, 0)
    baseline = fitted(torch.from_numpy(X)[:, None], labels.tolist(), head, tta=False)
    found = untouched(baseline, codes, splits)
    right = [head.fit(X[learn], labels[learn]).predict(X[held]) == labels[held] for learn, held in splits]
    assert (found.steps, found.held_out) == (0, "examples")
    assert found.accuracy_before == found.accuracy_after == pytest.approx(np.mean(right))
    assert np.size(right) == 16
    assert_array_equal(baseline.support, X)
    assert untouched(fitted(torch.rand(4, 1, 2), [0, 1, 2, 3], tta=False), torch.arange(4), []).held_out is None


def test_the_scores_of_a_baseline_are_those_of_its_test_time_augmentation():
    X, labels = some_vectors([4, 4, 4], apart=3.0)
    plain = torch.from_numpy(X).float()
    like = plain + 0.1 * torch.randn(12, 12, generator=torch.Generator().manual_seed(0))
    baseline = fitted(torch.stack([plain, like], 1), labels.tolist())
    both = combined(torch.stack([plain, like], 1)).numpy()
    assert baseline.tta
    assert_allclose(baseline.support, both, atol=1e-6)
    for scores, (learn, held) in zip(baseline.scores, hold_out(torch.from_numpy(labels), 3, 0), strict=True):
        wanted = WhitenedPrototypeClassifier().fit(both[learn], labels[learn]).scores(both[held])
        assert_allclose(scores, wanted, atol=1e-5)


def test_the_flipped_centre_leaves_out_the_edges_and_turns_left_to_right():
    picture = np.zeros((32, 32, 3), np.uint8)
    picture[:, 16:] = 200
    picture[:2] = picture[-2:] = picture[:, :2] = picture[:, -2:] = 77
    found = flipped_centre(picture)
    assert found.shape == (32, 32, 3)
    assert (found[:, :14] == 200).all()
    assert (found[:, 18:] == 0).all()
    wide = flipped_centre(np.tile(np.arange(64, dtype=np.uint8)[None, :, None], (16, 1, 3)))
    # The middle is columns 4 to 59, stretched to 64: the first pixel's centre is at 0.5 * 56 / 64 - 0.5 < 0.
    assert (wide[:, 0] == 59).all()
    assert (wide[:, -1] == 4).all()


def test_flips_are_the_encoders_vectors_of_the_image_and_of_its_flipped_centre(pocket, pictures):
    images = pictures[0]
    found = encode_flips(pocket, images)
    assert_array_equal(found[:, 0], pocket.encode(images))
    assert_allclose(found[:, 1], pocket.encode([flipped_centre(image) for image in images]), atol=1e-5)
    assert_allclose(combined(torch.from_numpy(found)), directions_of(found).sum(1), atol=1e-6)
    prepared = [pocket.loaded.prepare(image) for image in images]
    assert_array_equal(encode_flips(pocket, prepared, prepared=True), found)
    valid = pocket.encode_views([images[0], b"none", images[1]], (np.asarray, flipped_centre))
    assert valid.kept.tolist() == [0, 2]
    assert_allclose(valid.vectors, found[:2], atol=1e-5)
    assert pocket.encode_views([b"none"], (np.asarray, flipped_centre)).vectors.shape == (0, 2, pocket.dim)
    with pytest.raises(ImageError, match="image 0 of 1"):
        encode_flips(pocket, [b"none"])


def test_the_head_alone_needs_no_steps_and_no_chance(pocket, pictures):
    images, labels = pictures
    first, second = (
        FineTuneClassifier(pocket, trainable="head", random_state=seed).fit(images, labels) for seed in (0, 1)
    )
    assert first.encoder_ is pocket
    assert (first.choice_.steps, first.choice_.held_out, first.choice_.parameters) == (0, "examples", 0)
    assert_array_equal(first.predict(images), labels)
    assert_array_equal(first.predict(images), second.predict(images))
    assert_allclose(first.predict_proba(images[:2]).sum(1), 1, rtol=1e-5)
    twice = FineTuneClassifier(pocket, trainable="head", head=PrototypeClassifier(), tta=True).fit(images, labels)
    own = combined(torch.from_numpy(encode_flips(pocket, images))).numpy()
    assert_allclose(twice.scores(images), PrototypeClassifier().fit(own, labels).scores(own), atol=1e-5)
    assert twice.choice_.tta


def test_one_image_a_class_is_classified_without_anything_held_out(pocket, pictures):
    images, labels = pictures
    found = FineTuneClassifier(pocket, trainable="head").fit(images[::3], labels[::3])
    assert (found.choice_.held_out, found.choice_.accuracy_before) == (None, None)
    assert found.predict(images[::3]).tolist() == labels[::3]


def test_a_pickled_classifier_keeps_its_test_time_augmentation(pocket, pictures):
    images, labels = pictures
    found = FineTuneClassifier(pocket, trainable="head", tta=True).fit(images, labels)
    again = pickle.loads(pickle.dumps(found))
    assert_array_equal(again.scores(images), found.scores(images))


def test_a_fine_tuned_encoder_is_read_by_whitened_prototypes_unless_tta_or_another_head_is_asked_for(pocket, pictures):
    images, labels = pictures
    steps = {"trainable": "last", "steps": 1, "learning_rate": 1e-4, "views": 2}
    plain = FineTuneClassifier(pocket, **steps).fit(images, labels)
    assert not plain.choice_.tta
    own = plain.encoder_.encode(images)
    assert_allclose(plain.scores(images), WhitenedPrototypeClassifier().fit(own, labels).scores(own), atol=1e-4)
    head = RidgeClassifier()
    asked = FineTuneClassifier(pocket, **steps, head=head, tta=True).fit(images, labels)
    own = combined(torch.from_numpy(encode_flips(asked.encoder_, images))).numpy()
    assert_allclose(asked.scores(images), RidgeClassifier().fit(own, labels).scores(own), atol=1e-4)
    assert not hasattr(head, "classes_")
    with pytest.raises(ValueError, match=r"head must be one of fewshot's classifiers, as .*\(\), not 'ridge'"):
        FineTuneClassifier(pocket, head="ridge").fit(images, labels)
    with pytest.raises(ValueError, match=r"tta must be True, False or None .*, not 'yes'"):
        FineTuneClassifier(pocket, tta="yes").fit(images, labels)


def test_the_card_of_an_untouched_encoder_says_so_and_takes_numpys_numbers(pocket, pictures, tmp_path):
    images, labels = pictures
    found = FineTuneClassifier(pocket, trainable="head", tta=np.True_, views=np.int64(2), head=RidgeClassifier())
    found.fit(images, labels)
    found.save_encoder(tmp_path / "same")
    card = (tmp_path / "same" / "README.md").read_text()
    assert "pocket, left as it was by `fewshot`" in card
    assert "before, " not in card  # the figures are of a head that is not in the folder
    assert '"tta": true' in card
    assert '"head": "RidgeClassifier()"' in card
    assert TimmEncoder(f"local-dir:{tmp_path / 'same'}").fingerprint == pocket.fingerprint
