"""Weights in 8 bits: which are rounded, how far, and that the graph computes with them."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from fewshot.encoders import with_int8_weights

onnx = pytest.importorskip("onnx", reason="exporting needs the extra onnx")
ort = pytest.importorskip("onnxruntime", reason="exporting needs the extra onnx")


def graph_of(nodes, weights, input_shape, output="y"):
    held = [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()]
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes, "g", [info("x", onnx.TensorProto.FLOAT, input_shape)], [info(output, onnx.TensorProto.FLOAT, None)], held
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    return model.SerializeToString()


def run(graph, x):
    return ort.InferenceSession(graph, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


def stored(graph):
    model = onnx.load_model_from_string(graph)
    return {one.name: onnx.numpy_helper.to_array(one) for one in model.graph.initializer}


@pytest.mark.parametrize(
    ("node", "shape", "axis"),
    [
        (onnx.helper.make_node("MatMul", ["x", "w"], ["y"]), (128, 160), 1),
        (onnx.helper.make_node("Gemm", ["x", "w"], ["y"]), (128, 160), 1),
        (onnx.helper.make_node("Gemm", ["x", "w"], ["y"], transB=1), (160, 128), 0),
    ],
    ids=["MatMul", "Gemm", "Gemm transposed"],
)
def test_each_output_channel_is_rounded_by_at_most_half_its_own_step(node, shape, axis):
    rng = np.random.default_rng(0)
    weight = rng.normal(size=shape)
    weight *= np.expand_dims(10.0 ** -(np.arange(160) % 8.0), 1 - axis)
    weight = weight.astype(np.float32)
    graph = with_int8_weights(graph_of([node], {"w": weight}, ["n", 128]))
    arrays = stored(graph)
    assert arrays["w_packed"].dtype == np.int8
    found = arrays["w_packed"] * arrays["w_scale"]
    step = np.abs(weight).max(axis=1 - axis, keepdims=True) / 127
    assert (np.abs(found - weight) <= 0.5001 * step).all()
    x = rng.normal(size=(3, 128)).astype(np.float32)
    assert_allclose(run(graph, x), x @ (found if axis else found.T), rtol=1e-4, atol=1e-5)


def test_small_weights_are_halved_and_those_too_coarse_for_that_stay():
    rng = np.random.default_rng(0)
    small, tiny = rng.normal(size=(8, 1, 3, 3)).astype(np.float32), np.full((8, 1, 3, 3), 1e-7, np.float32)
    nodes = [
        onnx.helper.make_node("Conv", ["x", "small"], ["a"], group=8, name="one"),
        onnx.helper.make_node("Conv", ["a", "tiny"], ["y"], group=8, name="two"),
    ]
    plain = graph_of(nodes, {"small": small, "tiny": tiny}, ["n", 8, 5, 5])
    arrays = stored(with_int8_weights(plain))
    assert arrays["small_packed"].dtype == np.float16
    assert arrays["tiny"].dtype == np.float32
    x = rng.normal(size=(2, 8, 5, 5)).astype(np.float32)
    assert_allclose(run(with_int8_weights(plain), x), run(plain, x), rtol=2e-2, atol=1e-9)


def test_a_channel_of_next_to_nothing_becomes_zero_and_a_weight_that_is_used_twice_stays():
    weight = np.random.default_rng(0).normal(size=(128, 128)).astype(np.float32)
    weight[:, 3] = 1e-42
    nodes = [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])]
    x = np.eye(128, dtype=np.float32)
    assert (run(with_int8_weights(graph_of(nodes, {"w": weight}, ["n", 128])), x)[:, 3] == 0).all()
    twice = [onnx.helper.make_node("MatMul", ["x", "w"], ["a"]), onnx.helper.make_node("MatMul", ["a", "w"], ["y"])]
    assert stored(with_int8_weights(graph_of(twice, {"w": weight}, ["n", 128])))["w"].dtype == np.float32
