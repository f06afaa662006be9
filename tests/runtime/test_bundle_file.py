"""A bundle that is damaged, foreign or made to do harm is refused in one line."""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import replace

import numpy as np
import pytest

from fewshot.runtime import Recognizer, is_bundle
from fewshot.runtime.bundle_file import INT8, read_bundle, write_bundle
from fewshot.runtime.numpy_head import NumpyHead


@pytest.fixture(scope="module")
def entries(exported):
    with zipfile.ZipFile(exported.bundle) as file:
        return {name: file.read(name) for name in file.namelist()}


@pytest.fixture
def rebuilt(entries, tmp_path):
    """Write the bundle again with some entries changed, left out (None) or added."""

    def write(changed, compression=zipfile.ZIP_STORED):
        with zipfile.ZipFile(tmp_path / "b.zip", "w", compression) as file:
            for name, data in {**entries, **changed}.items():
                if data is not None:
                    file.writestr(name, data)
        return tmp_path / "b.zip"

    return write


def refusal(path):
    with pytest.raises(ValueError, match=r".") as refused:
        Recognizer(path)
    message = str(refused.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def described(entries, **changed):
    return {"bundle.json": json.dumps({**json.loads(entries["bundle.json"]), **changed}).encode()}


def array(values):
    out = io.BytesIO()
    np.lib.format.write_array(out, np.asarray(values), version=(1, 0))
    return out.getvalue()


def test_a_bundle_that_is_rebuilt_unchanged_is_read(rebuilt):
    assert len(Recognizer(rebuilt({})).classes()) == 4


def test_what_is_written_is_read_and_the_same_bytes(exported, tmp_path):
    size = write_bundle(read_bundle(exported.bundle), tmp_path / "b.zip")
    assert (tmp_path / "b.zip").read_bytes() == exported.bundle.read_bytes()
    assert size == exported.bundle.stat().st_size


@pytest.mark.parametrize("share", [0.01, 0.5, 0.999])
def test_a_bundle_cut_short_is_refused(share, exported, tmp_path):
    data = exported.bundle.read_bytes()
    (tmp_path / "b.zip").write_bytes(data[: int(share * len(data))])
    assert is_bundle(tmp_path / "b.zip")
    assert "no bundle that can be used: File is not a zip file; write it again with: fewshot export" in refusal(
        tmp_path / "b.zip"
    )


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_a_changed_byte_is_refused(part, exported, tmp_path):
    data = bytearray(exported.bundle.read_bytes())
    data[int(part * len(data))] ^= 255
    (tmp_path / "b.zip").write_bytes(data)
    assert "Bad CRC-32" in refusal(tmp_path / "b.zip")


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../up.npy", "extra.npy", "encoder.onnx.data", "C:\\x.npy", "head_vectors.npy/"]
)
def test_a_foreign_entry_is_refused(name, rebuilt):
    assert "which no bundle does" in refusal(rebuilt({name: b"x"}))


def test_a_compressed_entry_is_refused_before_it_is_unpacked(rebuilt):
    bomb = rebuilt({"LICENSE.txt": b"\0" * 2**26}, zipfile.ZIP_DEFLATED)
    assert "is compressed or encrypted" in refusal(bomb)


def test_entries_that_claim_more_than_the_file_holds_are_refused(exported, tmp_path):
    data = bytearray(exported.bundle.read_bytes())
    start = data.index(b"PK\x01\x02")
    data[start + 24 : start + 28] = (2**31).to_bytes(4, "little")  # the size unpacked
    (tmp_path / "b.zip").write_bytes(data)
    assert "claim to be larger than" in refusal(tmp_path / "b.zip")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_file_that_is_there_twice_is_refused(rebuilt, entries):
    path = rebuilt({})
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("LICENSE.txt", entries["LICENSE.txt"])
    assert "holds a file twice" in refusal(path)


@pytest.mark.parametrize("name", ["bundle.json", "encoder.onnx", "head_vectors.npy", "self_test.npy", "LICENSE.txt"])
def test_a_missing_file_is_named(name, rebuilt):
    assert name in refusal(rebuilt({name: None}))


