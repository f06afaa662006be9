"""FineTuneClassifier: it learns, does no harm, leaves the encoder alone, and is saved."""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils import get_tags
from sklearn_api import check_without_data
from small_networks import thin_encoder
from tinted_data import directions_of, tinted_images

from fewshot import (
    EmbeddingCache,
    FineTuneClassifier,
    ImageError,
    LinearDiscriminantClassifier,
    NearestNeighborClassifier,
    PrototypeClassifier,
    TimmEncoder,
    WhitenedPrototypeClassifier,
)
from fewshot.calibration import shipped_calibration
from fewshot.encoders.timm_network import load_network
from fewshot.encoders.tta import flipped_centre
from fewshot.finetuning import search
from fewshot.finetuning.top_trainer import TopTrainer


@pytest.fixture(scope="module")
def encoder():
    return thin_encoder()


@pytest.fixture(scope="module")
def support():
    return tinted_images(3)


@pytest.fixture(scope="module")
def queries():
    images, labels = tinted_images(10, first=100)
    return images, np.array(labels)


def test_fine_tuning_learns_what_the_frozen_encoder_does_not_see_and_leaves_it_alone(encoder, support, queries):
    images, labels = support
    before = encoder.encode(queries[0])
    frozen = PrototypeClassifier().fit(encoder.encode(images), labels).predict(before)
    classifier = FineTuneClassifier(encoder, trainable="last-2", steps=40, learning_rate=3e-3).fit(images, labels)
    tuned = classifier.predict(queries[0])
    assert (tuned == queries[1]).mean() > (frozen == queries[1]).mean() + 0.1
    assert_array_equal(encoder.encode(queries[0]), before)
    assert classifier.encoder_.fingerprint != encoder.fingerprint
    assert_array_equal(classifier.predict(queries[0]), tuned)
    assert classifier.predict_proba(queries[0][:4]).sum(1) == pytest.approx(1)
    assert_array_equal(classifier.classes_[classifier.scores(queries[0]).argmax(1)], tuned)
    by_hand = WhitenedPrototypeClassifier().fit(directions_of(classifier.encoder_.encode(images)), labels)
    assert_array_equal(by_hand.predict(classifier.encoder_.encode(queries[0])), tuned)
    assert (classifier.choice_.steps, classifier.choice_.held_out) == (40, None)
    assert classifier.choice_.parameters == 2 * (16 * 16 * 9 + 2 * 16)


@pytest.mark.parametrize(
    "settings",
    [
        {"trainable": "head"},
        {"trainable": "lora", "steps": 2},
        {"trainable": "norms", "learning_rate": 1e-3, "steps": 2, "loss": "prototypical"},
        {"trainable": "all", "steps": 2, "flip": True, "views": 2},
    ],
)
def test_every_way_of_training_runs_and_repeats_with_its_random_state(encoder, support, settings):
    images, labels = support
    state = torch.random.get_rng_state()
    first, second = (FineTuneClassifier(encoder, **settings).fit(images, labels) for _ in range(2))
    assert_array_equal(first.scores(images), second.scores(images))
    assert replace(first.choice_, seconds=0) == replace(second.choice_, seconds=0)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert (first.choice_.parameters > 0) == (settings["trainable"] != "head")


def test_one_image_of_a_class_is_enough(encoder, support):
    images, labels = support
    classifier = FineTuneClassifier(encoder, trainable="last", views=4, steps=2).fit(images[::3], labels[::3])
    assert classifier.choice_.held_out == "views"
    assert classifier.predict(images[::3]).tolist() == labels[::3]


