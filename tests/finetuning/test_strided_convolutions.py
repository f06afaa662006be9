"""Strided depthwise convolutions are trained in float32 where a CPU computes in bfloat16, and nowhere else."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from fewshot.finetuning.strided_convolutions import strided_in_float32


class Seen(nn.Conv2d):
    """Notes in which precision it was computed."""

    def forward(self, input: Tensor) -> Tensor:
        self.autocast, self.given = torch.is_autocast_enabled("cpu"), input.dtype
        return super().forward(input)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(Seen(3, 4, 3), Seen(4, 4, 3, stride=2, groups=4), Seen(4, 2, 1))


def ran(net: nn.Sequential, *, gradients: bool = True) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False), torch.set_grad_enabled(gradients):
        out: Tensor = net(torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0)))
    return out


def test_only_the_strided_depthwise_convolution_leaves_bfloat16_and_its_output_returns_to_it() -> None:
    net = network()
    with strided_in_float32(net):
        out = ran(net)
    assert [module.autocast for module in net] == [True, False, True]
    assert net[1].given == torch.float32
    assert net[2].given == out.dtype == torch.bfloat16


def test_gradients_are_float32s_of_the_same_weights_to_bfloat16s_precision() -> None:
    net = network()
    exact = copy.deepcopy(net)
    with strided_in_float32(net):
        ran(net).float().square().sum().backward()
    exact(torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))).square().sum().backward()
    for own, other in zip(net.parameters(), exact.parameters(), strict=True):
        torch.testing.assert_close(own.grad, other.grad, rtol=0.05, atol=0.05 * float(other.grad.abs().max()))


def test_without_gradients_and_afterwards_everything_is_bfloat16() -> None:
    net = network()
    with strided_in_float32(net):
        ran(net, gradients=False)
        assert [module.autocast for module in net] == [True, True, True]
    ran(net)
    assert [module.autocast for module in net] == [True, True, True]
    assert not any("_left_autocast" in vars(module) for module in net)


def test_a_copy_made_meanwhile_does_the_same() -> None:
    with strided_in_float32(net := network()):
        twin = copy.deepcopy(net)
    ran(twin)
    assert [module.autocast for module in twin] == [True, False, True]


def test_an_error_inside_leaves_autocast_as_it_was() -> None:
    net = network()
    with strided_in_float32(net), torch.autocast("cpu", torch.bfloat16):
        with pytest.raises(RuntimeError):
            net[1](torch.randn(2, 3, 12, 12))
        assert torch.is_autocast_enabled("cpu")
