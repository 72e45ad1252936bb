"""The kept segmenter as one ONNX graph: the backbone, both token models and the guided filter.

Its ends are those of a segmenting network (`fedhelp_client.export.graph`), its formula is in
`fedhelp_client.token_head`, the refinement in `fedhelp_client.teacher`.
"""

from __future__ import annotations

from math import sqrt

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, compose, helper

from fedhelp_client.data.embeddings import GRID, token_positions
from fedhelp_client.export.graph import LESION
from fedhelp_client.export.kept import seen_graph
from fedhelp_client.export.parts import finished, integers, number, numbers, part
from fedhelp_client.head import TINY
from fedhelp_client.teacher import GUIDE_RADIUS, GUIDE_SMOOTHNESS
from fedhelp_client.token_head import KeptSegmenter, TokenHead
from fedhelp_secure.backbone.images import SIDE
from fedhelp_secure.backbone.model import LAYERS, TOKEN_WIDTH

_Nodes = list[onnx.NodeProto]
_Constants = dict[str, onnx.TensorProto]


def segmenter_graph(kept: KeptSegmenter) -> ModelProto:
    """The whole graph of ``kept``; raises BackboneUnavailable."""
    seen, (tokens,) = seen_graph(LAYERS[-1:], passing=("bytes", "size"))
    names = [("bytes", "bytes"), ("size", "size"), (tokens, "tokens")]
    return finished(compose.merge_models(seen, _masks(kept), io_map=names))


def _masks(kept: KeptSegmenter) -> ModelProto:
    """From tokens and the image's bytes to the lesion's probability in the image's own size."""
    node = helper.make_node
    public, public_constants = _logits("public", kept.public)
    own, own_constants = _logits("own", kept.own)
    nodes = [
        # The class token is none of a patch.
        node("Slice", ["tokens", "first", "end", "row_axis"], ["patches"]),
        *public,
        *own,
        node("Softmax", ["own/logits"], ["own/probabilities"], axis=2),
        node("Add", ["own/probabilities", "tiny"], ["own/positive"]),
        node("Log", ["own/positive"], ["own/log"]),
        node("Mul", ["own/log", "share"], ["own/part"]),
        node("Add", ["public/logits", "own/part"], ["joined/logits"]),
        node("Softmax", ["joined/logits"], ["joined"], axis=2),
        node("Transpose", ["joined"], ["by_class"], perm=[0, 2, 1]),
        node("Reshape", ["by_class", "grid"], ["coarse_grid"]),
        node(
            "Resize",
            ["coarse_grid", "", "", "full_side"],
            ["coarse"],
            mode="linear",
            axes=[2, 3],
            coordinate_transformation_mode="half_pixel",
        ),
        *_guided_filter(),
        node("Clip", ["filtered", "zero", "one"], ["clipped"]),
        node("Add", ["clipped", "tiny"], ["positive"]),
        node("ReduceSum", ["positive", "row_axis"], ["sum"], keepdims=1),
        node("Div", ["positive", "sum"], ["soft"]),
        node("Slice", ["soft", "first", "end", "row_axis"], ["soft_lesion"]),
        node(
            "Resize",
            ["soft_lesion", "", "", "size"],
            [LESION],
            mode="linear",
            axes=[2, 3],
            coordinate_transformation_mode="half_pixel",
        ),
    ]
    edge = [0, 0, GUIDE_RADIUS, GUIDE_RADIUS]
    constants = {
        **public_constants,
        **own_constants,
        "first": integers(1),
        "end": integers(np.iinfo(np.int64).max),
        "row_axis": integers(1),
        "entries": integers(2),
        "tiny": number(TINY),
        "share": number(kept.share),
        "grid": integers(0, 2, GRID, GRID),
        "full_side": integers(SIDE, SIDE),
        "edge": integers(*edge, *edge),
        "guide_white": number(255.0),
        "smoothness": number(GUIDE_SMOOTHNESS),
        "zero": number(0.0),
        "one": number(1.0),
    }
    return part(
        "segmenter",
        nodes,
        constants,
        inputs=[
            helper.make_tensor_value_info("bytes", TensorProto.FLOAT, ["N", 1, SIDE, SIDE]),
            helper.make_tensor_value_info("size", TensorProto.INT64, [2]),
            helper.make_tensor_value_info("tokens", TensorProto.FLOAT, ["N", "T", TOKEN_WIDTH]),
        ],
        outputs=[helper.make_tensor_value_info(LESION, TensorProto.FLOAT, ["N", 1, "H", "W"])],
    )


