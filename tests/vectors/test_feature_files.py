"""Exports: the values come back as they were, and what is not an export, or another encoder's, is refused."""

from __future__ import annotations

import hashlib
import io
import json

import numpy as np
import pytest
from fakes import BLUE, GREEN, RED, FakeEncoder, png
from numpy.testing import assert_array_equal

from fewshot import ClassRegistry, EncoderMismatch, RegistryError
from fewshot.registry.results import AddReport, Conflict
from fewshot.vectors import feature_files
from fewshot.vectors.feature_files import Exported

SUFFIXES = ("npz", "parquet")


@pytest.fixture
def registry(tmp_path):
    with ClassRegistry(tmp_path / "r.fewshot", encoder=FakeEncoder(), metric="sqeuclidean") as opened:
        opened.add("ねこ", [png(RED), png((204, 102, 0))])
        opened.add("dog", [png(BLUE)])
        opened.add("gone", [png(GREEN)])
        opened.remove("gone")
        yield opened


@pytest.fixture
def new(tmp_path):
    with ClassRegistry(tmp_path / "new.fewshot", encoder=FakeEncoder()) as opened:
        yield opened


def columns(**changed) -> Exported:
    values = {
        "ids": np.array([1, 2]),
        "labels": ["cat", "dog"],
        "vectors": np.eye(2, 3, dtype=np.float32),
        "sha256": ["00" * 32, "11" * 32],
        "sources": ["a", "b"],
        "fingerprint": FakeEncoder().fingerprint,
        "encoder": "{}",
        "metric": "cosine",
    }
    return Exported(**{**values, **changed})


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_export_holds_what_the_registry_holds(registry, tmp_path, suffix):
    target = tmp_path / f"out.{suffix}"
    assert registry.export(target) == 3
    read = feature_files.read(target)
    assert read.ids.tolist() == [1, 2, 3]
    assert read.labels == ["ねこ", "ねこ", "dog"]
    assert_array_equal(read.vectors, np.array([[1, 0, 0], [204 / 255, 102 / 255, 0], [0, 0, 1]], np.float32))
    assert read.vectors.dtype == np.float32
    assert read.sha256[0] == hashlib.sha256(png(RED)).hexdigest()
    assert read.sources[0] == f"<{len(png(RED))} bytes>"
    assert (read.fingerprint, read.metric) == (FakeEncoder().fingerprint, "sqeuclidean")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["r.fewshot", target.name])


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_imported_export_answers_as_the_registry_it_came_from(registry, new, tmp_path, suffix):
    registry.export(tmp_path / f"out.{suffix}")
    assert new.import_examples(tmp_path / f"out.{suffix}") == AddReport(added=3)
    assert new.classes() == registry.classes()
    assert new.info().metric == "sqeuclidean"
    query = [png((200, 100, 50))]
    theirs, ours = registry.predict(query)[0], new.predict(query)[0]
    assert (theirs.top, [n.score for n in theirs.nearest]) == (ours.top, [n.score for n in ours.nearest])


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_importing_twice_adds_duplicates_only(registry, new, tmp_path, suffix):
    registry.export(tmp_path / f"out.{suffix}")
    new.import_examples(tmp_path / f"out.{suffix}")
    assert new.import_examples(tmp_path / f"out.{suffix}") == AddReport(duplicates=3)
    assert registry.import_examples(tmp_path / f"out.{suffix}") == AddReport(duplicates=3)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_registry_emptied_of_its_classes_is_exported_and_imported_empty(registry, new, tmp_path, suffix):
    registry.remove("ねこ")
    registry.remove("dog")
    assert registry.export(tmp_path / f"out.{suffix}") == 0
    assert new.import_examples(tmp_path / f"out.{suffix}") == AddReport()
    assert new.classes() == {}


def test_an_import_that_disagrees_on_a_label_is_a_conflict(registry, new, tmp_path):
    registry.export(tmp_path / "out.npz")
    new.add("cat", [png(RED)])
    report = new.import_examples(tmp_path / "out.npz")
    assert report == AddReport(added=2, conflicts=(Conflict(f"<{len(png(RED))} bytes>", "ねこ", ("cat",)),))
    assert new.import_examples(tmp_path / "out.npz", allow_conflict=True) == AddReport(added=1, duplicates=2)


def test_an_export_of_another_encoder_is_refused_naming_both(registry, tmp_path):
    registry.export(tmp_path / "out.npz")
    with ClassRegistry(tmp_path / "other.fewshot", encoder=FakeEncoder(more=1, name="resnet18")) as other:
        other.add("red", [png(RED)])
        with pytest.raises(
            EncoderMismatch, match=r"out\.npz holds embeddings from .*d=3.*those from resnet18 \(d=4.*cannot"
        ):
            other.import_examples(tmp_path / "out.npz")
        assert other.classes() == {"red": 1}


def test_an_imported_registry_refuses_another_encoder(registry, tmp_path):
    registry.export(tmp_path / "out.npz")
    with ClassRegistry(tmp_path / "other.fewshot") as other:
        other.import_examples(tmp_path / "out.npz")
    with pytest.raises(EncoderMismatch, match="cannot be compared"):
        ClassRegistry(tmp_path / "other.fewshot", encoder=FakeEncoder(times=2.0))


def test_a_new_registry_opened_with_another_encoder_refuses_the_import(registry, tmp_path):
    registry.export(tmp_path / "out.npz")
    with ClassRegistry(tmp_path / "other.fewshot", encoder=FakeEncoder(more=1, name="resnet18")) as other:
        with pytest.raises(EncoderMismatch, match=r"holds embeddings from .*d=3.*those from resnet18 \(d=4"):
            other.import_examples(tmp_path / "out.npz")
        assert other.add("red", [png(RED)]).added == 1