def test_a_newer_version_is_refused(rebuilt, entries):
    message = refusal(rebuilt(described(entries, version=2)))
    assert "it is of version 2, and this fewshot reads version 1: update fewshot" in message


@pytest.mark.parametrize(
    "key", ["labels", "counts", "encoder", "preparation", "head", "calibration", "unknown", "self_test"]
)
def test_a_description_without_a_part_is_refused(key, rebuilt, entries):
    about = json.loads(entries["bundle.json"])
    del about[key]
    assert key in refusal(rebuilt({"bundle.json": json.dumps(about).encode()}))


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"labels": ["a"]}, "its labels are not a list of different names"),
        ({"labels": ["a", "a", "b", "c"]}, "its labels are not a list of different names"),
        ({"counts": [1, 1, 1, -1]}, "counts of examples are not whole numbers above 0"),
        ({"head": {"kind": "other", "parts": [], "means": True}}, "its head of kind 'other'"),
        ({"head": {"kind": "cosine", "parts": [5], "means": True}}, r"has parts (5,)"),
        ({"head": []}, "its head is [], which says nothing of kind"),
        ({"preparation": {"resize": 10**9, "crop": [64, 64], "interpolation": "bicubic"}}, "its preprocessing to"),
        ({"preparation": {"resize": 64, "crop": [64, 64], "interpolation": "worst"}}, "worst"),
        ({"format": "other"}, "is not that of a fewshot bundle"),
        ({"rejection": {"value": "high"}}, "its rejection.value is 'high', which it cannot be"),
        ({"rejection": {"value": 1, "max_false_accept": 0.1}}, "lacks rejection.false_accept_bound"),
        ({"rejection": {"value": float("nan")}}, "it holds NaN, which is no number of JSON"),
        ({"calibration": {"unit": 0}}, "lacks calibration.intercept"),
        ({"calibration": []}, "its calibration is []"),
        ({"unknown": {"background": False, "center_classes": 120, "scale": 0}}, "its unknown.scale is 0"),
        ({"unknown": {"background": False, "center_classes": 0, "scale": 10.0}}, "unknown.center_classes"),
        ({"encoder": {"name": "pocket", "dim": True, "precision": "float32"}}, "its encoder.dim is True"),
        ({"version": True}, "it is of version True"),
        ({"modality": "sound"}, "it recognises sounds, not images"),
        ({"labels": ["a\x1b[31m", "b", "c", "d"]}, "no control characters, not 'a\\x1b[31m'"),
        ({"labels": ["\ud800", "b", "c", "d"]}, "no control characters, not '\\ud800'"),
        ({"labels": ["e\u0301", "b", "c", "d"]}, "is not as labels are stored"),
        ({"labels": ["", "b", "c", "d"]}, "a label must hold something to read"),
    ],
)
def test_a_description_that_says_something_else_is_refused(changed, told, rebuilt, entries):
    assert told in refusal(rebuilt(described(entries, **changed)))


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (np.zeros((3, 384), np.float32), "is of shape (3, 384), not (4, 384)"),
        (np.zeros((4, 384), np.float64), "says float64"),
        (np.full((4, 384), np.nan, np.float32), "holds NaN"),
        (np.full((4, 384), 1e38, np.float32), "numbers of 1e+15 and more"),
    ],
)
def test_an_array_that_does_not_fit_is_refused(values, told, rebuilt):
    assert told in refusal(rebuilt({"head_vectors.npy": array(values)}))


def test_an_array_that_claims_more_than_it_holds_takes_no_memory(rebuilt):
    huge = array(np.zeros((4, 384), np.float32)).replace(b"(4, 384), }      ", b"(4, 384000000), }")
    assert "which its 6,144 bytes are not" in refusal(rebuilt({"head_vectors.npy": huge}))


def test_arrays_in_int8_without_their_scales_are_refused(rebuilt, entries):
    rows = len(json.loads(entries["bundle.json"])["labels"]) * 5 - 1
    packed = {"head_axes.npy": array(np.ones((384, rows), np.int8))}
    assert "head_axes_scale.npy are not those of a bundle in int8" in refusal(rebuilt(packed))
    packed["head_axes_scale.npy"] = array(np.ones(rows, np.float32))
    assert "nor of one without" in refusal(rebuilt(packed))  # whose description says float32
    assert "says int8" in refusal(rebuilt({"head_vectors.npy": array(np.ones((4, 384), np.int8))}))


