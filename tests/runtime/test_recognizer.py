"""A bundle answers as its registry does, with neither torch nor timm nor scikit-learn."""

from __future__ import annotations

import io
import itertools
import os
import shutil
import struct
import subprocess
import sys
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from digit_scans import scan
from numpy.testing import assert_allclose

from fewshot import ClassRegistry, ImageError
from fewshot.media import image_bytes
from fewshot.runtime import Recognizer
from fewshot.runtime.bundle_file import read_bundle

HEAVY = ("torch", "timm", "sklearn", "scipy", "faiss", "onnx", "safetensors")


def assert_same(answers, wanted):
    assert [one.label for one in answers] == [one.label for one in wanted]
    for name in ("score", "unknown_score", "probability"):
        found, expected = ([getattr(one, name) for one in some] for some in (answers, wanted))
        assert_allclose(np.array(found, float), np.array(expected, float), atol=1e-3, err_msg=name)
    for one, other in zip(answers, wanted, strict=True):
        assert [label for label, _ in one.top] == [label for label, _ in other.top]
        assert_allclose([score for _, score in one.top], [score for _, score in other.top], atol=1e-3)
        assert (one.false_accept_bound, one.note) == (other.false_accept_bound, other.note)


def test_answers_are_those_of_the_registry(exported, float32, queries):
    with ClassRegistry(exported.registry, encoder=float32) as registry:
        wanted = registry.predict(queries, nearest=0)
        assert 0 < sum(one.label is None for one in wanted) < len(wanted)
        assert_same(Recognizer(exported.bundle).predict(queries), wanted)
        assert_same(
            Recognizer(exported.bundle).predict(queries[:1], max_false_accept=1),
            registry.predict(queries[:1], max_false_accept=1),
        )


@pytest.mark.parametrize(
    ("classifier", "shots", "classes"),
    [
        ("whitened", 1, 2), ("whitened", 30, 5), ("whitened", 130, 3), ("whitened", 2, 1), ("prototype", 3, 4),
        ("ridge", 3, 4), ("logistic", 3, 4), ("discriminant", 3, 4),
    ],
)  # fmt: skip
def test_each_classifier_answers_alike(classifier, shots, classes, float32, queries, with_head, tmp_path):
    with ClassRegistry(tmp_path / "r.fewshot", encoder=float32) as registry:
        registry.set_classifier(classifier)
        for digit in range(classes):
            registry.add(str(digit), [scan(digit, n) for n in range(shots)])
        registry.rejection.add_negatives([scan(9, 0), scan(8, 1)])
        registry.rejection.set(max_false_accept=0.3)
        with_head(registry, tmp_path / "b.zip")
        assert_same(Recognizer(tmp_path / "b.zip").predict(queries), registry.predict(queries, nearest=0))


@pytest.mark.parametrize("metric", ["sqeuclidean", "inner_product"])
def test_prototypes_of_other_metrics_answer_alike(metric, float32, queries, with_head, tmp_path):
    with ClassRegistry(tmp_path / "r.fewshot", encoder=float32, metric=metric) as registry:
        for digit in range(3):
            registry.add(str(digit), [scan(digit, n) for n in range(2)])
        with_head(registry, tmp_path / "b.zip")
        for one, other in zip(Recognizer(tmp_path / "b.zip").predict(queries), registry.predict(queries), strict=True):
            assert one.label == other.label
            assert_allclose(one.score, other.score, rtol=1e-3)
            assert_allclose(one.probability, other.probability, atol=1e-3)


def test_a_background_is_compared_with_too(float32, queries, with_head, tmp_path):
    with ClassRegistry(tmp_path / "r.fewshot", encoder=float32) as registry:
        for digit in range(3):
            registry.add(str(digit), [scan(digit, n) for n in range(2)])
        others = float32.encode([scan(digit, n) for digit in range(6, 10) for n in range(5)])
        registry.rejection.set(max_false_accept=0.3, background=others, labels=[*"66666777778888899999"])
        with_head(registry, tmp_path / "b.zip")
        assert_same(Recognizer(tmp_path / "b.zip").predict(queries), registry.predict(queries, nearest=0))


def test_a_class_is_added_as_the_mean_of_its_embeddings_and_saved(exported, float32, tmp_path):
    path = shutil.copy(exported.bundle, tmp_path / "b.zip")
    recognizer = Recognizer(path)
    images = [scan(7, n) for n in range(3)]
    assert recognizer.add("seven", images[:1]) == 1
    assert recognizer.add("seven", images[1:]) == 2
    assert recognizer.classes()["seven"] == 3
    again = Recognizer(path)
    assert [one.label for one in again.predict([scan(7, 9), scan(1, 9)], max_false_accept=1)] == ["seven", "digit 1"]
    vectors = float32.encode(images)
    mean = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).mean(axis=0)
    assert_allclose(read_bundle(path).arrays["head_vectors"][4], mean, atol=1e-5)


