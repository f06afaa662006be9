"""This project's networks: sizes as published, known to timm, and one vector per image whatever the company."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from numpy.testing import assert_allclose

from fewshot import TimmEncoder, load_encoder
from fewshot.encoders.bundled_network import POCKET
from fewshot.encoders.timm_network import load_network
from fewshot.encoders.trainable import trainable_network

# Name, settings: numbers out, parameters, channels and sides of the stages' maps.
NETWORKS = {
    "fewshot_conv4": ({}, 1024, 112_832, [(64, 32), (64, 16), (64, 8), (64, 4)]),
    "fewshot_conv4 at 28": ({"img_size": 28}, 64, 112_832, [(64, 14), (64, 7), (64, 3), (64, 1)]),
    "fewshot_conv4 at 84": ({"img_size": 84}, 1600, 112_832, [(64, 42), (64, 21), (64, 10), (64, 5)]),
    "fewshot_resnet12": ({}, 640, 12_424_320, [(64, 32), (160, 16), (320, 8), (640, 4)]),
    "fewshot_pocket": ({}, 384, 2_816_224, [(32, 32), (64, 16), (160, 8), (384, 4)]),
}


@pytest.mark.parametrize("title", NETWORKS)
def test_a_network_has_its_papers_sizes(title):
    settings, dim, parameters, maps = NETWORKS[title]
    network = timm.create_model(title.split()[0], num_classes=0, **settings).eval()
    side = settings.get("img_size", network.pretrained_cfg["input_size"][-1])
    x = torch.rand(2, 3, side, side)
    with torch.inference_mode():
        assert network(x).shape == (2, dim) == (2, network.head_hidden_size)
        found = network.forward_intermediates(x, intermediates_only=True)
    assert [tuple(m.shape[1:3]) for m in found] == maps
    assert [(info["num_chs"], side // info["reduction"]) for info in network.feature_info] == maps
    assert sum(p.numel() for p in network.parameters()) == parameters


def test_conv4s_parameters_are_counted_by_hand():
    # 3x3 kernels of 3 -> 64 and three times 64 -> 64, and two numbers a channel of each batch norm.
    assert 9 * 64 * (3 + 3 * 64) + 4 * 2 * 64 == NETWORKS["fewshot_conv4"][2]


@pytest.mark.parametrize("name", ["fewshot_conv4", "fewshot_resnet12", "fewshot_pocket"])
def test_a_picture_embeds_the_same_alone_and_in_a_batch(name):
    rng = np.random.default_rng(0)
    pictures = list(rng.integers(0, 256, (3, 60, 70, 3), dtype=np.uint8))
    torch.manual_seed(0)
    encoder = TimmEncoder(name, pretrained=False, precision="float32")
    together = encoder.encode(pictures)
    assert_allclose(encoder.encode(pictures[1:2])[0], together[1], atol=1e-4 * np.abs(together).max())
    assert encoder.set_params(layer=1).encode(pictures).shape[1] == NETWORKS[name][3][1][0]


@pytest.mark.parametrize("name", ["fewshot_conv4", "fewshot_resnet12", "fewshot_pocket"])
def test_a_classifier_can_be_put_on_and_taken_off(name):
    network = timm.create_model(name, num_classes=7).eval()
    x = torch.rand(1, 3, *network.pretrained_cfg["input_size"][1:])
    assert network(x).shape == (1, 7)
    assert network.get_classifier().out_features == 7
    network.reset_classifier(0)
    assert network(x).shape == (1, NETWORKS[name][1])
    network.reset_classifier(3, "avg")
    assert network(x).shape == (1, 3)
    network.reset_classifier(0, "")
    assert network(x).ndim == 4


def test_the_bundled_weights_still_load_into_their_network():
    assert load_encoder("pocket").fingerprint == "ef5a273d9a17163c5acfcf3e0798d0d6"


def test_a_network_to_train_starts_from_scratch_unless_it_names_weights():
    one, two, other = (trainable_network("conv4", 32, seed=seed) for seed in (0, 0, 1))
    assert not one.from_weights
    assert (one.size, one.dim) == (32, 256)
    first, same, different = (next(net.network.parameters()) for net in (one, two, other))
    assert torch.equal(first, same)
    assert not torch.equal(first, different)
    assert all(p.requires_grad for p in one.network.parameters())
    pocket = trainable_network("pocket", None, seed=0)
    assert pocket.from_weights
    assert (pocket.size, pocket.dim, pocket.mean, pocket.std) == (64, 384, (0.5,) * 3, (0.25,) * 3)
    bundled = load_network("local-dir:" + str(POCKET), pretrained=True)
    assert torch.equal(next(pocket.network.parameters()), next(bundled.parameters()))


def test_nobody_elses_draws_change():
    torch.manual_seed(5)
    wanted = torch.rand(1)
    torch.manual_seed(5)
    trainable_network("conv4", 32, seed=0)
    assert torch.equal(torch.rand(1), wanted)
