"""What trains by timm's own groups, the split into two halves of the same function, and adapters."""

from __future__ import annotations

import pytest
import torch
from numpy.testing import assert_allclose
from small_networks import made, pictures
from torch import nn

from fewshot.finetuning.lora import Adapter, add_adapters, merge_adapters
from fewshot.finetuning.network_split import inference_trunk, split_network
from fewshot.finetuning.trainable_parts import network_blocks, trainable_blocks

FAMILIES = {  # a name, and how many blocks it has: its stem is one; the transformer is made with three and its stem
    "test_resnet": 5,
    "test_efficientnet": 6,
    "test_convnext": 10,
    "vit_tiny_patch16_224": 4,
    "fewshot_conv4": 4,
    "fewshot_resnet12": 4,
}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_network_split_before_what_trains_gives_the_same_features_and_gradients_only_there(name):
    network = made(name)
    assert len(network_blocks(network)) == FAMILIES[name]
    blocks = trainable_blocks(network, "last", 4)
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert trained == set(blocks[0]) == set(network_blocks(network)[-1])
    x = pictures(network, 2, 32 if name in ("fewshot_resnet12", "vit_tiny_patch16_224") else None)
    trunk, top = split_network(network, None, x[:1])
    assert trunk.part is not None
    maps = trunk(x)
    assert all(len(each) == 2 and not each.requires_grad for each in maps)
    features = top(*maps)
    assert_allclose(features.detach(), network(x).detach(), atol=1e-4 * float(features.detach().abs().max()))
    torch.autograd.backward(features.sum())
    mine = {name: parameter.grad.clone() for name, parameter in network.named_parameters() if name in trained}
    network.zero_grad()
    torch.autograd.backward(network(x).sum())
    for parameter, gradient in mine.items():
        wanted = network.get_parameter(parameter).grad
        assert_allclose(gradient, wanted, atol=1e-4 * float(wanted.abs().max()) + 1e-6)


def test_a_densely_connected_network_is_split_across_all_its_connections():
    network = made("densenet121")
    trainable_blocks(network, "last", 4)
    x = pictures(network, 2, 64)
    trunk, top = split_network(network, None, x[:1])
    maps = trunk(x)
    assert len(maps) == 16  # what entered the last dense block, and what its 15 earlier layers made
    assert_allclose(top(*maps).detach(), network(x).detach(), atol=1e-4)


def test_a_network_whose_pass_cannot_be_traced_is_all_top():
    network = made("test_vit")  # its pass depends on the input's size
    trainable_blocks(network, "last", 4)
    x = pictures(network)
    trunk, top = split_network(network, None, x[:1])
    assert trunk.part is None
    assert_allclose(top(*trunk(x)).detach(), network(x).detach(), atol=1e-6)


def test_a_split_that_changes_the_features_is_not_taken(monkeypatch):
    network = made("test_resnet")
    trainable_blocks(network, "last", 4)
    x = pictures(network)
    monkeypatch.setattr("fewshot.finetuning.network_split._TOLERANCE", -1.0)
    assert split_network(network, None, x[:1])[0].part is None


def test_a_network_of_which_nothing_trains_is_all_trunk_and_one_of_which_all_trains_is_all_top():
    network = made("test_resnet")
    network.requires_grad_(False)
    x = pictures(network)
    trunk, top = split_network(network, None, x[:1])
    (features,) = trunk(x)
    assert_allclose(top(features), network(x), atol=1e-6)
    assert not list(top.parameters())
    trainable_blocks(network, "all", 4)
    assert split_network(network, None, x[:1])[0].part is None


def test_an_inference_trunk_computes_what_the_trunk_does_and_leaves_it_as_it_was():
    network = made("test_resnet")
    trainable_blocks(network, "last", 4)
    x = pictures(network)
    trunk, _ = split_network(network, None, x[:1])
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with torch.no_grad():
        (wanted,), (exact,) = trunk(x), inference_trunk(trunk, x[:1], torch.device("cpu"), "float32")(x)
        (rounded,) = inference_trunk(trunk, x[:1], torch.device("cpu"), "bfloat16")(x.bfloat16())
    assert_allclose(exact, wanted, atol=1e-4 * float(wanted.abs().max()))
    assert rounded.dtype == torch.bfloat16
    assert torch.cosine_similarity(rounded.float().flatten(), wanted.flatten(), dim=0) > 0.99
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_norms_are_scale_and_shift_of_each_norm_and_nothing_else():
    network = made("test_resnet")
    blocks = trainable_blocks(network, "norms", 4)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert sum(parameter.numel() for block in blocks for parameter in block.values()) == sum(
        2 * norm.num_features for norm in norms
    )
    assert len(blocks) == 5  # in the order of unfreezing
    assert next(iter(blocks[0])).startswith("layer4")
    assert next(iter(blocks[-1])).startswith("conv1")


def test_the_last_two_blocks_of_a_residual_network_come_last_first():
    blocks = trainable_blocks(made("test_resnet"), "last-2", 4)
    assert [{name.partition(".")[0] for name in block} for block in blocks] == [{"layer4"}, {"layer3"}]


@pytest.mark.parametrize("wrong", ["last-0", "last-6", "first", "last-", 2])
def test_an_unknown_choice_is_refused_naming_those_there_are_and_the_number_of_blocks(wrong):
    with pytest.raises(ValueError, match=rf"'last-N' with N from 1 to 5 \(the blocks of ResNet\).* not {wrong!r}"):
        trainable_blocks(made("test_resnet"), wrong, 4)


def test_a_network_that_timm_does_not_group_is_refused():
    with pytest.raises(ValueError, match="timm has no parameter groups for Linear"):
        network_blocks(nn.Linear(2, 2))


def test_an_adapter_adds_a_product_of_two_low_rank_matrices():
    layer = nn.Linear(3, 2)
    adapter = Adapter(layer, 1)
    x = torch.tensor([[1.0, 2.0, 3.0]])
    assert_allclose(adapter(x).detach(), layer(x).detach())  # the product is zero at first
    with torch.no_grad():
        adapter.down.copy_(torch.tensor([[1.0, 0.0, 1.0]]))
        adapter.up.copy_(torch.tensor([[2.0], [-1.0]]))
    # down x = 1 + 3 = 4, times up: (8, -4)
    assert_allclose(adapter(x).detach(), layer(x).detach() + torch.tensor([[8.0, -4.0]]), rtol=1e-6)


@pytest.mark.parametrize("name", ["test_efficientnet", "test_vit"])
def test_merged_adapters_leave_the_network_as_it_was_but_for_its_weights(name):
    network = made(name)
    names, x = list(network.state_dict()), pictures(network, 1)
    before = network(x).detach()
    add_adapters(network, 2)
    adapters = [module for module in network.modules() if isinstance(module, Adapter)]
    grouped = [module for module in network.modules() if isinstance(module, nn.Conv2d) and module.groups > 1]
    assert adapters
    assert bool(grouped) == (name == "test_efficientnet")
    assert_allclose(network(x).detach(), before, atol=1e-5)
    with torch.no_grad():
        for adapter in adapters:
            nn.init.normal_(adapter.up, std=0.1)
    adapted = network(x).detach()
    assert (adapted - before).abs().max() > 1e-3
    merge_adapters(network)
    assert list(network.state_dict()) == names
    assert_allclose(network(x).detach(), adapted, atol=1e-4 * float(adapted.abs().max()))
