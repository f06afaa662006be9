"""The bundled network, "pocket", made without timm's import, which costs as much as torch's."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from fewshot.encoders.architectures.pocket import PocketNet

POCKET = Path(__file__).with_name("pocket")


def bundled_network() -> nn.Module:
    """Make the bundled network, in eval mode, float32, on the CPU, as timm makes it of its folder."""
    config = json.loads((POCKET / "config.json").read_text())
    with torch.device("meta"):  # no weights are drawn
        network = PocketNet(num_classes=0)
    stored = load_file(POCKET / "model.safetensors")  # in float16
    weights = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in stored.items()}
    network.load_state_dict(weights, assign=True)
    settings = {"source": "local-dir", "file": str(POCKET), "architecture": config["architecture"]}
    network.__dict__["pretrained_cfg"] = network.__dict__["default_cfg"] = {**settings, **config["pretrained_cfg"]}
    return network.eval().requires_grad_(False)
