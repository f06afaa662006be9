"""The bundled network is what timm makes of its folder, without timm."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fakes import BLUE, RED, png, run_python
from PIL import Image
from timm.data import create_transform, resolve_model_data_config

from fewshot import ClassRegistry
from fewshot.encoders.bundled_network import POCKET, bundled_network
from fewshot.encoders.preprocessing import data_config, preparation
from fewshot.encoders.timm_network import load_network


@pytest.fixture(scope="module")
def by_timm():
    return load_network(f"local-dir:{POCKET}", pretrained=True)


def test_it_has_timms_weights_and_configuration_and_gives_timms_features(by_timm):
    network = bundled_network()
    assert network.pretrained_cfg == network.default_cfg == by_timm.pretrained_cfg
    assert not network.training
    mine, theirs = network.state_dict(), by_timm.state_dict()
    assert list(mine) == list(theirs)
    for name, tensor in theirs.items():
        assert mine[name].dtype == tensor.dtype
        assert torch.equal(mine[name], tensor), name
    assert not any(p.requires_grad or p.is_meta for p in network.parameters())
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(network(x), by_timm(x))


def test_loading_it_draws_no_random_number():
    torch.manual_seed(3)
    wanted = torch.rand(1)
    torch.manual_seed(3)
    bundled_network()
    assert torch.equal(torch.rand(1), wanted)


@pytest.mark.parametrize("size", [(64, 64), (300, 200), (37, 91), (64, 91)])
def test_its_images_are_resized_as_timm_does(by_timm, size):
    config = data_config(by_timm)
    assert config == resolve_model_data_config(by_timm)
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    resized = image
    for step in create_transform(**config, is_training=False).transforms[:2]:
        resized = step(resized)
    assert np.array_equal(preparation(config)(image), np.asarray(resized))


SLOW = ("timm", "torchvision", "torch._dynamo", "huggingface_hub")
PREDICT = """
import sys
from click.testing import CliRunner
from fewshot.cli import main

result = CliRunner().invoke(main, ["predict", *sys.argv[2:]])
assert result.exit_code == 0, result.output
print(sorted(set(sys.argv[1].split(",")) & set(sys.modules)))
"""


def test_a_prediction_imports_no_slow_library(tmp_path):
    with ClassRegistry(tmp_path / "r.fewshot") as registry:
        registry.add("red", [png(RED)])
        registry.add("blue", [png(BLUE)])
    (tmp_path / "new.png").write_bytes(png(RED, 9))
    done = run_python(PREDICT, ",".join(SLOW), tmp_path / "r.fewshot", tmp_path / "new.png")
    assert done.stdout == "[]\n", done.stderr
