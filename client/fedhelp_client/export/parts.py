"""What the exported graphs are put together from."""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

OPSET = 20
IR_VERSION = 10
"""onnxruntime 1.18 and later read it."""

IMAGE, PROBABILITIES = "image", "probabilities"
"""Ends of the exported graphs: uint8 [N, 1, H, W] in, float32 [N, C] out."""


def part(
    name: str,
    nodes: list[onnx.NodeProto],
    constants: dict[str, onnx.TensorProto],
    *,
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
) -> ModelProto:
    """A graph of ``nodes`` that can be merged with others."""
    initialisers = []
    for constant, tensor in constants.items():
        tensor.name = constant
        initialisers.append(tensor)
    graph = helper.make_graph(nodes, name, inputs, outputs, initialisers)
    opset = [helper.make_opsetid("", OPSET)]
    return helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION)


def finished(whole: ModelProto) -> ModelProto:
    """``whole``, checked, and marked with the versions that a runtime must know."""
    whole.ir_version = IR_VERSION
    del whole.opset_import[:]
    whole.opset_import.append(helper.make_opsetid("", OPSET))
    onnx.checker.check_model(whole, full_check=True)
    return whole


def scaled_to(side: int) -> tuple[list[onnx.NodeProto], dict[str, onnx.TensorProto]]:
    """Nodes from `IMAGE` to ``resized``, float [N, 1, ``side``, ``side``], and their constants."""
    nodes = [
        helper.make_node("Cast", [IMAGE], ["grey"], to=TensorProto.FLOAT),
        helper.make_node(
            "Resize",
            ["grey", "", "", "side"],
            ["resized"],
            mode="linear",
            antialias=1,
            # As torch does: otherwise onnxruntime's border is wrong by up to 14 of 255 grey values.
            exclude_outside=1,
            axes=[2, 3],
            coordinate_transformation_mode="half_pixel",
        ),
    ]
    return nodes, {"side": integers(side, side)}


def integers(*values: int) -> onnx.TensorProto:
    """A constant, int64 [len(values)]."""
    return numpy_helper.from_array(np.array(values, dtype=np.int64))


def number(value: float) -> onnx.TensorProto:
    """A constant, float32 []."""
    return numbers(np.array(value))


def numbers(values: NDArray[np.floating]) -> onnx.TensorProto:
    """A constant, float32, in the shape of ``values``."""
    return numpy_helper.from_array(values.astype(np.float32))
