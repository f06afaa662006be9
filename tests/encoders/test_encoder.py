"""What is an encoder, and what may be given to one."""

from __future__ import annotations

import re

import numpy as np
import pytest
from fakes import RED, FakeEncoder, png
from torch import nn

from fewshot import ClassRegistry, EmbeddingCache, TimmEncoder
from fewshot.encoders import check_is_encoder, encode_valid


def doors(tmp_path):
    return {
        "registry": lambda given: ClassRegistry(tmp_path / "r.fewshot", encoder=given),
        "reindex": lambda given: ClassRegistry(tmp_path / "r.fewshot").reindex(given),
        "cache": lambda given: EmbeddingCache(given, tmp_path / "cache.db").encode([png(RED)]),
        "encode_valid": lambda given: encode_valid(given, [png(RED)]),
    }


@pytest.mark.parametrize("door", ["registry", "reindex", "cache", "encode_valid"])
@pytest.mark.parametrize(
    ("given", "message"),
    [
        (nn.Linear(2, 2), "not an object of type Linear (it has no dim, fingerprint, encode): give load_encoder(name)"),
        (len, "not an object of type builtin_function_or_method (it has no dim, fingerprint, encode)"),
        (TimmEncoder, "expected an encoder, not the class TimmEncoder: give load_encoder(name)"),
    ],
)
def test_what_is_no_encoder_is_refused_naming_what_it_lacks_and_the_classes_that_wrap_it(
    door, given, message, tmp_path
):
    with pytest.raises(TypeError, match=re.escape(message)) as refused:
        doors(tmp_path)[door](given)
    assert "TorchEncoder(module, preprocess, name)" in str(refused.value)
    assert "FunctionEncoder(function, dim, fingerprint)" in str(refused.value)


def test_a_check_loads_no_network():
    encoder = TimmEncoder("no_such_network")
    assert check_is_encoder(encoder) is encoder
    assert check_is_encoder(FakeEncoder())


def test_a_table_of_one_column_is_that_column_and_one_of_two_is_refused_naming_them(tmp_path):
    pandas = pytest.importorskip("pandas")
    (tmp_path / "red.png").write_bytes(png(RED))
    path = str(tmp_path / "red.png")
    frame = pandas.DataFrame({"path": [path, path]}, index=[7, 9])
    for given in (frame, frame["path"], frame.to_numpy(), np.array([[path], [path]])):
        assert encode_valid(FakeEncoder(), given).vectors.tolist() == [[1, 0, 0], [1, 0, 0]]
    with pytest.raises(ValueError, match="expected one column of images, got 2: path, weight"):
        encode_valid(FakeEncoder(), frame.assign(weight=1.0))
