"""An OpenAI-compatible embeddings endpoint that takes images as data URLs.

OpenAI's own shape (https://platform.openai.com/docs/api-reference/embeddings) has texts only; that
gateways such as LiteLLM take a data URL in ``input`` for an image is a convention.
"""

from __future__ import annotations

import base64
import json
from decimal import Decimal
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedhelp_secure.foundation_model import EMBEDDING_WIDTH
from fedhelp_server.broker.pictures import png
from fedhelp_server.broker.provider import AnswerRefused, checked_embeddings
from fedhelp_server.broker.providers.https import HttpsProvider, Parsed

_Number = Annotated[float, Field(allow_inf_nan=False)]
_SMALLEST_COST = Decimal("1e-9")


class _Message(BaseModel):
    # Servers add fields of their own; those that are read are read strictly.
    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)


class _Embedding(_Message):
    index: int
    embedding: Annotated[list[_Number], Field(max_length=EMBEDDING_WIDTH + 1)]


class _Usage(_Message):
    cost: float | None = Field(default=None, ge=0, lt=1e7, allow_inf_nan=False)
    """Reported by gateways that charge by request. 64 of them still fit a record's amount."""


class _Response(_Message):
    model: str
    data: list[_Embedding]
    usage: _Usage | None = None


class OpenAiEmbeddings(HttpsProvider):
    """``POST <url>/embeddings``; the charter's URL ends in ``/v1`` as a rule."""

    @property
    def target(self) -> str:
        """Path of the request."""
        return f"{self.model.path}/embeddings"

    def request(self, images: NDArray[np.uint8]) -> bytes:
        """Grey ``images`` [N, H, W] as data URLs of PNGs that are made here."""
        encoded = [base64.b64encode(png(image)).decode("ascii") for image in images]
        document = {
            "model": self.model.model,
            "input": [f"data:image/png;base64,{text}" for text in encoded],
            "encoding_format": "float",
        }
        return json.dumps(document, sort_keys=True, separators=(",", ":")).encode("ascii")

    def parse(self, data: bytes, *, count: int) -> Parsed:
        """Embeddings in the order of their indices, and the cost if it is reported."""
        try:
            response = _Response.model_validate_json(data)
        except ValidationError as error:
            raise AnswerRefused(
                "answer-form", "the foundation model's answer is not a list of embeddings."
            ) from error
        if response.model != self.model.model:
            raise AnswerRefused("answer-model", "another model than the charter's has answered.")
        rows = sorted(response.data, key=lambda row: row.index)
        widths = {len(row.embedding) for row in rows}
        if [row.index for row in rows] != list(range(count)) or widths != {EMBEDDING_WIDTH}:
            raise AnswerRefused(
                "answer-shape",
                f"the foundation model's answer is not {count} x {EMBEDDING_WIDTH}.",
            )
        values = np.array([row.embedding for row in rows])
        cost = None if response.usage is None else response.usage.cost
        return Parsed(
            checked_embeddings(values, values.shape, count=count),
            None if cost is None else Decimal(str(cost)).quantize(_SMALLEST_COST),
        )