@pytest.mark.parametrize("dense", [False, True])
def test_axes_in_int8_score_alike(dense, exported, tmp_path):
    bundle = read_bundle(exported.bundle)
    arrays, rng = dict(bundle.arrays), np.random.default_rng(0)
    if dense:  # as of more examples than an embedding has numbers
        del arrays["head_factors"]
        rows = rng.normal(size=(500, 384)) * np.geomspace(1, 0.01, 384)
        arrays["head_axes"] = np.linalg.inv(np.linalg.cholesky(np.eye(384) + rows.T @ rows)).T.astype(np.float32)
    bundle = replace(bundle, arrays=arrays)
    about = bundle.about | {"encoder": bundle.about["encoder"] | {"precision": INT8}}
    write_bundle(replace(bundle, about=about), tmp_path / "b.zip")
    queries = rng.normal(size=(50, 384)).astype(np.float32)
    found, wanted = (NumpyHead(one).scores(queries) for one in (read_bundle(tmp_path / "b.zip"), bundle))
    assert 0 < np.abs(found - wanted).max() < 1e-2


def test_pickled_objects_are_never_loaded(rebuilt):
    out = io.BytesIO()
    np.save(out, np.array([{"a": 1}], object), allow_pickle=True)
    assert "says object" in refusal(rebuilt({"head_vectors.npy": out.getvalue()}))


def test_a_graph_that_is_none_is_refused(rebuilt):
    assert "cannot run its encoder.onnx" in refusal(rebuilt({"encoder.onnx": b"no graph"}))


def test_a_graph_that_names_files_of_this_machine_reads_none(rebuilt, tmp_path, monkeypatch):
    onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
    monkeypatch.chdir(tmp_path)
    np.ones((3, 384), "<f4").tofile("secret.bin")
    for location in ("secret.bin", f"../{tmp_path.name}/secret.bin", str(tmp_path / "secret.bin")):
        weights = onnx.TensorProto(name="w", data_type=onnx.TensorProto.FLOAT, dims=[3, 384])
        weights.data_location = onnx.TensorProto.EXTERNAL
        weights.external_data.add(key="location", value=location)
        axes = onnx.numpy_helper.from_array(np.array([1, 2]), "axes")
        make = onnx.helper.make_node
        nodes = [
            make("Cast", ["pixels"], ["floats"], to=onnx.TensorProto.FLOAT),
            make("ReduceMean", ["floats", "axes"], ["means"], keepdims=0),
            make("MatMul", ["means", "w"], ["embeddings"]),
        ]
        put_in = onnx.helper.make_tensor_value_info("pixels", onnx.TensorProto.UINT8, ["n", "h", "w_", 3])
        given = onnx.helper.make_tensor_value_info("embeddings", onnx.TensorProto.FLOAT, ["n", 384])
        graph = onnx.helper.make_graph(nodes, "g", [put_in], [given], [weights, axes])
        opsets = [onnx.helper.make_opsetid("", 18)]
        model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9)
        assert "cannot run its encoder.onnx" in refusal(rebuilt({"encoder.onnx": model.SerializeToString()}))


def test_a_self_test_with_other_numbers_is_refused(rebuilt, entries):
    other = np.random.default_rng(0).normal(size=(3, 384)).astype(np.float32)
    message = refusal(rebuilt({"self_test.npy": array(other)}))
    assert "its self-test fails: the embeddings of three images have cosines of" in message


def test_a_registry_or_a_folder_is_no_bundle(exported, tmp_path):
    assert not is_bundle(exported.registry)
    assert not is_bundle(tmp_path)
    assert not is_bundle(tmp_path / "none.zip")
    assert "File is not a zip file" in refusal(exported.registry)
    with pytest.raises(FileNotFoundError):
        Recognizer(tmp_path / "none.zip")