@pytest.mark.parametrize("tta", [False, True])
def test_an_untouched_classifier_classifies_the_vectors_of_the_given_encoder(
    encoder, support, queries, monkeypatch, tta
):
    monkeypatch.setattr(search, "_MARGIN_EXAMPLES", math.inf)
    images, labels = support
    encoded: list[int] = []
    encode_views = TimmEncoder.encode_views

    def counting(self, images, views, **settings):
        encoded.append(len(images) * len(views))
        return encode_views(self, images, views, **settings)

    monkeypatch.setattr(TimmEncoder, "encode_views", counting)
    classifier = FineTuneClassifier(encoder, trainable="last", steps=2, tta=tta).fit(images, labels)
    assert sum(encoded) == (1 + tta) * len(images)  # once each: what chose the answer is what it learns from
    assert (classifier.choice_.steps, classifier.choice_.learning_rate) == (0, 0.0)
    assert classifier.choice_.tta is tta
    assert classifier.encoder_ is encoder
    flipped = [[flipped_centre(np.asarray(image)) for image in each] for each in (images, queries[0])]
    own, asked = (
        directions_of(encoder.encode(plainly)) + tta * directions_of(encoder.encode(flips))
        for plainly, flips in zip((images, queries[0]), flipped, strict=True)
    )
    head = WhitenedPrototypeClassifier().fit(own, labels)
    assert_allclose(classifier.scores(queries[0]), head.scores(asked), atol=1e-3)


class CountingFile(io.BytesIO):
    """Counts how often it is read."""

    reads = 0

    def read(self, size=-1):
        self.reads += 1
        return super().read(size)


def test_each_image_is_read_once_a_fit(encoder, support):
    files = []
    for image in support[0]:
        files.append(CountingFile())
        image.save(files[-1], "png")
        files[-1].seek(0)
        files[-1].reads = 0
    found = FineTuneClassifier(encoder, trainable="last", steps=2).fit(files, support[1])
    assert [file.reads for file in files] == [1] * len(files)
    assert found.choice_.held_out == "examples"


def test_an_interrupted_fit_leaves_the_classifier_as_it_was(encoder, support, monkeypatch):
    images, labels = support
    classifier = FineTuneClassifier(encoder, trainable="last", steps=2, learning_rate=1e-3).fit(images, labels)
    before, threads = classifier.scores(images), torch.get_num_threads()

    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(TopTrainer, "_backward", stopped)
    with pytest.raises(KeyboardInterrupt):
        classifier.fit(images[:6], labels[:6])
    assert_array_equal(classifier.scores(images), before)
    assert torch.get_num_threads() == threads


def test_it_is_cloned_like_any_estimator(encoder, support):
    classifier = FineTuneClassifier(encoder, trainable="last", steps=1, learning_rate=1e-3)
    twin = clone(classifier)
    assert twin.get_params(deep=False).keys() == classifier.get_params(deep=False).keys()
    assert twin.encoder.fingerprint == encoder.fingerprint
    with pytest.raises(NotFittedError):
        twin.predict(support[0])
    assert twin.fit(*support).classes_.tolist() == ["blue", "green", "red"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"trainable": "last-9"}, r"'last-N' with N from 1 to 4 \(the blocks of Conv4\)"),
        ({"loss": "triplet"}, "loss must be one of 'cross-entropy', 'prototypical', not 'triplet'"),
        ({"trainable": "head", "loss": "prototypical"}, "'head' takes no gradient steps, but loss='prototypical'"),
        ({"trainable": "head", "steps": 9}, "'head' takes no gradient steps, but steps=9: leave it out, or train"),
        ({"schedule": "late"}, "schedule must be one of"),
        ({"steps": 0}, "steps must be a whole number of at least 1, not 0"),
        ({"learning_rate": 0.0}, "learning_rate must be a finite number above 0, not 0.0"),
        ({"learning_rate": "fast"}, "learning_rate must be a finite number above 0, not 'fast'"),
        ({"memory": -1.0}, "memory must be a finite number above 0"),
        ({"memory": 1e-4, "trainable": "last"}, r"9 images take 0\.0001 GiB .*, more than memory=0\.0001 GiB"),
        ({"flip": "yes"}, "flip must be True or False, not 'yes'"),
        ({"random_state": 2**32}, "random_state must be at most 4294967295, as numpy's, not 4294967296"),
        ({"views": 0}, "views must be a whole number of at least 1"),
    ],
)
def test_a_wrong_parameter_is_refused_naming_the_right_ones(encoder, support, settings, message):
    with pytest.raises(ValueError, match=message):
        FineTuneClassifier(encoder, **settings).fit(*support)


