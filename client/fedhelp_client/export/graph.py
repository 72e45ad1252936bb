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

import torch
from onnx import ModelProto, TensorProto, compose, helper

from fedhelp_client.data.types import Task
from fedhelp_client.export.parts import (
    IMAGE,
    OPSET,
    PROBABILITIES,
    finished,
    number,
    part,
    scaled_to,
)
from fedhelp_client.models import HospitalModel

LESION = "lesion"


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
    return finished(whole)


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
    resize, constants = scaled_to(side)
    nodes = [
        helper.make_node("Shape", [IMAGE], ["size"], start=2, end=4),
        *resize,
        helper.make_node("Div", ["resized", "white"], ["scaled"]),
    ]
    constants |= {"white": number(255.0)}
    return part(
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
    return part(
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
    return part(
        "lesion",
        nodes,
        {},
        inputs=[
            helper.make_tensor_value_info("size", TensorProto.INT64, [2]),
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 2, "S", "S"]),
        ],
        outputs=[helper.make_tensor_value_info(LESION, TensorProto.FLOAT, ["N", 1, "H", "W"])],
    )
