"""Small networks of several families, with lively norms, and pictures for them."""

from __future__ import annotations

import timm
import torch
from torch import nn

import fewshot.encoders.architectures.registration  # noqa: F401  registers our networks
from fewshot import TimmEncoder
from fewshot.encoders.timm_network import load_network


def made(name):
    torch.manual_seed(0)
    small = {"depth": 3, "img_size": 32} if name.startswith("vit") else {}
    network = timm.create_model(name, num_classes=0, **small).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return network


def pictures(network, n=3, side=None):
    size = (side, side) if side else network.pretrained_cfg["input_size"][1:]
    return torch.rand(n, 3, *size, generator=torch.Generator().manual_seed(1))


def thin_encoder():
    """A thin Conv-4 of random weights and lively norms, d = 256."""
    torch.manual_seed(0)
    network = load_network("fewshot_conv4", pretrained=False, width=16)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
    first = TimmEncoder("fewshot_conv4", pretrained=False, device="cpu", precision="float32")
    return first.with_network(network)
