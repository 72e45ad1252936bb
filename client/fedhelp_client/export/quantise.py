"""Eight-bit weights and activations, calibrated on public images only (Jacob et al. 2018).

What calibration sees goes into the file as scales: patients must not be in it.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from fedhelp_client.export.parts import IMAGE

_QUANTISED = ["Conv", "ConvTranspose", "Gemm", "MatMul"]


def quantised(graph: ModelProto, public_images: NDArray[np.uint8]) -> ModelProto:
    """``graph`` with 8-bit convolutions and products, calibrated on grey images [N, H, W]."""
    with tempfile.TemporaryDirectory() as folder:
        whole, prepared, small = (Path(folder) / name for name in ("a.onnx", "b.onnx", "c.onnx"))
        onnx.save(graph, whole)
        # Its advice to run what has just been run is no news.
        logging.disable(logging.WARNING)
        try:
            quant_pre_process(whole, prepared, skip_symbolic_shape=True)
            quantize_static(
                prepared,
                small,
                _Reader(public_images),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=_QUANTISED,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
        finally:
            logging.disable(logging.NOTSET)
        return onnx.load(small)


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, images: NDArray[np.uint8]) -> None:
        self._left: Iterator[NDArray[np.uint8]] = iter(images)

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        """The next image in the graph's form; None at the end."""
        image = next(self._left, None)
        return None if image is None else {IMAGE: image[np.newaxis, np.newaxis]}
