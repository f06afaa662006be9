"""Encoders as scikit-learn sees them: tags, containers, names, pipelines."""

from __future__ import annotations

import numpy as np
import pytest
from fakes import BLUE, GREEN, RED, FakeEncoder, png
from numpy.testing import assert_array_equal
from sklearn.base import BaseEstimator, clone
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import get_tags
from sklearn_api import check_without_data
from torch import nn

from fewshot import EmbeddingCache, FunctionEncoder, PrototypeClassifier, TimmEncoder, TorchEncoder


def mean_colour(images):
    return [np.asarray(image).mean(axis=(0, 1)) for image in images]


@pytest.fixture
def encoder():
    return FunctionEncoder(mean_colour, 3, "mean colour")


@pytest.fixture
def frame(tmp_path):
    """Paths of pictures and numbers beside them; the rows are not numbered from 0."""
    pandas = pytest.importorskip("pandas")
    paths = []
    for name, colour in {"red": RED, "green": GREEN, "blue": BLUE}.items():
        paths.append(str(tmp_path / f"{name}.png"))
        (tmp_path / f"{name}.png").write_bytes(png(colour))
    return pandas.DataFrame({"path": paths, "weight": [1.0, 2.0, 3.0]}, index=[10, 11, 12])


COLOURS = [[255, 0, 0], [0, 255, 0], [0, 0, 255]]


@pytest.mark.parametrize(
    "transformer",
    [
        TimmEncoder("fewshot_conv4", pretrained=False),
        EmbeddingCache(FunctionEncoder(mean_colour, 3, "mean colour"), "cache.db"),
        TorchEncoder(nn.Identity(), np.asarray, "identity"),
        FunctionEncoder(mean_colour, 3, "mean colour"),
    ],
    ids=lambda transformer: type(transformer).__name__,
)
def test_every_encoder_passes_scikit_learns_checks_and_its_tags_are_true(transformer):
    assert check_without_data(transformer) >= 7
    tags = get_tags(transformer)
    assert tags.transformer_tags is not None
    assert not tags.requires_fit
    assert not tags.target_tags.required


def test_the_checks_notice_an_encoder_that_changes_what_it_is_given():
    class Changing(FunctionEncoder):
        def __init__(self, function, dim, fingerprint, *, batch_size=64):
            super().__init__(function, int(dim) + 1, fingerprint, batch_size=batch_size)

    with pytest.raises((AssertionError, RuntimeError)):
        check_without_data(Changing(mean_colour, 3, "mean colour"))


def test_the_names_of_the_dimensions_are_the_class_and_a_number(encoder, tmp_path):
    assert encoder.get_feature_names_out().tolist() == ["functionencoder0", "functionencoder1", "functionencoder2"]
    cache = EmbeddingCache(encoder, tmp_path / "cache.db")
    assert cache.get_feature_names_out(["path"]).tolist()[0] == "embeddingcache0"
    timm = TimmEncoder("fewshot_conv4", pretrained=False)
    assert timm.get_feature_names_out()[-1] == f"timmencoder{timm.dim - 1}"


@pytest.mark.parametrize("columns", ["path", ["path"]])
def test_a_column_and_a_table_of_one_column_embed_alike_and_keep_their_index_in_pandas(encoder, frame, columns):
    assert_array_equal(encoder.transform(frame[columns]), COLOURS)
    table = encoder.set_output(transform="pandas").fit_transform(frame[columns])
    assert table.index.tolist() == [10, 11, 12]
    assert table.columns.tolist() == ["functionencoder0", "functionencoder1", "functionencoder2"]
    assert_array_equal(table, COLOURS)


@pytest.mark.parametrize("columns", ["path", ["path"]])
@pytest.mark.parametrize("container", ["default", "pandas"])
def test_pictures_and_numbers_go_through_a_column_transformer(encoder, frame, columns, container):
    both = ColumnTransformer([("picture", encoder, columns), ("number", StandardScaler(), ["weight"])])
    found = both.set_output(transform=container).fit_transform(frame)
    assert found.shape == (3, 4)
    assert_array_equal(np.asarray(found)[:, :3], COLOURS)
    names = both.get_feature_names_out().tolist()
    assert names == [*(f"picture__functionencoder{n}" for n in range(3)), "number__weight"]


@pytest.mark.parametrize("columns", ["path", ["path"]])
def test_a_pipeline_learns_from_a_table_of_paths(encoder, frame, columns):
    model = make_pipeline(encoder, PrototypeClassifier()).fit(frame[columns], ["r", "g", "b"])
    assert model.predict(frame[columns].iloc[::-1]).tolist() == ["b", "g", "r"]


@pytest.mark.parametrize(
    "transformer",
    [
        TimmEncoder("fewshot_conv4", pretrained=False),
        TorchEncoder(nn.Flatten(), np.asarray, "flat"),
        FunctionEncoder(mean_colour, 3, "mean colour"),
    ],
    ids=lambda transformer: type(transformer).__name__,
)
def test_a_clone_keeps_the_container_that_was_asked_for(transformer):
    twin = clone(transformer.set_output(transform="pandas"))
    assert isinstance(twin, BaseEstimator)
    assert twin._sklearn_output_config == {"transform": "pandas"}


def test_a_cache_of_an_encoder_that_is_no_transformer_gives_a_table_too(frame, tmp_path):
    cache = EmbeddingCache(FakeEncoder(), tmp_path / "cache.db").set_output(transform="pandas")
    assert cache.transform(frame[["path"]]).to_numpy().tolist() == np.eye(3).tolist()
