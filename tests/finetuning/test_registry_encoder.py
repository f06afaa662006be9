"""A registry's encoder tuned on its own pictures: stored beside it, taken back, or left alone."""

from __future__ import annotations

import json
import os
import re
import shutil
import time

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from fakes import FakeEncoder, png
from PIL import Image

from fewshot import (
    ClassRegistry,
    ImageError,
    NearestNeighborClassifier,
    PrototypeClassifier,
    RegistryError,
    TimmEncoder,
    WhitenedPrototypeClassifier,
)
from fewshot.cli import main
from fewshot.encoders.timm_network import load_network
from fewshot.finetuning import Choice, FineTuneClassifier
from fewshot.finetuning.registry_encoder import _examples, tune_registry
from fewshot.finetuning.search import hold_out
from fewshot.media import image_bytes
from fewshot.training.encoder_folder import write_config, write_weights

SETTINGS = {"trainable": "last", "steps": 2, "learning_rate": 0.01, "views": 2}


def picture(label: int, n: int) -> Image.Image:
    noise = np.random.default_rng(10 * label + n).integers(0, 90, (24, 24, 3))
    noise[4 * label : 4 * label + 6, :, label % 3] += 160
    return Image.fromarray(noise.astype(np.uint8))


def faint(label: int, n: int) -> Image.Image:
    noise = np.random.default_rng(100 * label + n).integers(0, 90, (24, 24, 3))
    noise[4 * (label // 2) : 4 * (label // 2) + 6, :, label % 3] += 20
    return Image.fromarray(noise.astype(np.uint8))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> str:
    """The name of a small encoder: a folder."""
    folder, (size, width) = tmp_path_factory.mktemp("encoder"), (32, 16)
    torch.manual_seed(0)
    network = load_network("fewshot_conv4", pretrained=False, width=width)
    write_config(network, size, {"width": width}, folder)
    write_weights(network, folder)
    return f"local-dir:{folder}"


@pytest.fixture(scope="module")
def filled(encoder, tmp_path_factory):
    """A registry of three classes of two pictures."""
    path = tmp_path_factory.mktemp("registry") / "r.fewshot"
    with ClassRegistry(path, encoder=encoder) as registry:
        for label in range(3):
            registry.add(f"class {label}", [picture(label, n) for n in range(2)])
    return path


@pytest.fixture
def path(filled, tmp_path):
    return shutil.copy(filled, tmp_path / "r.fewshot")


def vectors(path) -> np.ndarray:
    with ClassRegistry(path) as registry:
        registry.export(path.with_name("v.npz"))
    return np.load(path.with_name("v.npz"))["vectors"]


def test_a_tuned_encoder_lies_beside_its_registry_and_made_its_vectors(path, encoder):
    before = vectors(path)
    with ClassRegistry(path) as registry:
        report = tune_registry(registry, **SETTINGS)
        fingerprint = registry.info().fingerprint
    folder = path.with_name(f"r.fewshot.encoder-{fingerprint[:8]}")
    assert report.was["name"] == encoder
    assert report.encoder["name"] == f"local-dir:{folder}"
    assert (report.examples, report.choice.steps) == (6, 2)
    tuned = TimmEncoder(f"local-dir:{folder}")
    assert tuned.fingerprint == fingerprint != TimmEncoder(encoder).fingerprint
    again = tuned.encode([picture(label, n) for label in range(3) for n in range(2)])
    np.testing.assert_allclose(vectors(path), again, rtol=0.02, atol=0.02 * np.abs(again).max())
    assert np.abs(vectors(path) - before).max() > 0.01
    with ClassRegistry(path) as registry:  # opened anew, it finds its encoder by itself
        assert [p.label for p in registry.predict([picture(2, 0)])] == ["class 2"]


def test_a_tuned_registry_is_exported_with_its_encoder_and_without_its_folder(path):
    pytest.importorskip("onnxscript", reason="exporting needs the extra onnx")
    from fewshot.runtime import Recognizer, export_bundle

    with ClassRegistry(path) as registry:
        tune_registry(registry, **SETTINGS)
        export_bundle(registry, path.with_name("b.zip"))
        wanted = registry.predict([picture(label, 5) for label in range(3)], nearest=0)
    assert str(path.parent).encode() not in path.with_name("b.zip").read_bytes()
    found = Recognizer(path.with_name("b.zip")).predict([picture(label, 5) for label in range(3)])
    assert [one.label for one in found] == [one.label for one in wanted]
    np.testing.assert_allclose([one.score for one in found], [one.score for one in wanted], atol=0.02)


@pytest.mark.parametrize("chosen", [None, "prototype", "discriminant", NearestNeighborClassifier(n_neighbors=2)])
def test_the_encoders_are_judged_by_the_classifier_that_answers_for_the_registry(encoder, tmp_path, chosen):
    """The accuracy before is that of learning from the registry's vectors without an example of each class."""
    codes = np.repeat(np.arange(6), 4)
    with ClassRegistry(tmp_path / "r.fewshot", encoder=encoder, classifier=chosen) as registry:
        for label in range(6):
            registry.add(f"class {label}", [faint(label, n) for n in range(4)])
        own = vectors(tmp_path / "r.fewshot")
        report = tune_registry(registry, trainable="last", steps=1, views=2)
        head = WhitenedPrototypeClassifier() if chosen is None else registry.classifier

    def accuracy(head):
        splits = hold_out(torch.from_numpy(codes), 6, 0)
        right = [head.fit(own[learn], codes[learn]).predict(own[held]) == codes[held] for learn, held in splits]
        return np.mean(right)

    assert report.choice.held_out == "examples"
    assert report.choice.accuracy_before == pytest.approx(accuracy(head))
    if chosen != "prototype":
        assert accuracy(head) != accuracy(PrototypeClassifier())


def test_reindexing_takes_it_back(path):
    before = vectors(path)
    with ClassRegistry(path) as registry:
        report = tune_registry(registry, **SETTINGS)
        registry.reindex(report.was["name"])
    np.testing.assert_array_equal(vectors(path), before)


def test_a_registry_and_its_encoder_may_be_moved_together(path, tmp_path):
    with ClassRegistry(path) as registry:
        folder = tune_registry(registry, **SETTINGS).encoder["name"].partition(":")[2]
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for what in (path, folder):
        shutil.move(what, moved)
    with ClassRegistry(moved / "r.fewshot") as registry:
        assert registry.predict([picture(1, 1)])[0].label == "class 1"


def test_an_encoder_that_is_lost_is_named_with_what_to_do_and_a_copy_says_what_it_lacks(path, encoder, tmp_path):
    with ClassRegistry(path) as registry:
        folder = tune_registry(registry, **SETTINGS).encoder["name"].partition(":")[2]
    copy = tmp_path / "copies" / "c.fewshot"
    copy.parent.mkdir()
    run = CliRunner().invoke(main, ["backup", str(path), str(copy)])
    assert run.stderr == f"the copy does not hold the encoder: back up {folder} as well\n"
    assert CliRunner().invoke(main, ["check", str(copy)]).exit_code == 0  # it is where it was
    shutil.rmtree(folder)
    sentence = (
        f"the encoder of {copy} was in the folder {folder}, which is not there. Put it back, or beside the registry"
    )
    with ClassRegistry(copy) as registry, pytest.raises(RegistryError, match=re.escape(sentence)):
        registry.predict([picture(1, 1)])
    run = CliRunner().invoke(main, ["check", str(copy)])
    assert run.exit_code == 1
    (problem,) = json.loads(run.stdout)["problems"]
    assert problem.startswith(sentence)
    assert problem.endswith(f"fewshot reindex {copy} --encoder NAME")
    assert CliRunner().invoke(main, ["reindex", str(copy), "--encoder", encoder]).exit_code == 0
    with ClassRegistry(copy) as registry:
        assert registry.predict([picture(1, 1)])[0].label == "class 1"


def test_pictures_are_read_when_they_are_needed_and_named_if_they_go_meanwhile(encoder, tmp_path):
    files = [tmp_path / f"{n}.png" for n in range(4)]
    for n, file in enumerate(files):
        picture(n % 2, n).save(file)
    with ClassRegistry(tmp_path / "r.fewshot", encoder=encoder, keep_images=False) as registry:
        for n, file in enumerate(files):
            registry.add(f"class {n % 2}", [file])
        images, labels = _examples(registry)
        assert labels == ["class 0", "class 0", "class 1", "class 1"]
        assert [image_bytes(image) for _ in range(2) for image in images] == [
            files[n].read_bytes() for _ in range(2) for n in (0, 2, 1, 3)
        ]
        files[1].unlink()
        with pytest.raises(ImageError, match=r"1\.png"):
            image_bytes(images[2])


def test_where_nothing_does_better_nothing_is_changed(path, monkeypatch):
    content = path.read_bytes()

    def unchanged(self, X, y):
        self.choice_ = Choice(0, 0.0, "views", 0.9, 0.9, False, 10, 0.1)
        return self

    monkeypatch.setattr(FineTuneClassifier, "fit", unchanged)
    with ClassRegistry(path) as registry:
        report = tune_registry(registry, trainable="last")
    assert report.encoder == report.was
    assert report.examples == 0
    assert path.read_bytes() == content
    assert [p.name for p in path.parent.iterdir()] == ["r.fewshot"]
    run = CliRunner().invoke(main, ["tune", str(path)])
    assert "no setting improved on the encoder in cross-validation" in run.stderr
    assert json.loads(run.stdout)["examples"] == 0


def removing(path, label, id_=None):
    """Remove a class, or one example, as another process would."""
    with ClassRegistry(path) as other:
        if id_ is None:
            other.remove(label)
        else:
            other.remove_example(id_)


@pytest.mark.parametrize(("removed", "left"), [(("class 1", 4), 5), (("class 2",), 4)])
def test_examples_that_another_process_removes_while_they_are_listed_are_left_out(path, monkeypatch, removed, left):
    picture_of = ClassRegistry.image

    def removing_meanwhile(self, id_):
        if id_ == 1:
            monkeypatch.undo()
            removing(path, *removed)
        return picture_of(self, id_)

    monkeypatch.setattr(ClassRegistry, "image", removing_meanwhile)
    with ClassRegistry(path) as registry:
        report = tune_registry(registry, **SETTINGS)
        assert (report.examples, report.choice.steps) == (left, 2)
        assert sum(registry.classes().values()) == left


def test_an_example_that_is_removed_before_it_is_learned_from_is_left_out_and_the_others_are_fitted(path, monkeypatch):
    fit, fitted = FineTuneClassifier.fit, []

    def removing_before(self, X, y):
        fitted.append(len(y))
        if len(fitted) == 1:
            removing(path, "class 1", 4)
        return fit(self, X, y)

    monkeypatch.setattr(FineTuneClassifier, "fit", removing_before)
    with ClassRegistry(path) as registry:
        report = tune_registry(registry, **SETTINGS)
    assert fitted == [6, 5]
    assert report.examples == 5


def test_an_image_that_goes_while_it_is_learned_from_is_an_error(encoder, tmp_path, monkeypatch):
    files = [tmp_path / f"{n}.png" for n in range(2)]
    for n, file in enumerate(files):
        picture(n, n).save(file)
    fit = FineTuneClassifier.fit
    monkeypatch.setattr(FineTuneClassifier, "fit", lambda self, X, y: files[0].unlink() or fit(self, X, y))
    with ClassRegistry(tmp_path / "r.fewshot", encoder=encoder, keep_images=False) as registry:
        for n, file in enumerate(files):
            registry.add(f"class {n}", [file])
        with pytest.raises(ImageError, match=r"0\.png"):
            tune_registry(registry, **SETTINGS)


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (
            "fewshot.finetuning.FineTuneClassifier.save_encoder",
            r"cannot write .*r\.fewshot\.encoder-\w+: the disk is full",
        ),
        ("fewshot.registry.registry.reindex", "No space left"),
    ],
)
def test_what_fails_on_the_way_leaves_the_registry_as_it_was(path, monkeypatch, stage, message):
    content = path.read_bytes()

    def failing(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(stage, failing)
    with ClassRegistry(path) as registry, pytest.raises(OSError, match=message):
        tune_registry(registry, **SETTINGS)
    assert path.read_bytes() == content
    assert not [p for p in path.parent.iterdir() if p.name.startswith(".")]


def test_what_cannot_be_tuned_is_refused_before_anything_is_computed(path, tmp_path):
    with ClassRegistry(path) as registry:
        with pytest.raises(ValueError, match="trainable='head' trains no part of an encoder"):
            tune_registry(registry, trainable="head")
        with pytest.raises(FileExistsError, match=r"exists: give another folder"):
            tune_registry(registry, folder=path)
    with ClassRegistry(tmp_path / "own.fewshot", encoder=FakeEncoder()) as registry:
        registry.add("red", [png()])
        with pytest.raises(ValueError, match="made with FakeEncoder: only timm networks and models of sentence-tr"):
            tune_registry(registry)


def test_wrong_settings_and_an_inner_layer_are_refused_before_a_picture_is_read(path, encoder, tmp_path, monkeypatch):
    def read(*_: object) -> None:
        raise AssertionError("a picture was read")

    with ClassRegistry(tmp_path / "inner.fewshot", encoder=TimmEncoder(encoder, layer=1)) as inner:
        inner.add("a", [picture(0, 0)])
        monkeypatch.setattr(ClassRegistry, "image", read)
        with pytest.raises(
            ValueError, match=rf"after layer 1, .* first run fewshot reindex .*inner\.fewshot --encoder {encoder}"
        ):
            tune_registry(inner)
    with ClassRegistry(path) as registry:
        for settings, message in (({"trainable": "layer4"}, "not 'layer4'"), ({"steps": 0}, "at least 1, not 0")):
            with pytest.raises(ValueError, match=message):
                tune_registry(registry, **settings)


def test_pictures_that_are_gone_are_named(encoder, tmp_path):
    file = tmp_path / "gone.png"
    picture(0, 0).save(file)
    with ClassRegistry(tmp_path / "r.fewshot", encoder=encoder, keep_images=False) as registry:
        registry.add("a", [file])
        registry.add("b", [picture(1, 0)])
        file.unlink()
        with pytest.raises(RegistryError, match=r"2 of 2 images cannot be .*example 1, .*gone\.png"):
            tune_registry(registry, **SETTINGS)


def test_the_command_says_how_to_go_back(path, encoder, tmp_path):
    words = ["tune", str(path), "--trainable", "last", "--steps", "1", "--learning-rate", "0.01", "--views", "2"]
    run = CliRunner().invoke(main, [*words, "--out", str(tmp_path / "own")])
    assert run.exit_code == 0, run.stderr
    answer = json.loads(run.stdout)
    assert answer["encoder"]["name"] == f"local-dir:{tmp_path / 'own'}"
    assert answer["choice"]["steps"] == 1
    assert f"fewshot reindex {path} --encoder {encoder}" in run.stderr


def test_a_rate_that_leaves_nothing_finite_is_named_and_changes_nothing(path):
    content = path.read_bytes()
    with ClassRegistry(path) as registry, pytest.raises(ValueError, match=r"diverged at a learning rate of 1e\+30"):
        tune_registry(registry, **{**SETTINGS, "learning_rate": 1e30})
    assert path.read_bytes() == content


def test_a_folder_that_cannot_be_written_is_refused_before_the_work(path, tmp_path):
    with ClassRegistry(path) as registry, pytest.raises(FileNotFoundError, match=r"there is no folder .*none"):
        tune_registry(registry, folder=tmp_path / "none" / "encoder", **SETTINGS)


def test_what_a_tuning_makes_useless_is_told(path, tmp_path):
    with ClassRegistry(path) as registry:
        vectors = np.random.default_rng(0).normal(size=(40, registry.info().dim)).astype(np.float32)
        registry.rejection.set(0.5, background=vectors, labels=[str(n % 20) for n in range(40)])
    run = CliRunner().invoke(
        main, ["tune", str(path), "--trainable", "last", "--steps", "1", "--learning-rate", "0.01"]
    )
    assert run.exit_code == 0, run.stderr
    assert "40 background vectors" in run.stderr
    assert "--background DATA" in run.stderr


@pytest.mark.parametrize("folder", [None, "enc"])
def test_what_a_killed_tuning_left_is_removed_an_hour_later_and_nothing_else_is(path, monkeypatch, folder):
    class KilledError(BaseException):
        pass

    def killed(*_: object, **__: object) -> None:
        raise KilledError

    chosen = None if folder is None else path.with_name(folder)
    monkeypatch.setattr(
        "fewshot.finetuning.registry_encoder.shutil.rmtree", lambda *_, **__: None
    )  # as a killed process removes nothing
    monkeypatch.setattr(FineTuneClassifier, "save_encoder", killed)
    with ClassRegistry(path) as registry, pytest.raises(KilledError):
        tune_registry(registry, folder=chosen, **SETTINGS)
    monkeypatch.undo()
    (left,) = path.parent.glob(".*")
    (left / "model.safetensors").write_bytes(b"half")
    own = [path.with_name(name) for name in (f".{path.name}-mine", ".other.fewshot.encoder-12345678-abcdefgh.part")]
    for other in own:
        other.mkdir()
        os.utime(other, (0, 0))

    monkeypatch.setattr(FineTuneClassifier, "fit", killed)  # what is left is removed before the work
    for age, there in ((3500, True), (3700, False)):
        os.utime(left, times=(time.time() - age,) * 2)
        with ClassRegistry(path) as registry, pytest.raises(KilledError):
            tune_registry(registry, folder=chosen, **SETTINGS)
        assert left.exists() is there
    assert all(other.exists() for other in own)
