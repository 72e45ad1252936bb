"""A foundation model in an ONNX file on the broker's own machine: nothing leaves.

The charter pins the file's digest. The network takes one float32 input [N, 3, 224, 224], prepared
as `fedhelp_secure.backbone.images` does, and gives embeddings [N, 768] as its first output.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fedhelp_secure.backbone.images import prepare
from fedhelp_secure.canonical import digest
from fedhelp_secure.charter import Charter
from fedhelp_secure.errors import ConfigurationError
from fedhelp_server.broker.provider import (
    AnswerRefused,
    CallLost,
    Contact,
    Reply,
    Stopping,
    checked_embeddings,
)

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

MAXIMUM_BYTES = 1 << 31
_PART = 8


class LocalModelRefused(ConfigurationError):
    """The ONNX file is missing, not the charter's, or no network of images to embeddings."""

    code = "local-model"


class LocalOnnx:
    """The network, ready to run."""

    repeatable = True
    """Nobody is asked and nothing is charged."""

    def __init__(self, charter: Charter, path: Path | None) -> None:
        """Raises LocalModelRefused."""
        self._height, self._width = charter.proxy.height, charter.proxy.width
        self._session = _session(_weights(path, charter.foundation_model.weights_digest))
        inputs = self._session.get_inputs()
        if len(inputs) != 1:
            raise LocalModelRefused("the ONNX network must have one input; export it again.")
        self._input = inputs[0].name
        self._output = self._session.get_outputs()[0].name
        self._closed = False

    def request(self, images: NDArray[np.uint8]) -> bytes:
        """The pixels themselves, row by row."""
        return np.ascontiguousarray(images).tobytes()

    def connect(self) -> LocalConnection:
        """Raises CallNotSent after `close`."""
        if self._closed:
            raise Stopping
        return LocalConnection(self)

    def close(self) -> None:
        """End what is running and allow no other call."""
        self._closed = True

    def run(self, body: bytes, *, count: int) -> NDArray[np.float32]:
        """Embeddings of the ``count`` images in ``body``; raises CallLost or AnswerRefused."""
        pixels = np.frombuffer(body, dtype=np.uint8)
        images = pixels.reshape(count, self._height, self._width)
        parts = []
        for start in range(0, count, _PART):
            if self._closed:
                raise CallLost("stopped")
            parts.append(self._run_part(images[start : start + _PART]))
        values = np.concatenate(parts)
        return checked_embeddings(values, values.shape, count=count)

    def _run_part(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        try:
            values = self._session.run([self._output], {self._input: prepare(images)})[0]
        # onnxruntime has no common class for what a network can do wrong.
        except Exception as error:
            raise AnswerRefused(
                "local-run", "the ONNX network cannot be run on the charter's images."
            ) from error
        if not isinstance(values, np.ndarray) or values.dtype != np.float32 or values.ndim != 2:
            raise AnswerRefused("answer-form", "the ONNX network does not give float32 rows.")
        return values


class LocalConnection:
    """Nothing to connect to."""

    contact: Contact | None = None

    def __init__(self, network: LocalOnnx) -> None:
        self._network = network

    def ask(self, body: bytes, *, count: int, key: str) -> Reply:
        """See `fedhelp_server.broker.provider.Connection`."""
        del key  # nobody to show it to
        embeddings = self._network.run(body, count=count)
        return Reply(embeddings, digest(embeddings.astype("<f4").tobytes()), None)

    def close(self) -> None:
        """Nothing is held."""


def _weights(path: Path | None, pinned: str | None) -> bytes:
    if path is None:
        raise LocalModelRefused(
            "the charter's foundation model is an ONNX file; give it with --model-file."
        )
    try:
        if path.stat().st_size > MAXIMUM_BYTES:
            raise LocalModelRefused(f"{path} is too large for one ONNX file.")
        data = path.read_bytes()
    except OSError as error:
        raise LocalModelRefused(f"{path} cannot be read; give it with --model-file.") from error
    if digest(data) != pinned:
        raise LocalModelRefused(f"{path} is not the file that the charter pins; fetch that one.")
    return data


def _session(weights: bytes) -> InferenceSession:
    try:
        import onnxruntime
    except ImportError as error:
        raise LocalModelRefused(
            "onnxruntime is not installed; run: pip install 'fedhelp-server[local-onnx]'"
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.enable_cpu_mem_arena = False
    try:
        return onnxruntime.InferenceSession(weights, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise LocalModelRefused("the pinned file is no ONNX network that can be run.") from error
