"""A network as an ONNX graph gives the embeddings of torch, whatever is read of it; or its operator is named."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from numpy.testing import assert_allclose
from torch import nn

from fewshot import TimmEncoder
from fewshot.encoders import export_encoder
from fewshot.encoders.preprocessing import data_config

pytest.importorskip("onnxscript", reason="exporting needs the extra onnx")
SMALL = "test_resnet.r160_in1k"


def encoder_of(network=None, name=SMALL, **settings):
    torch.manual_seed(0)
    made = TimmEncoder(name, pretrained=False, device="cpu", precision="float32", **settings)
    return made.with_network(network or timm.create_model(name, num_classes=0).eval())


@pytest.mark.parametrize(
    "settings", [{}, {"layers": [1, 2], "tta": True}, {"layer": 2, "pool": "max", "tta": True}], ids=str
)
def test_the_graph_gives_the_embeddings_of_any_number_of_images(settings):
    from fewshot.runtime.graph_session import GraphSession

    encoder = encoder_of(**settings)
    exported = export_encoder(encoder)
    images = [np.random.default_rng(n).integers(0, 256, (200, 170 + n, 3), np.uint8) for n in range(3)]
    session, wanted = GraphSession(exported.graph), encoder.encode(images)
    pixels = np.stack([exported.preparation(image) for image in images])
    assert_allclose(session.embed(pixels, encoder.dim), wanted, atol=1e-5 * np.abs(wanted).max())
    assert_allclose(session.embed(pixels[:1], encoder.dim), wanted[:1], atol=1e-5 * np.abs(wanted).max())
    assert exported.settings == {}  # of a network that was given
    assert exported.name == "test_resnet"


def test_random_weights_are_refused():
    with pytest.raises(ValueError, match="its random weights are drawn anew at each loading"):
        export_encoder(TimmEncoder(SMALL, pretrained=False))


def test_a_preprocessing_that_is_no_crop_of_the_centre_is_refused(monkeypatch):
    for module in ("timm_encoder", "exported_encoder"):
        monkeypatch.setattr(
            f"fewshot.encoders.{module}.data_config", lambda network: {**data_config(network), "crop_mode": "border"}
        )
    with pytest.raises(ValueError, match=r"its preprocessing \(crop_mode 'border', .* is not a resizing and a crop"):
        export_encoder(encoder_of())


@pytest.mark.parametrize("opset", [17, 99])
def test_versions_of_operators_that_the_library_does_not_know_are_refused(opset):
    with pytest.raises(ValueError, match=rf"opset must be 18 to \d+, those of the onnx installed, not {opset}"):
        export_encoder(encoder_of(), opset=opset)


class Bessel(nn.Module):
    """Computes with an operator that ONNX has not."""

    def forward(self, x):
        return torch.special.bessel_j0(x)


def test_an_operator_that_onnx_has_not_is_named():
    network = timm.create_model(SMALL, num_classes=0).eval()
    network.act1 = network.bn1.act = Bessel()
    with pytest.raises(
        ValueError, match=r"cannot be exported to ONNX \(opset 18\): ONNX has no operator for prims\.bessel_j0"
    ):
        export_encoder(encoder_of(network))