def test_a_class_is_removed_and_what_it_was_compared_with_stays(exported, tmp_path):
    path = shutil.copy(exported.bundle, tmp_path / "b.zip")
    recognizer = Recognizer(path)
    before = recognizer.predict(scan(1, 9), max_false_accept=1)[0]
    assert recognizer.remove("digit 3") == 5
    assert list(Recognizer(path).classes()) == ["digit 0", "digit 1", "digit 2"]
    after = Recognizer(path).predict(scan(1, 9), max_false_accept=1)[0]
    assert_allclose(dict(after.top)["digit 0"], dict(before.top)["digit 0"], atol=1e-6)
    with pytest.raises(KeyError, match=r"no class 'digit 3' in .*b\.zip; there are digit 0, digit 1"):
        recognizer.remove("digit 3")
    recognizer.remove("digit 0")
    recognizer.remove("digit 1")
    with pytest.raises(ValueError, match="'digit 2' is the only class"):
        recognizer.remove("digit 2")


def test_weights_learned_together_cannot_take_a_class(float32, with_head, tmp_path):
    with ClassRegistry(tmp_path / "r.fewshot", encoder=float32) as registry:
        registry.set_classifier("ridge")
        for digit in range(2):
            registry.add(str(digit), scan(digit, 0))
        with_head(registry, tmp_path / "b.zip")
    with pytest.raises(ValueError, match="cannot learn 'two': the classes of its classifier are weights"):
        Recognizer(tmp_path / "b.zip").add("two", scan(2, 0))


