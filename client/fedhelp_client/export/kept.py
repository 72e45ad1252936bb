"""The kept classifier as one ONNX graph: the public backbone, the public model and the own head.

Its ends are those of a classifying network (`fedhelp_client.export.graph`), its formula is in
`fedhelp_client.head`. 90 MB, and as long as the foundation model for an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, compose, helper, version_converter

from fedhelp_client.export.parts import (
    IMAGE,
    IR_VERSION,
    OPSET,
    PROBABILITIES,
    finished,
    integers,
    number,
    numbers,
    part,
    scaled_to,
)
from fedhelp_client.head import NORM, TINY, KeptClassifier
from fedhelp_secure.backbone.images import DEVIATION, MEAN, SIDE
from fedhelp_secure.backbone.model import INPUT, LAYERS, TOKEN_WIDTH, network

_BACKBONE = "backbone:"


def kept_graph(kept: KeptClassifier) -> ModelProto:
    """The whole graph of ``kept``; raises BackboneUnavailable."""
    tokens = [f"tokens_{place}" for place in range(len(LAYERS))]
    seen, layers = seen_graph(LAYERS)
    return finished(
        compose.merge_models(
            seen, _head(kept, tokens), io_map=list(zip(layers, tokens, strict=True))
        )
    )


def seen_graph(
    layers: Sequence[str], passing: Sequence[str] = ()
) -> tuple[ModelProto, tuple[str, ...]]:
    """From an image to the backbone's ``layers``, and what these are called at its end.

    ``passing``: what `_entrance` gives besides and passes by the backbone. Raises
    BackboneUnavailable.
    """
    published = onnx.load_model_from_string(network())
    backbone = compose.add_prefix(version_converter.convert_version(published, OPSET), _BACKBONE)
    backbone.ir_version = IR_VERSION
    del published  # 90 MB
    names = tuple(_BACKBONE + layer for layer in layers)
    seen = compose.merge_models(
        _entrance(),
        backbone,
        io_map=[("prepared", _BACKBONE + INPUT)],
        outputs=[*passing, *names],
    )
    return seen, names


def _entrance() -> ModelProto:
    """As `fedhelp_secure.backbone.images.prepare`, which rounds to bytes after scaling.

    Besides the ``prepared`` image there are its ``bytes`` at that size, and the ``size`` it had.
    """
    resize, constants = scaled_to(SIDE)
    nodes = [
        helper.make_node("Shape", [IMAGE], ["size"], start=2, end=4),
        *resize,
        helper.make_node("Round", ["resized"], ["bytes"]),
        helper.make_node("Div", ["bytes", "white"], ["unit"]),
        helper.make_node("Sub", ["unit", "channel_mean"], ["channels_centred"]),
        helper.make_node("Div", ["channels_centred", "channel_deviation"], ["prepared"]),
    ]
    constants |= {
        "white": number(255.0),
        "channel_mean": numbers(MEAN[:, np.newaxis, np.newaxis]),
        "channel_deviation": numbers(DEVIATION[:, np.newaxis, np.newaxis]),
    }
    return part(
        "entrance",
        nodes,
        constants,
        inputs=[helper.make_tensor_value_info(IMAGE, TensorProto.UINT8, ["N", 1, "H", "W"])],
        outputs=[
            helper.make_tensor_value_info("prepared", TensorProto.FLOAT, ["N", 3, SIDE, SIDE]),
            helper.make_tensor_value_info("bytes", TensorProto.FLOAT, ["N", 1, SIDE, SIDE]),
            helper.make_tensor_value_info("size", TensorProto.INT64, [2]),
        ],
    )


def _head(kept: KeptClassifier, places: list[str]) -> ModelProto:
    """From every layer's tokens to probabilities."""
    summaries = [_summary(place) for place in places]
    projection, own = kept.head.projection, kept.head.weights
    constant = float(projection.constant[0])
    nodes = [
        *(node for summary in summaries for node in summary),
        helper.make_node("Concat", [f"{place}/summary" for place in places], ["embedding"], axis=1),
        helper.make_node("Sub", ["embedding", "mean"], ["centred"]),
        helper.make_node("Div", ["centred", "scale"], ["standard"]),
        # The public model, on the direction of the projected embedding.
        helper.make_node("MatMul", ["standard", "components"], ["projected"]),
        helper.make_node("ReduceL2", ["projected", "columns"], ["length"], keepdims=1),
        helper.make_node("Max", ["length", "tiny"], ["positive"]),
        helper.make_node("Div", ["projected", "positive"], ["direction"]),
        helper.make_node("MatMul", ["direction", "public"], ["sloped"]),
        helper.make_node("Add", ["sloped", "public_constant"], ["public_logits"]),
        # The own head, on the whole embedding.
        helper.make_node("MatMul", ["standard", "own"], ["own_sloped"]),
        helper.make_node("Add", ["own_sloped", "own_constant"], ["own_logits"]),
        helper.make_node("Softmax", ["own_logits"], ["own_probabilities"], axis=1),
        helper.make_node("Add", ["own_probabilities", "tiny"], ["own_positive"]),
        helper.make_node("Log", ["own_positive"], ["own_log"]),
        helper.make_node("Mul", ["own_log", "share"], ["own_part"]),
        helper.make_node("Add", ["public_logits", "own_part"], ["logits"]),
        helper.make_node("Softmax", ["logits"], [PROBABILITIES], axis=1),
    ]
    constants = {
        "first": integers(0),
        "second": integers(1),
        "end": integers(np.iinfo(np.int64).max),
        "columns": integers(1),
        "mean": numbers(projection.mean),
        "scale": numbers(projection.scale),
        "components": numbers(projection.components),
        "tiny": number(TINY),
        "public": numbers(kept.public_model[:-1] * sqrt(1 - constant**2)),
        "public_constant": numbers(kept.public_model[-1] * constant),
        "own": numbers(own[:-1] * (NORM / sqrt(len(projection.mean)))),
        "own_constant": numbers(own[-1]),
        "share": number(kept.share),
    }
    return part(
        "head",
        nodes,
        constants,
        inputs=[
            helper.make_tensor_value_info(place, TensorProto.FLOAT, ["N", "T", TOKEN_WIDTH])
            for place in places
        ],
        outputs=[helper.make_tensor_value_info(PROBABILITIES, TensorProto.FLOAT, ["N", "C"])],
    )


