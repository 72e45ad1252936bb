"""DINOv2 ViT-S/14 on onnxruntime: tokens, embeddings and summaries of grey images.

Frozen and public: nobody's patient ever trained it, so whatever is computed from public images with
it is public, and what a hospital computes with it on its own images stays at the hospital.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fedhelp_secure.backbone.images import check_images, prepare
from fedhelp_secure.backbone.weights import (
    WEIGHTS_DIGEST,
    BackboneUnavailable,
    locate_weights,
    read_weights,
)
from fedhelp_secure.errors import ConfigurationError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

PATCHES = 256
"""Patch tokens of an image, row by row: 16 x 16."""
TOKEN_WIDTH = 384
"""Entries of one token."""
EMBEDDING_WIDTH = 2 * TOKEN_WIDTH
"""Entries of one image's embedding: the class token, then the mean of the patch tokens."""

BLOCKS = (4, 6, 8, 9, 10, 11)
"""Transformer blocks, counted from 1, whose tokens a summary holds beside the final layer norm's.

What tells tissues apart is in the middle of the network: a linear head on the final tokens alone is
six points of accuracy worse on ultrasound (docs/adr/0013)."""
SUMMARY_WIDTH = 4 * TOKEN_WIDTH * (len(BLOCKS) + 1)
"""Entries of one image's summary: for every block and the final layer norm, class token, then mean,
standard deviation and maximum of the patch tokens."""

INPUT = "input_image"
"""What `network` takes: [N, 3, 224, 224], as `fedhelp_secure.backbone.images.prepare` makes it."""
_TOKENS = "/backbone/layernorm/Add_1_output_0"
LAYERS = (*(f"/backbone/encoder/layer.{block - 1}/Add_1_output_0" for block in BLOCKS), _TOKENS)
"""What `network` gives: the tokens [N, 257, 384] of every block of a summary, in its order."""
_BATCH = 8
"""Images in one run: larger ones are not faster on a CPU and hold more memory."""


class Backbone:
    """The network, ready to run; safe to use from several threads. Made by `load_backbone`."""

    def __init__(self, session: InferenceSession, size_bytes: int) -> None:
        self._session = session
        self.size_bytes = size_bytes
        """Of the network that runs."""

    @property
    def digest(self) -> str:
        """Digest of the published file that holds the weights."""
        return WEIGHTS_DIGEST

    def tokens(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The final layer norm's tokens [N, 257, 384] of grey ``images`` [N, H, W].

        Token 0 is the class token; token 1 + 16 r + c is the patch at row r, column c. An image's
        tokens depend on that image alone, but for rounding: images of one call share matrix
        products, whose last bits may depend on how many there are. Raises ImagesRefused.
        """
        check_images(images)
        return np.concatenate([tokens for (tokens,) in self._batches(images, (_TOKENS,))])

    def embed(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embeddings [N, 768] of grey ``images`` [N, H, W]: class token, then mean patch token.

        Raises ImagesRefused.
        """
        check_images(images)
        parts = [
            np.concatenate([tokens[:, 0], tokens[:, 1:].mean(axis=1)], axis=1)
            for (tokens,) in self._batches(images, (_TOKENS,))
        ]
        return np.concatenate(parts)

    def summaries(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Summaries [N, `SUMMARY_WIDTH`] of grey ``images`` [N, H, W], as long as `embed` takes.

        Raises ImagesRefused.
        """
        check_images(images)
        parts = [
            np.concatenate([_summary(tokens) for tokens in layers], axis=1)
            for layers in self._batches(images, LAYERS)
        ]
        return np.concatenate(parts)

    def _batches(
        self, images: NDArray[np.uint8], layers: tuple[str, ...]
    ) -> Iterator[list[NDArray[np.float32]]]:
        for start in range(0, len(images), _BATCH):
            batch = prepare(images[start : start + _BATCH])
            tokens: list[NDArray[np.float32]] = self._session.run(list(layers), {INPUT: batch})
            yield tokens


def _summary(tokens: NDArray[np.float32]) -> NDArray[np.float32]:
    """Class token, mean, standard deviation and maximum of the patches, of ``tokens`` [N, P, W]."""
    patches = tokens[:, 1:]
    parts = [tokens[:, 0], patches.mean(axis=1), patches.std(axis=1), patches.max(axis=1)]
    return np.concatenate(parts, axis=1)


def load_backbone(threads: int = 1) -> Backbone:
    """The pinned backbone on ``threads`` CPU threads: about 1.5 s, then 350 MB resident.

    Raises BackboneUnavailable if the packages or the weights are missing or altered, and
    ConfigurationError unless ``threads`` is at least 1.
    """
    if threads < 1:
        raise ConfigurationError("the backbone needs at least one thread.")
    try:
        import onnxruntime
    except ImportError as error:
        raise BackboneUnavailable(
            "onnxruntime is not installed; run: pip install 'fedhelp-secure[backbone]'"
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Measured: the arena saves no time here and keeps 120 MB.
    options.enable_cpu_mem_arena = False
    # Measured: higher levels fuse nothing that makes this network faster, and start more slowly.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    graph = network()
    size_bytes = len(graph)
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    return Backbone(session, size_bytes)


def network() -> bytes:
    """The part of the published ONNX graph that ends at the tokens; the saliency head is cut.

    Takes `INPUT`, gives `LAYERS`. Raises BackboneUnavailable.
    """
    weights = read_weights(locate_weights())
    try:
        import onnx
    except ImportError as error:
        raise BackboneUnavailable(
            "onnx is not installed; run: pip install 'fedhelp-secure[backbone]'"
        ) from error
    # Each step copies 90 MB or more, and several parties load at once: let go of the one before.
    model = onnx.load_model_from_string(weights)
    del weights
    for layer in LAYERS:
        tokens = onnx.helper.make_tensor_value_info(layer, onnx.TensorProto.FLOAT, None)
        model.graph.output.append(tokens)
    cut = onnx.utils.Extractor(model).extract_model([INPUT], list(LAYERS))
    del model
    graph: bytes = cut.SerializeToString()
    return graph
