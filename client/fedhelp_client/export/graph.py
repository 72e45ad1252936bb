"""A hospital's network as one ONNX graph, from a grey image of any size to probabilities.

Scaling to the network's size and back is part of the graph, so that whoever runs it needs
onnxruntime and nothing of ours::

    image          uint8 [N, 1, H, W], grey, 0 is black
    probabilities  float [N, C], classification
    lesion         float [N, 1, H, W], segmentation: above 0.5 is the lesion
"""

from __future__ import annotations

import logging
import warnings

import numpy as np
import onnx
import torch
from onnx import ModelProto, TensorProto, compose, helper, numpy_helper

from fedhelp_client.data.types import Task
from fedhelp_client.models import HospitalModel

OPSET = 20
IR_VERSION = 10
"""onnxruntime 1.18 and later read it."""

IMAGE, LESION, PROBABILITIES = "image", "lesion", "probabilities"


def student_graph(model: HospitalModel, *, task: Task) -> ModelProto:
    """The whole graph of ``model``, left in evaluation mode; see the module for its ends."""
    network = compose.add_prefix(_network(model), "network/")
    # A segmentation's image passes its own size by the network.
    passing, exit_graph = (["size"], _lesion()) if task == "segmentation" else ([], _softmax())
    scaled = compose.merge_models(
        _entrance(model.side),
        network,
        io_map=[("scaled", "network/pixels")],
        outputs=[*passing, "network/logits"],
    )
    joined = [(name, name) for name in passing]
    whole = compose.merge_models(scaled, exit_graph, io_map=[*joined, ("network/logits", "logits")])
    whole.ir_version = IR_VERSION
    del whole.opset_import[:]
    whole.opset_import.append(helper.make_opsetid("", OPSET))
    onnx.checker.check_model(whole, full_check=True)
    return whole


def _network(model: HospitalModel) -> ModelProto:
    model.eval()
    examples = (torch.rand(2, 1, model.side, model.side),)
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    try:
        # It says that torchvision is missing, which no network here needs.
        logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch's own use of what it has deprecated
            program = torch.onnx.export(
                model,
                examples,
                input_names=["pixels"],
                output_names=["logits"],
                dynamic_shapes=({0: torch.export.Dim("images")},),
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
    finally:
        logger.setLevel(level)
    if program is None:
        raise RuntimeError("torch.onnx.export gave no program")
    proto: ModelProto = program.model_proto
    return proto


def _entrance(side: int) -> ModelProto:
    """From an image to what the network takes, and, beside it, the image's own height and width."""
    nodes = [
        helper.make_node("Cast", [IMAGE], ["grey"], to=TensorProto.FLOAT),
        helper.make_node("Shape", [IMAGE], ["size"], start=2, end=4),
        helper.make_node(
            "Resize",
            ["grey", "", "", "side"],
            ["resized"],
            mode="linear",
            antialias=1,
            axes=[2, 3],
            coordinate_transformation_mode="half_pixel",
        ),
        helper.make_node("Div", ["resized", "white"], ["scaled"]),
    ]
    constants = {"side": _integers(side, side), "white": _number(255.0)}
    return _model(
        "entrance",
        nodes,
        constants,
        inputs=[helper.make_tensor_value_info(IMAGE, TensorProto.UINT8, ["N", 1, "H", "W"])],
        outputs=[
            helper.make_tensor_value_info("size", TensorProto.INT64, [2]),
            helper.make_tensor_value_info("scaled", TensorProto.FLOAT, ["N", 1, side, side]),
        ],
    )


def _softmax() -> ModelProto:
    return _model(
        "softmax",
        [helper.make_node("Softmax", ["logits"], [PROBABILITIES], axis=1)],
        {},
        inputs=[helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", "C"])],
        outputs=[helper.make_tensor_value_info(PROBABILITIES, TensorProto.FLOAT, ["N", "C"])],
    )


def _lesion() -> ModelProto:
    """From logits of background and lesion to the lesion's probability in the image's own size."""
    nodes = [
        helper.make_node("Split", ["logits"], ["background", "inside"], axis=1, num_outputs=2),
        helper.make_node("Sub", ["inside", "background"], ["margin"]),
        helper.make_node(
            "Resize",
            ["margin", "", "", "size"],
            ["full"],
            mode="linear",
            axes=[2, 3],
            coordinate_transformation_mode="half_pixel",
        ),
        helper.make_node("Sigmoid", ["full"], [LESION]),
    ]
    return _model(
        "lesion",
        nodes,
        {},
        inputs=[
            helper.make_tensor_value_info("size", TensorProto.INT64, [2]),
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 2, "S", "S"]),
        ],
        outputs=[helper.make_tensor_value_info(LESION, TensorProto.FLOAT, ["N", 1, "H", "W"])],
    )


def _model(
    name: str,
    nodes: list[onnx.NodeProto],
    constants: dict[str, onnx.TensorProto],
    *,
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
) -> ModelProto:
    initialisers = []
    for constant, tensor in constants.items():
        tensor.name = constant
        initialisers.append(tensor)
    graph = helper.make_graph(nodes, name, inputs, outputs, initialisers)
    opset = [helper.make_opsetid("", OPSET)]
    return helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION)


def _integers(*values: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(values, dtype=np.int64))


def _number(value: float) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(value, dtype=np.float32))