def test_one_class_unreadable_images_and_unfit_encoders_are_refused(encoder, support, tmp_path):
    images, labels = support
    with pytest.raises(ValueError, match=r"only \['red'\]: give two"):
        FineTuneClassifier(encoder).fit(images[:2], ["red", "red"])
    (tmp_path / "bad.jpg").write_bytes(b"hello")
    with pytest.raises(ImageError, match=r"bad\.jpg: not an image.*1 of the 2 images to learn from"):
        FineTuneClassifier(encoder).fit([images[0], tmp_path / "bad.jpg"], ["a", "b"])
    layered = clone(encoder).set_params(layer=1)
    with pytest.raises(ValueError, match=r"after layer 1, but .* without layer"):
        FineTuneClassifier(layered).fit(images, labels)
    for settings in ({"layers": [1]}, {"tta": True}):
        with pytest.raises(ValueError, match=r"fine-tuning reads the network's own embedding.* without"):
            FineTuneClassifier(clone(encoder).set_params(**settings)).fit(images, labels)
    with pytest.raises(TypeError, match="not EmbeddingCache; of a cache, give its encoder"):
        FineTuneClassifier(EmbeddingCache(encoder, tmp_path / "cache.db")).fit(images, labels)


@pytest.mark.parametrize("trainable", ["layer4", "last-0", "", 2])
def test_parts_of_no_network_are_refused_before_an_image_is_read(trainable):
    with pytest.raises(ValueError, match=r"trainable must be 'head', 'last', 'last-N' .*, not ") as caught:
        FineTuneClassifier("no such encoder", trainable=trainable).fit(["no.jpg", "none.jpg"], [0, 1])
    assert repr(trainable) in str(caught.value)


def test_an_encoder_is_not_saved_in_the_place_of_a_file(encoder, support, tmp_path):
    classifier = FineTuneClassifier(encoder, trainable="head", tta=False).fit(*support)
    (tmp_path / "mine").write_text("notes")
    with pytest.raises(NotADirectoryError, match=r"cannot write .*mine: it is a file; give a folder"):
        classifier.save_encoder(tmp_path / "mine")
    assert (tmp_path / "mine").read_text() == "notes"


@pytest.mark.parametrize(
    "head",
    [None, PrototypeClassifier(metric="sqeuclidean"), LinearDiscriminantClassifier()],
    ids=["default", "means", "lda"],
)
def test_an_exported_classifier_answers_alike_without_torch(head, encoder, support, queries, tmp_path):
    pytest.importorskip("onnxscript", reason="exporting needs the extra onnx")
    from fewshot.runtime import Recognizer

    classifier = FineTuneClassifier(
        encoder, head=head, tta=False, trainable="last", steps=2, learning_rate=1e-3, views=2
    ).fit(support[0], [7 if label == support[1][0] else 8 for label in support[1]])
    size = classifier.export_onnx(tmp_path / "b.zip")
    assert size == (tmp_path / "b.zip").stat().st_size
    recognizer = Recognizer(tmp_path / "b.zip")
    assert list(recognizer.classes()) == ["7", "8"]
    found = recognizer.predict(queries[0][:6])
    scores, probabilities = classifier.scores(queries[0][:6]), classifier.predict_proba(queries[0][:6])
    assert [one.label for one in found] == [str(label) for label in classifier.predict(queries[0][:6])]
    assert [one.score for one in found] == pytest.approx(scores.max(1), abs=1e-3)
    assert [one.probability for one in found] == pytest.approx(probabilities.max(1), abs=1e-3)


def test_a_classifier_that_a_bundle_cannot_hold_is_refused(encoder, support, tmp_path):
    pytest.importorskip("onnxscript", reason="exporting needs the extra onnx")
    with pytest.raises(NotFittedError):
        FineTuneClassifier(encoder).export_onnx(tmp_path / "b.zip")
    flipped = FineTuneClassifier(encoder, trainable="head", tta=True).fit(*support)
    with pytest.raises(ValueError, match="also embeds each image flipped, as a bundle does not: fit it with tta=False"):
        flipped.export_onnx(tmp_path / "b.zip")
    same = FineTuneClassifier(encoder, trainable="head", tta=False).fit(support[0][:2], np.array([1, "1"], object))
    with pytest.raises(ValueError, match=r"two of \[1, '1'\] are the same text"):
        same.export_onnx(tmp_path / "b.zip")
    nearest = FineTuneClassifier(encoder, trainable="head", tta=False, head=NearestNeighborClassifier()).fit(*support)
    with pytest.raises(ValueError, match="NearestNeighborClassifier cannot be exported"):
        nearest.export_onnx(tmp_path / "b.zip")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("pool", [None, "max"])
