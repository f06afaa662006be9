"""Many episodes, each fine-tuned on: the predictions of a loop of fit and predict, beside the untouched encoder's."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from small_networks import thin_encoder

from fewshot import (
    EpisodeSampler,
    FineTuneClassifier,
    ImageError,
    PrototypeClassifier,
    TimmEncoder,
    WhitenedPrototypeClassifier,
    run_finetuning,
)

PROTOTYPES = PrototypeClassifier()


def noisy(label, seed):
    """Coarse noise around one of six tints that lie close together."""
    rng = np.random.default_rng(seed)
    tint = (
        110 + 40 * np.array([label == 0, label == 1, label == 2]) - 40 * np.array([label == 3, label == 4, label == 5])
    )
    return Image.fromarray(
        np.clip(tint + rng.normal(0, 60, (6, 6, 1)) + rng.normal(0, 10, (6, 6, 3)), 0, 255).astype(np.uint8)
    ).resize((64, 64), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def shapes():
    labels = np.repeat(np.arange(6), 8)
    return [noisy(label, number) for number, label in enumerate(labels)], labels


@pytest.fixture(scope="module")
def encoder():
    return thin_encoder()


def sampler_of(labels, **changes):
    return EpisodeSampler(labels, **{"n_way": 3, "n_shot": 2, "n_query": 3, "n_episodes": 3} | changes)


def looped(classifier, images, sampler):
    """What a classifier fitted anew in each episode chooses and predicts."""
    found = []
    for some in sampler:
        for i in range(len(some)):
            known, asked = some.support_labels[i] >= 0, some.query_labels[i] >= 0
            classifier.fit([images[j] for j in some.support[i, known]], some.support_labels[i, known])
            found.append((classifier.choice_, classifier.predict([images[j] for j in some.query[i, asked]])))
    return found


def without_seconds(choice):
    return {name: value for name, value in vars(choice).items() if name != "seconds"}


@pytest.mark.parametrize(
    "settings",
    [
        {"trainable": "last"},
        {"trainable": "head"},
        {"trainable": "lora", "loss": "prototypical", "flip": True, "steps": 4, "learning_rate": 3e-3},
        {"trainable": "norms", "steps": 6, "learning_rate": 3e-3},
        {
            "trainable": "all",
            "schedule": "progressive",
            "steps": 8,
            "tta": True,
            "head": PrototypeClassifier(),
            "views": 3,
        },
    ],
)
def test_the_predictions_are_those_of_fitting_in_each_episode(encoder, shapes, settings):
    images, labels = shapes
    classifier = FineTuneClassifier(encoder, **settings)
    sampler = sampler_of(labels, random_state=2)  # episodes of which some choose steps and some none
    wanted = looped(classifier, images, sampler)
    result = run_finetuning(classifier, images, sampler)
    drawn = result.episodes
    for i, (choice, predicted) in enumerate(wanted):
        assert_array_equal(result["fine-tuning"].predicted[i], predicted)
        assert without_seconds(result.choices[i]) == pytest.approx(without_seconds(choice))
        support, query = (encoder.encode([images[j] for j in of[i]]) for of in (drawn.support, drawn.query))
        for name, frozen in (("whitened", WhitenedPrototypeClassifier()), ("prototype", PrototypeClassifier())):
            frozen.fit(support, drawn.support_labels[i])
            assert_array_equal(result[name].predicted[i], frozen.predict(query))
            assert result[name].seconds > 0
    assert any(choice.steps for choice in result.choices) or settings["trainable"] == "head"
    assert_allclose(
        result["fine-tuning"].accuracies, [(predicted == drawn.query_labels[0]).mean() for _, predicted in wanted]
    )


def test_episodes_of_several_sizes_and_without_replacement(encoder, shapes):
    images, labels = shapes
    classifier = FineTuneClassifier(encoder, trainable="last", steps=3, learning_rate=1e-2, views=2)
    various = EpisodeSampler(labels, n_way="various", n_shot="various", n_query=2, n_episodes=4)
    assert len({int((row >= 0).sum()) for row in next(iter(various)).support_labels}) > 1
    wanted = looped(classifier, images, various)
    result = run_finetuning(classifier, images, various)
    for (_, predicted), row in zip(wanted, result["fine-tuning"].predicted, strict=True):
        assert_array_equal(row[: len(predicted)], predicted)
        assert (row[len(predicted) :] == -1).all()
    assert not len(result["fine-tuning"].disjoint)
    apart = run_finetuning(classifier, images, sampler_of(labels, n_episodes=2, replacement=False))
    assert_array_equal(apart["fine-tuning"].disjoint, apart["fine-tuning"].accuracies)
    assert apart.paired("fine-tuning", "whitened").first == "fine-tuning"


def test_what_cannot_be_fine_tuned_is_refused_before_anything_is(encoder, shapes, tmp_path, monkeypatch):
    images, labels = shapes
    monkeypatch.setattr("fewshot.finetuning.classifier.tune_network", None)
    classifier = FineTuneClassifier(encoder, trainable="last")
    with pytest.raises(ValueError, match="there are 47 images, but the sampler was given 48 labels"):
        run_finetuning(classifier, images[1:], sampler_of(labels))
    with pytest.raises(ValueError, match="trainable must be"):
        run_finetuning(FineTuneClassifier(encoder, trainable="neck"), images, sampler_of(labels))
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    bad = int(next(iter(sampler_of(labels))).query[0, 0])
    with pytest.raises(ImageError, match=rf"bad\.jpg.*image {bad} of 48"):
        run_finetuning(classifier, [*images[:bad], tmp_path / "bad.jpg", *images[bad + 1 :]], sampler_of(labels))
    with pytest.raises(TypeError, match="only a FineTuneClassifier is fine-tuned on episodes, not PrototypeClassifier"):
        run_finetuning(PrototypeClassifier(), images, sampler_of(labels))


def test_a_training_that_diverges_is_named_with_its_episode(encoder, shapes):
    images, labels = shapes
    diverging = FineTuneClassifier(encoder, trainable="last", steps=30, learning_rate=1e30)
    with pytest.raises(ValueError, match="episode 0: fine-tuning diverged at a learning rate of 1e"):
        run_finetuning(diverging, images, sampler_of(labels))


@pytest.mark.gpu
def test_on_a_gpu_the_predictions_are_nearly_those_of_a_cpu(shapes):
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device here")
    images, labels = shapes
    found = []
    for device in ("cuda", "cpu"):
        encoder = TimmEncoder("pocket", device=device, precision="float32")
        classifier = FineTuneClassifier(encoder, trainable="last", steps=4, learning_rate=1e-3, memory=4.0)
        found.append(run_finetuning(classifier, images, sampler_of(labels))["fine-tuning"].predicted)
    assert (found[0] == found[1]).mean() > 0.9


def test_in_bfloat16_a_run_repeats_and_leaves_the_classifier_as_it_was(shapes):
    images, labels = shapes
    rounded = TimmEncoder("pocket", device="cpu", precision="bfloat16")
    classifier = FineTuneClassifier(rounded, trainable="last", steps=2, learning_rate=1e-3, views=2)
    sampler = sampler_of(labels, n_episodes=1)
    found, again = (run_finetuning(classifier, images, sampler)["fine-tuning"] for _ in range(2))
    assert_array_equal(found.predicted, again.predicted)
    assert not hasattr(classifier, "choice_")


def test_the_bar_of_a_run_counts_episodes_and_shows_the_loss(encoder, shapes, monkeypatch):
    images, labels = shapes
    told = []

    class Bar:
        def __init__(self, **settings):
            told.append(settings["desc"])

        def update(self, n):
            told.append(n)

        def set_postfix_str(self, text, refresh):
            told.append(text)

        def close(self):
            told.append("closed")

    monkeypatch.setattr("fewshot.progress._bar_type", lambda: Bar)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    classifier = FineTuneClassifier(encoder, trainable="last", steps=2, learning_rate=1e-3, views=2)
    run_finetuning(classifier, images, sampler_of(labels, n_episodes=2))
    told = told[told.index("fine-tune") :]
    assert [one for one in told if not str(one).startswith("loss ")] == ["fine-tune", 1, 1, "closed"]
    assert len(told) == 4 + 2 * 2
