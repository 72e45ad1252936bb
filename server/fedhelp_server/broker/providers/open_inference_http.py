"""The Open Inference Protocol v2 over HTTPS.

https://github.com/kserve/open-inference-protocol: one BYTES tensor of base64 PNGs goes out, one
FP32 tensor of embeddings comes back.
"""

from __future__ import annotations

import base64
import json
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedhelp_server.broker.pictures import png
from fedhelp_server.broker.provider import AnswerRefused, checked_embeddings
from fedhelp_server.broker.providers.https import HttpsProvider, Parsed

INPUT = "images"
OUTPUT = "embeddings"

_Number = Annotated[float, Field(allow_inf_nan=False)]


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


class OpenInferenceHttp(HttpsProvider):
    """``POST <url>/v2/models/<model>/infer``."""

    @property
    def target(self) -> str:
        """Path of the request."""
        return f"{self.model.path}/v2/models/{self.model.model}/infer"

    def request(self, images: NDArray[np.uint8]) -> bytes:
        """See `build_request`."""
        return build_request(images)

    def parse(self, data: bytes, *, count: int) -> Parsed:
        """See `parse_response`; the protocol has no field for a cost."""
        return Parsed(parse_response(data, model=self.model.model, count=count), None)


def build_request(images: NDArray[np.uint8]) -> bytes:
    """The body of an inference request for grey ``images`` [N, H, W], encoded here as PNG."""
    document = {
        "inputs": [
            {
                "name": INPUT,
                "shape": [len(images)],
                "datatype": "BYTES",
                "parameters": {"content_type": "base64"},
                "data": [base64.b64encode(png(image)).decode("ascii") for image in images],
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
    return checked_embeddings(np.array(output.data), output.shape, count=count)
