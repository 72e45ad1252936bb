"""The stand-in foundation model as one ONNX file: prepared images in, embeddings out."""

from __future__ import annotations

from pathlib import Path

from fedhelp_secure.backbone.weights import BackboneUnavailable, locate_weights, read_weights
from fedhelp_secure.canonical import digest
from fedhelp_secure.state import write_atomically

_INPUT = "input_image"
_TOKENS = "/backbone/layernorm/Add_1_output_0"
_OUTPUT = "embeddings"


def write_onnx(out: Path) -> str:
    """Write DINOv2 ViT-S/14, float32 [N, 3, 224, 224] to [N, 768], to ``out``; the file's digest.

    Raises BackboneUnavailable.
    """
    try:
        import onnx
        from onnx import TensorProto, helper
    except ImportError as error:
        raise BackboneUnavailable(
            "onnx is not installed; run: pip install 'fedhelp-secure[backbone]'"
        ) from error
    model = onnx.load_model_from_string(read_weights(locate_weights()))
    model.graph.output.append(helper.make_tensor_value_info(_TOKENS, TensorProto.FLOAT, None))
    cut = onnx.utils.Extractor(model).extract_model([_INPUT], [_TOKENS])
    del model
    graph = cut.graph
    version = max(entry.version for entry in cut.opset_import if entry.domain in ("", "ai.onnx"))
    for name, values in (("first", [0]), ("second", [1]), ("end", [1 << 31]), ("axis", [1])):
        tensor = helper.make_tensor(f"fedhelp/{name}", TensorProto.INT64, [1], values)
        graph.initializer.append(tensor)
    slice_inputs = ["fedhelp/second", "fedhelp/end", "fedhelp/axis"]
    patches, averaged = "fedhelp/patches", ["fedhelp/mean"]
    # Operator set 18 made the axes an input.
    mean = (
        helper.make_node("ReduceMean", [patches, "fedhelp/axis"], averaged, keepdims=1)
        if version >= 18
        else helper.make_node("ReduceMean", [patches], averaged, keepdims=1, axes=[1])
    )
    graph.node.extend(
        [
            helper.make_node("Slice", [_TOKENS, *slice_inputs], [patches]),
            helper.make_node(
                "Slice",
                [_TOKENS, "fedhelp/first", "fedhelp/second", "fedhelp/axis"],
                ["fedhelp/class"],
            ),
            mean,
            helper.make_node("Concat", ["fedhelp/class", "fedhelp/mean"], ["fedhelp/row"], axis=2),
            helper.make_node("Flatten", ["fedhelp/row"], [_OUTPUT], axis=1),
        ]
    )
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(_OUTPUT, TensorProto.FLOAT, None))
    data: bytes = cut.SerializeToString()
    write_atomically(out, data, mode=0o644)
    return digest(data)