def test_what_cannot_be_read_is_listed_and_the_others_answered(exported, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    recognizer = Recognizer(exported.bundle)
    found = recognizer.predict_valid([scan(0, 9), tmp_path / "bad.jpg", tmp_path / "none.jpg", scan(1, 9)])
    assert found.positions == (0, 3)
    assert [one.label for one in found.predictions] == ["digit 0", "digit 1"]
    assert [one.source for one in found.failed] == [str(tmp_path / "bad.jpg"), str(tmp_path / "none.jpg")]
    with pytest.raises(ImageError, match=r"bad\.jpg: not an image"):
        recognizer.predict([tmp_path / "bad.jpg"])
    before = recognizer.classes()
    with pytest.raises(ImageError, match=r"bad\.jpg"):
        recognizer.add("five", [scan(5, 0), tmp_path / "bad.jpg"])
    assert recognizer.classes() == before


def test_another_limit_than_the_stored_one_is_refused(exported):
    recognizer = Recognizer(exported.bundle)
    assert recognizer.max_false_accept == 0.25
    with pytest.raises(
        ValueError, match=r"that of max_false_accept=0\.25, not the threshold of 0\.1: .*fewshot threshold"
    ):
        recognizer.predict(scan(0, 9), max_false_accept=0.1)


def test_a_prediction_imports_no_heavy_library(exported, tmp_path):
    from PIL import Image

    Image.fromarray(scan(2, 9)).save(tmp_path / "a.png")
    code = f"""
import sys
import fewshot.runtime
assert not set({HEAVY!r}) & set(sys.modules)
from fewshot.runtime import Recognizer
print(Recognizer({str(exported.bundle)!r}).predict([{str(tmp_path / "a.png")!r}])[0].label)
from fewshot.cli import main
main(["predict", {str(exported.bundle)!r}, {str(tmp_path / "a.png")!r}], standalone_mode=False)
print(sorted(set({HEAVY!r}) & set(sys.modules)))
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    assert told[0] == "digit 2"
    assert '"label": "digit 2"' in told[1]
    assert told[2] == "[]"


@pytest.mark.parametrize("label", ["νέος", "ネジ", "क्षत्रिय", "برغي", "a/b\\c", "'; drop", "x" * 1000])
def test_labels_of_any_script_are_added_and_read_again(label, exported, tmp_path):
    path = shutil.copy(exported.bundle, tmp_path / "b.zip")
    Recognizer(path).add(label, [scan(7, 0)])
    recognizer = Recognizer(path)
    assert recognizer.predict(scan(7, 0), max_false_accept=1)[0].label == label
    assert recognizer.remove(f" {label} ") == 1


@pytest.mark.parametrize("label", ["", "  ", "a\nb", "\ud800", None])
def test_what_can_be_no_label_is_refused_and_nothing_is_saved(label, exported, tmp_path):
    path = shutil.copy(exported.bundle, tmp_path / "b.zip")
    with pytest.raises((ValueError, TypeError), match="label"):
        Recognizer(path).add(label, [scan(7, 0)])
    assert path.read_bytes() == exported.bundle.read_bytes()


def test_a_prediction_answers_by_the_classes_that_were_there_when_it_began(exported, tmp_path):
    path = shutil.copy(exported.bundle, tmp_path / "b.zip")
    recognizer = Recognizer(path)
    wanted = recognizer.predict(scan(1, 9), max_false_accept=1)

    class Removing(io.BytesIO):
        """An image whose reading removes a class."""

        def read(self, *size):
            if "digit 0" in recognizer.classes():
                recognizer.remove("digit 0")
            return super().read(*size)

    image = Removing(image_bytes(scan(1, 9)))
    assert recognizer.predict([image], max_false_accept=1) == wanted
    assert list(recognizer.classes()) == ["digit 1", "digit 2", "digit 3"]


def test_threads_predict_while_classes_come_and_go(exported, tmp_path):
    recognizer = Recognizer(shutil.copy(exported.bundle, tmp_path / "b.zip"), threads=1)
    image = scan(2, 9)

    def predicted(_):
        return recognizer.predict(image, max_false_accept=1)[0].label

    with ThreadPoolExecutor(3) as threads:
        answers = threads.map(predicted, range(60))
        for n in range(5):
            recognizer.remove("digit 0" if n == 0 else f"more {n - 1}")
            recognizer.add(f"more {n}", [np.full((40, 40, 3), (200, 30 * n, 20), np.uint8)])  # like no digit
        assert set(answers) == {"digit 2"}
        added = list(threads.map(lambda n: recognizer.add("same", [scan(5, n)]), range(6)))
    assert sum(added) == Recognizer(recognizer.path).classes()["same"] == 6


def test_a_bundle_that_another_program_changed_is_not_overwritten(exported, tmp_path):
    path = shutil.copy(exported.bundle, tmp_path / "b.zip")
    one, other = Recognizer(path), Recognizer(path)
    one.add("seven", [scan(7, 0)])
    for change in (lambda: other.add("eight", [scan(8, 0)]), lambda: other.remove("digit 0")):
        with pytest.raises(
            ValueError, match=r"b\.zip was changed by another program since it was opened here; open it"
        ):
            change()
    assert "eight" not in other.classes()
    one.add("eight", [scan(8, 0)])  # its own changes are no other program's
    assert {"seven", "eight"} <= Recognizer(path).classes().keys()
    path.unlink()
    with pytest.raises(ValueError, match="was changed by another program"):
        one.remove("eight")


def test_a_bundle_is_read_whole_while_others_take_its_place(exported, tmp_path):
    path = shutil.copy(exported.bundle, tmp_path / "b.zip")
    Recognizer(path).add("more", [scan(7, 0)])
    sizes = [exported.bundle.stat().st_size, path.stat().st_size]
    assert len(set(sizes)) == 2
    stop = threading.Event()

    def replace():
        for n in itertools.cycle((exported.bundle, shutil.copy(path, tmp_path / "longer.zip"))):
            if stop.is_set():
                return
            shutil.copy(n, tmp_path / "next.zip")
            os.replace(tmp_path / "next.zip", path)

    thread = threading.Thread(target=replace)
    thread.start()
    try:
        assert {len(read_bundle(path).about["labels"]) for _ in range(20)} <= {4, 5}
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("name", ["ü 'q\" $(x).zip", "a\nb.zip", "日本語.zip", "-x.zip"])
def test_a_bundle_of_an_odd_name_is_read_and_saved(name, exported, tmp_path):
    path = shutil.copy(exported.bundle, tmp_path / name)
    Recognizer(path).add("new", [scan(7, 0)])
    assert "new" in Recognizer(path).classes()


def test_an_image_of_too_many_pixels_is_listed_and_the_others_answered(exported, tmp_path):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    huge = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    (tmp_path / "huge.png").write_bytes(huge)
    found = Recognizer(exported.bundle).predict_valid(
        [tmp_path / "huge.png", scan(1, 9), np.zeros((1, 5000, 3), np.uint8)]
    )
    assert found.positions == (1, 2)
    assert "over the limit of" in found.failed[0].reason
