"""Small networks of several families, with lively norms, and pictures for them."""

from __future__ import annotations

import timm
import torch
from torch import nn

import fewshot.encoders.architectures  # noqa: F401  registers our networks


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
