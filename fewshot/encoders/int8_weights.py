"""An ONNX graph whose weights are held in 8 bits."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from onnx import NodeProto

_LARGEST = 127
# What smaller weights would save is little, and their rounding is not averaged out by many terms: depthwise
# convolutions turn mobilenetv2's embeddings seven times as far as all others together.
_SMALL = 2**14
_TINY = 1e-30
_HALF_ERROR = 2.0**-10  # of the largest weight of a channel


def with_int8_weights(graph: bytes) -> bytes:
    """Hold the weights of convolutions and matrix products in 8 bits, with a scale for each output channel.

    onnxruntime multiplies them out as it loads the graph: the file is a quarter as large, and all is computed in
    float32, as fast as before, and to the same numbers on each processor. Layers of fewer than 16,384 weights have them
    in float16; biases and norms stay in float32.

    Parameters
    ----------
    graph : bytes
        An ONNX model in float32.

    Notes
    -----
    Embeddings keep a cosine around their mean of 0.99994 (pocket) and 0.99999 (mobilenetv2; Tiny ImageNet's training
    classes). With activations in 8 bits, too (static quantisation, by onnxruntime's ``quantize_static`` calibrated with
    the support's images) it is 0.996 and 0.99, and one image in 20 gets another class: ``benchmarks/export.py``.

    References
    ----------
    Nagel et al. 2021, arXiv:2106.08295 (symmetric quantisation, one scale a channel).
    """
    from onnx import TensorProto, helper, load_model_from_string, numpy_helper

    model = load_model_from_string(graph)
    held = {one.name: one for one in model.graph.initializer}
    uses = Counter(name for node in model.graph.node for name in node.input)
    made: list[NodeProto] = []
    for node in model.graph.node:
        axis, name = _channel_axis(node), next(iter(node.input[1:2]), "")
        if axis is None or name not in held or uses[name] > 1:
            continue
        weight = numpy_helper.to_array(held[name])
        if weight.dtype != np.float32 or weight.ndim < 2:
            continue
        packed, scale = _packed(weight, axis)
        if packed.dtype == np.float32:
            continue
        held[name].CopyFrom(numpy_helper.from_array(packed, f"{name}_packed"))
        # No DequantizeLinear: onnxruntime would compute that anew with each batch.
        cast = name if scale is None else f"{name}_cast"
        made.append(helper.make_node("Cast", [f"{name}_packed"], [cast], to=TensorProto.FLOAT))
        if scale is not None:
            model.graph.initializer.append(numpy_helper.from_array(scale, f"{name}_scale"))
            made.append(helper.make_node("Mul", [cast, f"{name}_scale"], [name]))
    nodes = [*made, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return bytes(model.SerializeToString(deterministic=True))


def _channel_axis(node: NodeProto) -> int | None:
    """Return the axis of the output channels in a node's weight; None where it has none."""
    if node.op_type == "Conv":
        return 0
    if node.op_type == "Gemm":
        return 0 if any(one.name == "transB" and one.i for one in node.attribute) else 1
    return -1 if node.op_type == "MatMul" else None


def _packed(weight: NDArray[np.float32], axis: int) -> tuple[NDArray[Any], NDArray[np.float32] | None]:
    """Return a weight in int8 and its scales, or, of a small one, in float16, or as it is where that is too coarse."""
    others = tuple(n for n in range(weight.ndim) if n != axis % weight.ndim)
    largest = np.abs(weight).max(axis=others, keepdims=True)
    if weight.size >= _SMALL:
        scale = np.where(largest > _TINY, largest / _LARGEST, 1.0).astype(np.float32)
        return np.round(weight / scale).astype(np.int8), scale
    with np.errstate(over="ignore"):
        half = weight.astype(np.float16)
    return (half if (np.abs(half - weight) <= _HALF_ERROR * largest).all() else weight), None
