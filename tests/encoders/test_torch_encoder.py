"""A module of one's own as an encoder."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from fakes import BLACK, BLUE, GREEN, RED, png
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from torch import nn

from fewshot import ClassRegistry, EmbeddingCache, Encoder, ImageError, TorchEncoder


def to_tensor(image):
    return torch.from_numpy(np.array(image.resize((4, 4)))).permute(2, 0, 1).float() / 255


class MeanColour(nn.Module):
    """The mean of each channel, times a weight; with dropout and a batch norm, which count in training mode only."""

    def __init__(self, times=1.0):
        super().__init__()
        self.times = nn.Parameter(torch.tensor(times))
        self.noise = nn.Dropout(0.5)
        self.norm = nn.BatchNorm1d(3, eps=0.0)

    def forward(self, x):
        return self.norm(self.noise(x.mean(dim=(2, 3)))) * self.times


def encoder(times=1.0, name="mean colour", **settings):
    return TorchEncoder(MeanColour(times), to_tensor, name, **settings)


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_a_module_in_training_mode_gives_its_vectors_in_eval_mode_in_any_batch(batch_size):
    found = encoder(2.0, batch_size=batch_size).encode([png(RED), png((0, 51, 0), 9), png(BLUE), png(BLACK)])
    assert_allclose(found, [[2, 0, 0], [0, 0.4, 0], [0, 0, 2], [0, 0, 0]], atol=1e-6)
    assert found.dtype == np.float32


def test_it_is_an_encoder_of_its_modules_size():
    assert isinstance(encoder(), Encoder)
    assert encoder().dim == 3
    assert encoder().encode([]).shape == (0, 3)


def test_the_module_given_stays_as_it_is_and_training_it_does_not_change_the_encoder():
    module = MeanColour()
    own = TorchEncoder(module, to_tensor, "mean colour")
    before = own.encode([png(RED)]), own.fingerprint
    assert module.training
    assert module.times.requires_grad
    with torch.no_grad():
        module.times.fill_(7.0)
    assert_array_equal(own.encode([png(RED)]), before[0])
    assert own.fingerprint == before[1]


def test_the_fingerprint_is_of_weights_class_and_name():
    class Other(MeanColour):
        pass

    others = [encoder(2.0), encoder(name="another"), TorchEncoder(Other(), to_tensor, "mean colour")]
    assert len({encoder().fingerprint, *(other.fingerprint for other in others)}) == 4
    assert encoder().fingerprint == encoder(batch_size=1).fingerprint == clone(encoder()).fingerprint


def test_another_module_set_on_it_computes_from_then_on():
    own = encoder()
    first = own.encode([png(RED)]), own.fingerprint
    own.set_params(module=MeanColour(3.0))
    assert_allclose(own.encode([png(RED)]), 3 * first[0])
    assert own.fingerprint == encoder(3.0).fingerprint != first[1]


def test_a_pickle_gives_the_same_vectors():
    own = encoder(2.0)
    _ = own.dim
    again = pickle.loads(pickle.dumps(own))
    assert_array_equal(again.encode([png(GREEN)]), own.encode([png(GREEN)]))
    assert again.fingerprint == own.fingerprint


def test_in_a_batch_a_bad_picture_is_listed_and_the_others_go_on():
    found = encoder(batch_size=2).encode_valid([png(RED), b"no picture", png(BLUE)])
    assert found.kept.tolist() == [0, 2]
    assert_allclose(found.vectors, [[1, 0, 0], [0, 0, 1]], atol=1e-6)
    with pytest.raises(ImageError, match="image 1 of 3"):
        encoder().encode([png(RED), b"no picture", png(BLUE)])


def test_a_registry_and_a_cache_work_with_it(tmp_path):
    own = EmbeddingCache(encoder(), tmp_path / "cache.db")
    with ClassRegistry(tmp_path / "r.fewshot", encoder=own) as registry:
        registry.add("red", [png(RED)])
        registry.add("blue", [png(BLUE)])
        assert registry.predict([png((250, 10, 10))])[0].label == "red"
    with ClassRegistry(tmp_path / "r.fewshot", encoder=encoder()) as registry:
        assert registry.predict([png((10, 10, 250))])[0].label == "blue"


def test_a_preprocess_that_crops_to_no_one_size_is_told_both_shapes():
    def keep(image):
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).float()

    with pytest.raises(ValueError, match=r"gives shapes \(3, 4, 4\) and \(3, 9, 9\): resize and crop to one size"):
        TorchEncoder(MeanColour(), keep, "as it is", batch_size=2).encode([png(RED), png(RED, 9)] * 4)


@pytest.mark.parametrize(
    ("module", "preprocess", "error", "message"),
    [
        (nn.Identity(), to_tensor, ValueError, r"module of 'x' gives shape \(1, 3, 4, 4\) for 1 images, not vectors"),
        (MeanColour(), np.asarray, TypeError, "preprocess of 'x' gives ndarray, not a Tensor"),
        (np.asarray, to_tensor, TypeError, r"takes an nn.Module, not builtin_function.*FunctionEncoder\(function, dim"),
    ],
)
def test_what_gives_no_vectors_is_refused_saying_what_it_gives(module, preprocess, error, message):
    with pytest.raises(error, match=message):
        _ = TorchEncoder(module, preprocess, "x").dim