def test_a_metric_asked_for_stands_when_vectors_are_imported(registry, tmp_path):
    registry.export(tmp_path / "out.npz")  # sqeuclidean
    ClassRegistry(tmp_path / "other.fewshot", metric="cosine").close()
    with ClassRegistry(tmp_path / "other.fewshot", encoder=FakeEncoder()) as other:
        other.import_examples(tmp_path / "out.npz")
        assert other.info().metric == "cosine"


def test_imported_examples_without_pictures_are_named_by_reindex(registry, new, tmp_path):
    registry.export(tmp_path / "out.npz")
    new.import_examples(tmp_path / "out.npz")
    with pytest.raises(RegistryError, match=r"3 of 3 images cannot be embedded again.*was not kept"):
        new.reindex(FakeEncoder(more=1))


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.95])
def test_a_truncated_export_is_refused_and_nothing_imported(registry, new, tmp_path, suffix, share):
    target = tmp_path / f"out.{suffix}"
    registry.export(target)
    whole = target.read_bytes()
    target.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match=rf"out\.{suffix} is not an export of a registry"):
        new.import_examples(target)
    assert new.classes() == {}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"labels": ["cat", " "]}, "a label must hold something to read"),
        ({"labels": ["cat"]}, "2 ids but 1 labels"),
        ({"vectors": np.full((2, 3), np.nan, np.float32)}, "NaN or infinity"),
        ({"vectors": np.ones(2, np.float32)}, r"shape \(2,\), not \(n, d\)"),
        ({"sha256": ["00" * 32, "11"]}, "'11' is not a SHA-256"),
        ({"sha256": ["00" * 32, "zz" * 32]}, "non-hexadecimal"),
        ({"metric": "cos"}, "metric must be one of"),
        ({"encoder": "pocket"}, "Expecting value"),
    ],
)
def test_an_export_that_would_spoil_a_registry_is_refused(new, tmp_path, changed, message):
    feature_files.write(tmp_path / "out.npz", columns(**changed))
    with pytest.raises(ValueError, match=f"is not an export of a registry.*{message}"):
        new.import_examples(tmp_path / "out.npz")
    assert new.classes() == {}


def test_vectors_of_another_length_under_the_same_fingerprint_are_refused(new, tmp_path):
    new.add("red", [png(RED)])
    feature_files.write(tmp_path / "out.npz", columns(vectors=np.ones((2, 4), np.float32)))
    with pytest.raises(EncoderMismatch, match=r"\(d=4,.*\(d=3,"):
        new.import_examples(tmp_path / "out.npz")
    assert new.predict([png(RED)])[0].label == "red"


def test_an_export_that_holds_a_pickle_is_refused_unread(new, tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "exploded"), "w"))

    np.savez(tmp_path / "out.npz", ids=np.array([Bomb()], dtype=object))
    with pytest.raises(ValueError, match="is not an export of a registry"):
        new.import_examples(tmp_path / "out.npz")
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_another_programs_file_of_that_kind_is_refused(new, tmp_path, suffix):
    target = tmp_path / f"theirs.{suffix}"
    if suffix == "npz":
        out = io.BytesIO()
        np.save(out, np.arange(3))
        target.write_bytes(out.getvalue())
    else:
        pyarrow = pytest.importorskip("pyarrow")
        __import__("pyarrow.parquet").parquet.write_table(pyarrow.table({"x": [1]}), target)
    with pytest.raises(ValueError, match="is not an export of a registry"):
        new.import_examples(target)


def test_other_suffixes_and_missing_files_and_folders_are_named(registry, tmp_path):
    with pytest.raises(ValueError, match=r"an export is a \.npz or \.parquet file, not \.csv"):
        registry.export(tmp_path / "out.csv")
    with pytest.raises(ValueError, match="not without suffix"):
        registry.import_examples(tmp_path / "out")
    with pytest.raises(FileNotFoundError, match=r"no such file: .*out\.npz"):
        registry.import_examples(tmp_path / "out.npz")
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*nowhere"):
        registry.export(tmp_path / "nowhere" / "out.npz")


def test_an_empty_registry_has_nothing_to_export(tmp_path):
    with (
        ClassRegistry(tmp_path / "r.fewshot", encoder=FakeEncoder()) as registry,
        pytest.raises(RegistryError, match="holds no classes yet; add some with: fewshot add"),
    ):
        registry.export(tmp_path / "out.npz")


def test_a_parquet_export_is_readable_by_pyarrow_alone(registry, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    registry.export(tmp_path / "out.parquet")
    table = parquet.read_table(tmp_path / "out.parquet")
    assert table.column_names == ["id", "label", "vector", "sha256", "source"]
    assert table["vector"].to_pylist()[2] == [0.0, 0.0, 1.0]
    assert json.loads(table.schema.metadata[b"fewshot"])["metric"] == "sqeuclidean"


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_export_that_fails_leaves_the_older_file_as_it_was(registry, tmp_path, monkeypatch, suffix):
    target = tmp_path / f"out.{suffix}"
    registry.export(target)
    before = target.read_bytes()

    def fails(place, _):
        place.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(feature_files, f"_write_{suffix}", fails)
    with pytest.raises(OSError, match="No space left"):
        registry.export(target)
    assert target.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["r.fewshot", target.name])


def test_a_file_of_another_kind_is_refused_without_advice_on_pickles(tmp_path):
    path = tmp_path / "n.npz"
    path.write_text("notes")
    with pytest.raises(ValueError, match=r"n\.npz is not an export of a registry: no \.npz or \.parquet file$"):
        feature_files.read(path)
