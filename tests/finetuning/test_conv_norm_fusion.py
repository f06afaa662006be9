"""Batch norms fused while they train: the same function and the same gradients, without a norm's own pass."""

from __future__ import annotations

import copy

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from fewshot.finetuning.conv_norm_fusion import FusedConvNorm, fused_norms
from fewshot.finetuning.lora import Adapter, add_adapters
from fewshot.finetuning.strided_convolutions import strided_in_float32


class Norm(nn.BatchNorm2d):
    """Counts its passes."""

    passes = 0

    def forward(self, input: Tensor) -> Tensor:
        self.passes += 1
        return super().forward(input)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False),
        Norm(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2, groups=8),
        BatchNormAct2d(8),
        nn.Conv2d(8, 6, 1),
        Norm(6, affine=False),
    ).eval()
    for norm in net:
        if isinstance(norm, nn.BatchNorm2d):
            assert norm.running_mean is not None
            assert norm.running_var is not None
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2.0)
            for parameter in norm.parameters():
                nn.init.normal_(parameter, 1.0, 0.3)
    return net


def maps(n: int = 2) -> Tensor:
    return torch.randn(n, 3, 12, 12, generator=torch.Generator().manual_seed(1))


def gradients(net: nn.Module) -> dict[str, Tensor]:
    """By name of the network as it is, of every parameter that has one; they are cleared."""
    net(maps()).square().sum().backward()
    found = {}
    for name, parameter in net.named_parameters():
        if parameter.grad is not None:
            found[name], parameter.grad = parameter.grad, None
    return found


def plain(name: str) -> str:
    """A parameter's name in the network that is not fused: of what ``FusedConvNorm`` holds, the network's index."""
    index, *inner, last = name.split(".")
    return f"{int(index) + ('norm' in inner)}.{'.'.join([part for part in inner if part == 'layer'] + [last])}"


@pytest.mark.parametrize("adapted", [False, True])
def test_outputs_and_gradients_are_those_of_the_network_as_it_is(adapted: bool) -> None:
    net = network()
    if adapted:
        add_adapters(net, 2)
        net[1].weight.requires_grad_(True)
        for adapter in (net[0], net[5]):
            assert isinstance(adapter, Adapter)
            nn.init.normal_(adapter.up)
    wanted, out = gradients(net), net(maps())
    before = net[1].passes
    with fused_norms(net, [maps(1)]):
        assert sum(isinstance(module, FusedConvNorm) for module in net.modules()) == 3
        passes = net[0].norm.passes
        found = {plain(name): gradient for name, gradient in gradients(net).items()}
        torch.testing.assert_close(net(maps()), out, rtol=1e-5, atol=1e-5)
        assert net[0].norm.passes == passes == before + 1  # which the look at the network took
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-4 * float(gradient.abs().max()))


def test_the_network_is_afterwards_what_it_was_also_after_an_error() -> None:
    net = network()
    modules, parameters = list(net.named_modules()), {name: id(each) for name, each in net.named_parameters()}

    def interrupted() -> None:
        with fused_norms(net, [maps(1)]), torch.no_grad():
            net[0].conv.weight.fill_(0.5)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [(name, id(each)) for name, each in net.named_modules()] == [(name, id(each)) for name, each in modules]
    assert {name: id(each) for name, each in net.named_parameters()} == parameters
    assert (net[0].weight == 0.5).all()  # what was learned stays


def test_a_norm_whose_input_something_else_reads_stays_a_norm() -> None:
    class Read(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
            nn.init.constant_(self.norm.bias, 3.0)

        def forward(self, x: Tensor) -> Tensor:
            made: Tensor = self.conv(x)
            return made + self.norm(made)

    net = Read()
    with fused_norms(net, [maps(1)]):
        assert not any(isinstance(module, FusedConvNorm) for module in net.modules())
        assert isinstance(net.norm, nn.BatchNorm2d)


def test_a_network_without_batch_norms_stays_as_it_is() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())
    with fused_norms(net, [maps(1)]):
        assert [type(module) for module in net] == [nn.Conv2d, nn.ReLU]


def test_copies_stay_fused_and_strided_convolutions_inside_leave_bfloat16() -> None:
    net = network()
    with fused_norms(net, [maps(1)]), strided_in_float32(net):
        twin = copy.deepcopy(net)
    assert isinstance(twin[3], FusedConvNorm)
    seen: list[torch.dtype] = []
    twin[3].conv.register_forward_pre_hook(lambda _, given: seen.append(given[0].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        out = twin(maps())
    assert seen == [torch.float32]
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(out, net(maps()), rtol=0.1, atol=0.1)
