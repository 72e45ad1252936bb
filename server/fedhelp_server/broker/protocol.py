"""The two messages of the Open Inference Protocol v2 that the call consists of.

https://github.com/kserve/open-inference-protocol: one BYTES tensor of base64 PNGs goes out, one
FP32 tensor of embeddings comes back.
"""

from __future__ import annotations

import base64
import io
import json
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedhelp_secure.errors import PeerError
from fedhelp_secure.foundation_model import EMBEDDING_WIDTH

INPUT = "images"
OUTPUT = "embeddings"

_Number = Annotated[float, Field(allow_inf_nan=False)]


class AnswerRefused(PeerError):
    """The foundation model's answer may not be used; ``reason`` is short and stable."""

    code = "foundation-model-answer"

    def __init__(self, reason: str, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason


class _Message(BaseModel):
    # The protocol lets servers add fields; those that are read are read strictly.
    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)


class _Output(_Message):
    name: Literal["embeddings"]
    datatype: Literal["FP32"]
    shape: tuple[int, int]
    data: list[_Number]


class _Response(_Message):
    model_name: str
    outputs: tuple[_Output]


def build_request(images: NDArray[np.uint8]) -> bytes:
    """The body of an inference request for grey ``images`` [N, H, W], encoded here as PNG."""
    document = {
        "inputs": [
            {
                "name": INPUT,
                "shape": [len(images)],
                "datatype": "BYTES",
                "parameters": {"content_type": "base64"},
                "data": [_png(image) for image in images],
            }
        ],
        "outputs": [{"name": OUTPUT}],
    }
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode("ascii")


def parse_response(data: bytes, *, model: str, count: int) -> NDArray[np.float32]:
    """The embeddings [count, 768] in an inference response; raises AnswerRefused."""
    try:
        response = _Response.model_validate_json(data)
    except ValidationError as error:
        raise AnswerRefused(
            "answer-form", "the foundation model's answer is not an FP32 tensor of embeddings."
        ) from error
    if response.model_name != model:
        raise AnswerRefused("answer-model", "another model than the charter's has answered.")
    output = response.outputs[0]
    if output.shape != (count, EMBEDDING_WIDTH) or len(output.data) != count * EMBEDDING_WIDTH:
        raise AnswerRefused(
            "answer-shape", f"the foundation model's answer is not {count} x {EMBEDDING_WIDTH}."
        )
    with np.errstate(over="ignore"):
        embeddings = np.array(output.data, dtype=np.float32).reshape(output.shape)
    if not np.isfinite(embeddings).all() or not embeddings.any(axis=1).all():
        raise AnswerRefused(
            "answer-values", "the foundation model's answer has values that are not usable."
        )
    return embeddings


def _png(image: NDArray[np.uint8]) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode("ascii")
