"""A registry is exported to the same bytes each time, without images and paths, or refused with the reason."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from digit_scans import scan
from PIL import Image

from fewshot import ClassRegistry, FunctionEncoder
from fewshot.cli import main
from fewshot.errors import NoClasses
from fewshot.registry import EncoderComparison
from fewshot.runtime import BundleReport, Recognizer, export_bundle
from fewshot.runtime.bundle_file import read_bundle, write_bundle


def call(*arguments, status=0):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == status, (result.output, result.exception)
    return result


def test_the_same_registry_gives_the_same_bytes_on_another_day(exported, tmp_path, monkeypatch):
    monkeypatch.setattr("time.time", lambda: 2e9)
    found = json.loads(call("export", exported.registry, tmp_path / "again.zip", "--onnx").stdout)
    assert found == {
        "file": str(tmp_path / "again.zip"), "classes": 4, "bytes": exported.bundle.stat().st_size
    }  # fmt: skip
    assert (tmp_path / "again.zip").read_bytes() == exported.bundle.read_bytes()


def test_it_holds_no_image_and_no_path(exported):
    data = exported.bundle.read_bytes()
    for foreign in (b"\x89PNG", b"\xff\xd8\xff", str(exported.bundle.parent).encode(), b"site-packages", b".fewshot"):
        assert foreign not in data
    with zipfile.ZipFile(exported.bundle) as file:
        assert set(file.namelist()) == {
            "bundle.json", "LICENSE.txt", "encoder.onnx", "head_vectors.npy", "head_center.npy", "head_axes.npy",
            "head_factors.npy", "unknown_center.npy", "self_test.npy",
        }  # fmt: skip
        text = file.read("LICENSE.txt").decode()
        about = json.loads(file.read("bundle.json"))
    assert text.startswith("encoder.onnx holds the weights of pocket.\nLicense of the weights: other")
    assert "non-commercial research and education only" in text
    assert (about["labels"], about["counts"]) == (["digit 0", "digit 1", "digit 2", "digit 3"], [5, 5, 5, 5])
    assert about["encoder"]["name"] == "pocket"
    assert about["preparation"]["interpolation"] == "bicubic"


def test_the_command_predicts_with_a_bundle_as_with_the_registry(exported, tmp_path):
    for n, digit in enumerate((0, 3, 7)):
        Image.fromarray(scan(digit, 9)).save(tmp_path / f"{n}.png")
    (tmp_path / "3.png").write_bytes(b"no image")
    with_registry, with_bundle = (
        json.loads(call("predict", path, tmp_path, "--nearest", 0, status=1).stdout)
        for path in (exported.registry, exported.bundle)
    )
    assert [one.get("label") for one in with_bundle] == [one.get("label") for one in with_registry]
    assert "error" in with_bundle[3]
    for one, other in zip(with_bundle[:3], with_registry[:3], strict=True):
        assert one.keys() == other.keys()
        assert abs(one["score"] - other["score"]) < 0.01  # the registry's precision here is the fastest
    table = call("predict", exported.bundle, tmp_path / "0.png", "--format", "table").stdout
    assert "digit 0" in table


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--encoder", "pocket"), "--encoder is of an encoder"),
        (("--text", "a"), "is a bundle, which recognises images one by one"),
    ],
)
def test_options_that_a_bundle_has_no_use_for_are_refused(options, told, exported):
    assert told in call("predict", exported.bundle, "a.png", *options, status=2).stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("out.npz", "--onnx"), "a bundle is a .zip, not 'out.npz'"),
        (("out.npz", "--opset", "20"), "--opset is for --onnx"),
        (("out.npz", "--int8"), "--int8 is for --onnx"),
    ],
)
def test_a_wrong_use_is_told_before_any_work(arguments, told, exported):
    assert told in call("export", exported.registry, *arguments, status=2).stderr


def test_a_classifier_that_compares_with_examples_is_refused(float32, tmp_path):
    with ClassRegistry(tmp_path / "r.fewshot", encoder=float32) as registry:
        registry.add("a", scan(0, 0))
        registry.set_classifier("nearest")
        with pytest.raises(ValueError, match="NearestNeighborClassifier cannot be exported: it compares a query with"):
            export_bundle(registry, tmp_path / "b.zip")
        assert not (tmp_path / "b.zip").exists()


def test_an_encoder_of_ones_own_is_refused(tmp_path):
    encoder = FunctionEncoder(lambda images: np.ones((len(images), 4), np.float32), 4, "ones")
    with ClassRegistry(tmp_path / "r.fewshot", encoder=encoder) as registry:
        registry.add("a", scan(0, 0))
        with pytest.raises(ValueError, match="FunctionEncoder cannot be exported: a bundle holds networks of timm"):
            export_bundle(registry, tmp_path / "b.zip")


def test_a_registry_without_classes_is_refused(tmp_path, float32):
    with ClassRegistry(tmp_path / "r.fewshot", encoder=float32) as registry:
        with pytest.raises(NoClasses, match=r"r\.fewshot holds no classes to export"):
            export_bundle(registry, tmp_path / "b.zip")


@pytest.fixture(scope="module")
def in_int8(float32, with_head, tmp_path_factory):
    """Paths of a registry and of its bundle in int8, and the report."""
    folder = tmp_path_factory.mktemp("int8")
    with ClassRegistry(folder / "digits.fewshot", encoder=float32) as registry:
        for digit in range(10):
            registry.add(f"digit {digit}", [scan(digit, n) for n in range(5)])
        registry.rejection.set(max_false_accept=0.1)
        report = with_head(registry, folder / "digits.zip", int8=True)
    return SimpleNamespace(registry=folder / "digits.fewshot", bundle=folder / "digits.zip", report=report)


def test_int8_answers_as_the_registry_from_a_quarter_of_the_bytes(in_int8, exported, float32):
    images = [scan(digit, n) for digit in range(10) for n in range(20, 30)]
    with ClassRegistry(in_int8.registry, encoder=float32) as registry:
        wanted = registry.predict(images, nearest=0)
    found = Recognizer(in_int8.bundle).predict(images)
    assert np.mean([a.top[0][0] == b.top[0][0] for a, b in zip(found, wanted, strict=True)]) >= 0.98
    assert np.mean([a.label == b.label for a, b in zip(found, wanted, strict=True)]) >= 0.98
    assert max(abs(a.score - b.score) for a, b in zip(found, wanted, strict=True)) < 0.02
    assert in_int8.report.size == in_int8.bundle.stat().st_size < 0.3 * exported.bundle.stat().st_size


def test_int8_is_measured_by_leaving_out_each_example(in_int8, float32):
    with ClassRegistry(in_int8.registry, encoder=float32) as registry:
        (chosen,) = (one for one in registry.compare_classifiers() if one.chosen)
    found = in_int8.report.leave_one_out
    assert (found.own, found.n) == (chosen.accuracy, 50)
    assert abs(found.other - found.own) <= 0.02


def test_int8_gives_the_same_bytes_each_time_also_when_it_is_read_and_written(in_int8, float32, with_head, tmp_path):
    with ClassRegistry(in_int8.registry, encoder=float32) as registry:
        with_head(registry, tmp_path / "again.zip", int8=True)
    write_bundle(read_bundle(in_int8.bundle), tmp_path / "copy.zip")
    for name in ("again.zip", "copy.zip"):
        assert (tmp_path / name).read_bytes() == in_int8.bundle.read_bytes()


def test_a_class_is_added_to_a_bundle_in_int8(in_int8, tmp_path):
    path = shutil.copy(in_int8.bundle, tmp_path / "b.zip")
    recognizer = Recognizer(path)
    recognizer.remove("digit 7")
    recognizer.add("seven", [scan(7, n) for n in range(3)])
    assert Recognizer(path).predict(scan(7, 9), max_false_accept=1)[0].label == "seven"


def test_the_command_says_what_int8_costs(in_int8, tmp_path, with_head, float32, monkeypatch):
    def written(registry, path, **options):
        assert options["int8"]
        with_head(registry, path, int8=True)
        return BundleReport(9, *report)

    monkeypatch.setattr("fewshot.runtime.export_bundle", written)
    report = (EncoderComparison(0.875, 0.85, 40),)
    told = call("export", in_int8.registry, tmp_path / "b.zip", "--onnx", "--int8")
    assert json.loads(told.stdout)["leave_one_out"] == {"float32": 0.875, "int8": 0.85, "examples": 40}
    assert (
        "accuracy on 40 of the registry's examples: 87.5 % before, 85.0 % in int8: 2.5 points are lost" in told.stderr
    )
    report = (EncoderComparison(0.875, 0.866, 40),)
    told = call("export", in_int8.registry, tmp_path / "b.zip", "--onnx", "--int8")
    assert "86.6 % in int8" in told.stderr
    assert "lost" not in told.stderr


def test_what_cannot_be_measured_is_said_and_the_bundle_written(float32, with_head, tmp_path):
    with ClassRegistry(tmp_path / "r.fewshot", encoder=float32) as registry:
        registry.add("a", scan(0, 0))
        registry.add("b", scan(1, 0))
        report = with_head(registry, tmp_path / "b.zip", int8=True)
    assert report.leave_one_out is None
    assert "no class of" in report.unmeasured
    assert Recognizer(tmp_path / "b.zip").predict(scan(1, 9))[0].label == "b"


def test_the_registry_s_own_file_is_not_replaced_by_its_bundle(exported, tmp_path):
    registry = shutil.copy(exported.registry, tmp_path / "digits.zip")
    os.symlink(registry, tmp_path / "link.zip")
    for target in (registry, tmp_path / "link.zip"):
        told = call("export", registry, target, "--onnx", status=1).stderr
        assert f"{target} is what would be exported, and would be lost; give another file" in told
    assert registry.read_bytes() == exported.registry.read_bytes()
