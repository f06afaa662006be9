"""An image encoder as an ONNX graph from pixels to embeddings, and the preprocessing before it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from sklearn.base import clone
from torch import Tensor, nn

from fewshot.encoders.bundled_network import POCKET
from fewshot.encoders.encoder import Encoder
from fewshot.encoders.preprocessing import data_config
from fewshot.encoders.timm_encoder import TimmEncoder
from fewshot.encoders.timm_network import first_line
from fewshot.media import ImagePreparation
from fewshot.validation import check_extra

if TYPE_CHECKING:
    from onnx import FunctionProto, GraphProto

OPSET = 18
"""The version of ONNX's operators that graphs use by default: the one that torch's exporter is written for."""
INPUT, OUTPUT = "pixels", "embeddings"
_LARGEST = 2**31 - 2**20  # bytes that one ONNX file holds


@dataclass(frozen=True)
class ExportedEncoder:
    """An encoder that needs no torch.

    Attributes
    ----------
    graph : bytes
        An ONNX model from ``INPUT``, pixels (n, h, w, 3) in uint8, to ``OUTPUT``, embeddings (n, d) in float32.
    preparation : ImagePreparation
        Makes the pixels of an image.
    mean, std : tuple of 3 floats
        Of the normalisation (pixels / 255 - mean) / std, which the graph does.
    name : str
        Of the architecture or the weights; no path.
    settings : dict
        ``layer``, ``pool``, ``layers`` and ``tta``, where they are not the defaults.
    license, origin : str or None
        Of the weights, as timm or the folder's config.json states them.
    notes : str
        What more is known of the bundled encoder; else empty.
    """

    graph: bytes
    preparation: ImagePreparation
    mean: tuple[float, ...]
    std: tuple[float, ...]
    name: str
    settings: dict[str, Any]
    license: str | None
    origin: str | None
    notes: str


def export_encoder(encoder: Encoder, *, opset: int = OPSET) -> ExportedEncoder:
    """Export a ``TimmEncoder``, in float32.

    Raises
    ------
    MissingExtra : where onnx or onnxscript is not installed.
    ValueError : for an encoder, a preprocessing or an operator that cannot be exported, saying which.
    """
    check_extra("onnx", "exporting needs", "onnx", "onnxscript")
    from onnx.defs import onnx_opset_version

    if not OPSET <= opset <= onnx_opset_version():
        raise ValueError(f"opset must be {OPSET} to {onnx_opset_version()}, those of the onnx installed, not {opset}")
    if not isinstance(encoder, TimmEncoder):
        raise ValueError(
            f"{type(encoder).__name__} cannot be exported: a bundle holds networks of timm (TimmEncoder), whose "
            "preprocessing is a resizing and a crop; another's is a program of its own, such as a tokenizer or a "
            "Python function"
        )
    own = cast(TimmEncoder, clone(encoder)).set_params(device="cpu", precision="float32")
    loaded, config = own.loaded, data_config(own.loaded.network)
    if own.fingerprint != encoder.fingerprint:
        raise ValueError(f"{encoder.name!r} cannot be exported: its random weights are drawn anew at each loading")
    if not isinstance(loaded.prepare, ImagePreparation):
        raise ValueError(
            f"{encoder.name!r} cannot be exported: its preprocessing (crop_mode {config.get('crop_mode')!r}, "
            f"interpolation {config.get('interpolation')!r}, input_size {config['input_size']}) is not a resizing and "
            "a crop of the centre"
        )
    spec, about = own.spec or {"name": ""}, getattr(loaded.network, "pretrained_cfg", {})
    local = ":" in str(spec["name"]) and not str(spec["name"]).startswith("hf-hub:")
    return ExportedEncoder(
        _graph(own, opset),
        loaded.prepare,
        tuple(map(float, config["mean"])),
        tuple(map(float, config["std"])),
        str(about.get("architecture") if local or not spec["name"] else spec["name"]),
        {name: value for name, value in spec.items() if name != "name" and value is not None},
        about.get("license") or None,
        about.get("hf_hub_id") or about.get("origin_url") or None,
        (POCKET / "README.md").read_text(encoding="utf-8") if spec["name"] == "pocket" else "",
    )


class _PixelsToEmbeddings(nn.Module):
    """What ``TimmEncoder`` does from pixels on."""

    scale: Tensor
    shift: Tensor

    def __init__(self, encoder: TimmEncoder) -> None:
        super().__init__()
        self._encoder, self.network = encoder, encoder.loaded.network
        mean, std = encoder.loaded.mean, encoder.loaded.std
        self.register_buffer("scale", (1.0 / (255.0 * std)).view(1, 3, 1, 1))
        self.register_buffer("shift", (-mean / std).view(1, 3, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        x = pixels.permute(0, 3, 1, 2).float() * self.scale + self.shift
        return self._encoder._features(self.network, x)


def _graph(encoder: TimmEncoder, opset: int) -> bytes:
    height, width = cast(ImagePreparation, encoder.loaded.prepare).crop
    try:
        program = torch.onnx.export(
            _PixelsToEmbeddings(encoder).eval(),
            (torch.zeros(2, height, width, 3, dtype=torch.uint8),),
            dynamo=True,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: torch.export.Dim("n")},),
            opset_version=opset,
            verbose=False,
        )
    except Exception as error:  # of many types, none of them documented
        why = _reason(error)
        raise ValueError(f"{encoder.name!r} cannot be exported to ONNX (opset {opset}): {why}") from error
    assert program is not None
    model = program.model_proto
    made = next(one.version for one in model.opset_import if one.domain == "")
    if made != opset:
        raise ValueError(f"{encoder.name!r} cannot be exported in opset {opset}: torch's exporter gives opset {made}")
    _forget_sources(model.graph)
    for function in model.functions:
        _forget_sources(function)
    model.ClearField("metadata_props")
    if model.ByteSize() > _LARGEST:
        raise ValueError(f"{encoder.name!r} cannot be exported: its {model.ByteSize():,} bytes are over ONNX's 2 GiB")
    return bytes(model.SerializeToString(deterministic=True))


def _reason(error: BaseException) -> str:
    """Name the operator that an error of torch's exporter is about, or say its first cause in one line."""
    told = str(error)
    while error.__cause__ is not None:
        error = error.__cause__
        told += str(error)
    operator = re.search(r"No ONNX function found for .*?((?:aten|prims|torchvision)\.\w+)", told, re.DOTALL)
    if operator is not None:
        return f"ONNX has no operator for {operator[1]}"
    return re.sub(r"\x1b\[\d*m", "", first_line(Exception(error)))


def _forget_sources(graph: GraphProto | FunctionProto) -> None:
    """Remove where in which file each node comes from: no use to a reader, and another on another machine."""
    for name in ("node", "input", "output", "initializer", "value_info"):
        for entry in getattr(graph, name):
            if not isinstance(entry, str):
                entry.ClearField("metadata_props")
                entry.ClearField("doc_string")
    graph.ClearField("metadata_props")
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _forget_sources(attribute.g)