def _logits(name: str, head: TokenHead) -> tuple[_Nodes, _Constants]:
    """``name``/logits [N, T, 2] from ``patches``.

    A token's position is the same in every image: what it adds to the projection is a constant.
    """
    projection, constant = head.projection, float(head.projection.constant[0])
    seen = slice(0, TOKEN_WIDTH)
    places = slice(TOKEN_WIDTH, None)
    standard = (token_positions() - projection.mean[places]) / projection.scale[places]
    nodes = [
        helper.make_node("Sub", ["patches", f"{name}/mean"], [f"{name}/centred"]),
        helper.make_node("Div", [f"{name}/centred", f"{name}/scale"], [f"{name}/standard"]),
        helper.make_node(
            "MatMul", [f"{name}/standard", f"{name}/components"], [f"{name}/of_patch"]
        ),
        helper.make_node("Add", [f"{name}/of_patch", f"{name}/places"], [f"{name}/projected"]),
        helper.make_node(
            "ReduceL2", [f"{name}/projected", "entries"], [f"{name}/length"], keepdims=1
        ),
        helper.make_node("Max", [f"{name}/length", "tiny"], [f"{name}/positive_length"]),
        helper.make_node(
            "Div", [f"{name}/projected", f"{name}/positive_length"], [f"{name}/direction"]
        ),
        helper.make_node("MatMul", [f"{name}/direction", f"{name}/weights"], [f"{name}/sloped"]),
        helper.make_node("Add", [f"{name}/sloped", f"{name}/bias"], [f"{name}/logits"]),
    ]
    constants = {
        f"{name}/mean": numbers(projection.mean[seen]),
        f"{name}/scale": numbers(projection.scale[seen]),
        f"{name}/components": numbers(projection.components[seen]),
        f"{name}/places": numbers(standard @ projection.components[places]),
        f"{name}/weights": numbers(head.weights[:-1] * sqrt(1 - constant**2)),
        f"{name}/bias": numbers(head.weights[-1] * constant),
    }
    return nodes, constants


def _guided_filter() -> _Nodes:
    """``filtered`` [N, 2, S, S]: ``coarse`` as a locally affine function of the image."""
    node = helper.make_node
    return [
        node("Div", ["bytes", "guide_white"], ["guide"]),
        node("Mul", ["guide", "guide"], ["guide_square"]),
        node("Mul", ["guide", "coarse"], ["product"]),
        *_window("guide", "guide_mean"),
        *_window("coarse", "coarse_mean"),
        *_window("guide_square", "square_mean"),
        *_window("product", "product_mean"),
        node("Mul", ["guide_mean", "guide_mean"], ["mean_square"]),
        node("Sub", ["square_mean", "mean_square"], ["variance"]),
        node("Mul", ["guide_mean", "coarse_mean"], ["mean_product"]),
        node("Sub", ["product_mean", "mean_product"], ["covariance"]),
        node("Add", ["variance", "smoothness"], ["smoothed"]),
        node("Div", ["covariance", "smoothed"], ["slope"]),
        node("Mul", ["slope", "guide_mean"], ["explained"]),
        node("Sub", ["coarse_mean", "explained"], ["offset"]),
        *_window("slope", "slope_mean"),
        *_window("offset", "offset_mean"),
        node("Mul", ["slope_mean", "guide"], ["affine"]),
        node("Add", ["affine", "offset_mean"], ["filtered"]),
    ]


def _window(values: str, mean: str) -> _Nodes:
    """Means over windows, with the edge repeated beyond the image."""
    side = 2 * GUIDE_RADIUS + 1
    return [
        helper.make_node("Pad", [values, "edge"], [f"{mean}/padded"], mode="edge"),
        helper.make_node("AveragePool", [f"{mean}/padded"], [mean], kernel_shape=[side, side]),
    ]