def test_a_saved_encoder_loads_with_the_same_fingerprint_vectors_and_preprocessing(pool, support, tmp_path):
    torch.manual_seed(0)
    name = "test_resnet.r160_in1k"  # 160 pixels, crop 0.95, bilinear: not what `fewshot train` writes
    first = TimmEncoder(name, pretrained=False, pool=pool, device="cpu", precision="float32")
    encoder = first.with_network(load_network(name, pretrained=False))
    images, labels = [support[0][i] for i in (0, 3)], ["a", "b"]
    classifier = FineTuneClassifier(encoder, trainable="last", steps=1, learning_rate=1e-3, views=2)
    classifier.fit(images, labels).save_encoder(tmp_path / "mine")
    loaded = TimmEncoder(f"local-dir:{tmp_path / 'mine'}", pool=pool, device="cpu", precision="float32")
    assert loaded.fingerprint == classifier.encoder_.fingerprint != encoder.fingerprint
    assert_array_equal(loaded.encode(images), classifier.encoder_.encode(images))
    config = json.loads((tmp_path / "mine" / "config.json").read_text())["pretrained_cfg"]
    assert (config["input_size"], config["crop_pct"], config["interpolation"]) == ([3, 160, 160], 0.95, "bilinear")
    card = (tmp_path / "mine" / "README.md").read_text()
    assert '"trainable": "last"' in card
    assert (', pool="max"' in card.replace("'", '"')) == (pool == "max")


@pytest.mark.data
def test_a_real_network_keeps_the_settings_of_its_folder_when_saved(shared, support, tmp_path):
    encoder = TimmEncoder(f"local-dir:{shared / 'weights' / 'mobilenetv2_100.tf_in1k'}", device="cpu")
    images, labels = [support[0][i] for i in (0, 3)], ["a", "b"]
    classifier = FineTuneClassifier(encoder, trainable="last", steps=1, learning_rate=1e-3, views=2)
    classifier.fit(images, labels).save_encoder(tmp_path / "mine")
    assert json.loads((tmp_path / "mine" / "config.json").read_text())["model_args"] == {"pad_type": "same"}
    assert (tmp_path / "mine" / "model.safetensors").stat().st_size < 7_000_000  # frozen blocks stay float16
    assert_array_equal(TimmEncoder(f"local-dir:{tmp_path / 'mine'}").encode(images), classifier.encoder_.encode(images))


def test_probabilities_of_pocket_are_as_sharp_as_pockets():
    rng = np.random.default_rng(0)
    images = list(rng.integers(0, 256, (4, 64, 64, 3), dtype=np.uint8))
    classifier = FineTuneClassifier("pocket", trainable="head", tta=False).fit(images, [0, 0, 1, 1])
    vectors = directions_of(classifier.encoder_.encode(images))
    own = classifier._classifier.predict_proba(vectors, shipped_calibration(TimmEncoder("pocket").fingerprint))
    assert_allclose(classifier.predict_proba(images), own, atol=1e-6)
    assert not np.allclose(own, classifier._classifier.predict_proba(vectors))  # the table of other encoders


def test_it_passes_scikit_learns_checks_and_its_tags_are_true(encoder):
    classifier = FineTuneClassifier(encoder)
    assert check_without_data(classifier) >= 7
    tags = get_tags(classifier)
    assert tags.estimator_type == "classifier"
    assert tags.requires_fit
    assert tags.target_tags.required


def test_it_learns_from_a_table_of_one_column(encoder, support, tmp_path):
    pandas = pytest.importorskip("pandas")
    images, labels = support
    paths = [str(tmp_path / f"{number}.png") for number in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        image.save(path)
    classifier = FineTuneClassifier(encoder, trainable="head").fit(pandas.DataFrame({"path": paths}), labels)
    assert_array_equal(classifier.scores(np.array(paths)[:, None]), classifier.scores(images))
