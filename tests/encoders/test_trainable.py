"""Networks that can be trained."""

from __future__ import annotations

import pytest
import torch

from fewshot import EncoderNotFound
from fewshot.encoders import set_train_mode, trainable_network


def test_a_network_that_would_be_starved_or_does_not_exist_is_refused():
    with pytest.raises(ValueError, match=r"16 x 16 pixels are too small for test_resnet: its layer layer4\.0\.conv1"):
        trainable_network("test_resnet", 16, seed=0)
    with pytest.raises(ValueError, match=r"conv4 does not take images of 9 x 9 pixels: Conv-4 halves .* 16 pixels"):
        trainable_network("conv4", 9, seed=0)
    with pytest.raises(EncoderNotFound, match="no encoder is called 'resnet13'"):
        trainable_network("resnet13", None, seed=0)


def test_batch_norms_folded_into_their_weights_are_not_learned_in_training_mode(tmp_path):
    import timm
    from safetensors.torch import save_file

    from fewshot.training.encoder_folder import write_config, write_weights

    network = timm.create_model("test_resnet", num_classes=0)
    torch.nn.init.ones_(network.bn1.bias)
    write_config(network, 64, {"act_layer": "gelu"}, tmp_path)
    write_weights(network, tmp_path)
    for arch in (str(tmp_path), f"local-dir:{tmp_path}"):
        net = trainable_network(arch, None, seed=0)
        assert net.settings == {"act_layer": "gelu"}  # else the result would be built without it
        set_train_mode(net.network)
        assert not net.network.bn1.training
        assert net.network.layer1[0].bn1.training  # as new as it was drawn
    network.bn1.running_mean += 1
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    net = trainable_network(str(tmp_path), None, seed=0)
    set_train_mode(net.network)
    assert net.network.bn1.training