def _summary(place: str) -> list[onnx.NodeProto]:
    """Class token, then mean, standard deviation and maximum of the patches of ``place``."""

    def node(kind: str, inputs: list[str], output: str, **options: int) -> onnx.NodeProto:
        made = helper.make_node(kind, inputs, [f"{place}/{output}"])
        made.attribute.extend(helper.make_attribute(*option) for option in options.items())
        return made

    patches, average, apart = (f"{place}/{name}" for name in ("patches", "average", "apart"))
    statistics = [f"{place}/{name}" for name in ("class", "mean", "deviation", "maximum")]
    return [
        node("Slice", [place, "first", "second", "columns"], "class_token"),
        node("Squeeze", [f"{place}/class_token", "columns"], "class"),
        node("Slice", [place, "second", "end", "columns"], "patches"),
        node("ReduceMean", [patches, "columns"], "average", keepdims=1),
        node("Squeeze", [average, "columns"], "mean"),
        node("Sub", [patches, average], "apart"),
        node("Mul", [apart, apart], "square"),
        node("ReduceMean", [f"{place}/square", "columns"], "variance", keepdims=0),
        node("Sqrt", [f"{place}/variance"], "deviation"),
        node("ReduceMax", [patches, "columns"], "maximum", keepdims=0),
        node("Concat", statistics, "summary", axis=1),
    ]
