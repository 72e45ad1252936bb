"""The MLServer runtime that answers with DINOv2 embeddings."""

from __future__ import annotations

import asyncio

import numpy as np
from fastapi import Request
from fastapi.responses import JSONResponse
from mlserver import MLModel
from mlserver.errors import InferenceError
from mlserver.handlers import custom_handler
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput
from numpy.typing import NDArray

from fedhelp_secure.backbone import Backbone, load_backbone
from fedhelp_secure.canonical import parse_json
from fedhelp_secure.errors import MalformedMessage
from fedhelp_server.foundation_model.pictures import (
    PictureRefused,
    decode_data_urls,
    decode_pictures,
)

MODEL_NAME = "dinov2-small"
INPUT = "images"
OUTPUT = "embeddings"
_PART = 8


class DinoRuntime(MLModel):  # type: ignore[misc]  # mlserver has no type information
    """One BYTES input ``images`` of PNGs (base64 in JSON) -> FP32 ``embeddings`` [N, 768]."""

    _backbone: Backbone
    _turn: asyncio.Lock

    async def load(self) -> bool:
        """Prepare the network, away from the event loop."""
        self._turn = asyncio.Lock()
        self._backbone = await asyncio.to_thread(load_backbone)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """The embeddings of the request's images, one request at a time; 400 if it has none."""
        if len(payload.inputs) != 1 or payload.inputs[0].name != INPUT:
            raise InferenceError(f"the request must have one input, called {INPUT}.")
        texts = payload.inputs[0].data.root
        try:
            images = await asyncio.to_thread(
                decode_pictures, texts if isinstance(texts, list) else []
            )
        except PictureRefused as error:
            raise InferenceError(str(error)) from error
        embeddings = await self.embed(images)
        output = ResponseOutput(
            name=OUTPUT,
            shape=list(embeddings.shape),
            datatype="FP32",
            data=embeddings.ravel().tolist(),
        )
        return InferenceResponse(model_name=self.name, outputs=[output])

    async def embed(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embeddings [N, 768] of grey ``images`` [N, H, W], one caller at a time."""
        async with self._turn:
            # In small parts: a request that is cancelled, as at shutdown, ends with its part.
            parts = [
                await asyncio.to_thread(self._backbone.embed, images[start : start + _PART])
                for start in range(0, len(images), _PART)
            ]
        return np.concatenate(parts)

    @custom_handler(rest_path="/v1/embeddings")  # type: ignore[untyped-decorator]
    async def openai_embeddings(self, request: Request) -> JSONResponse:
        """The second face: OpenAI's embeddings endpoint, with images as data URLs."""
        try:
            document = parse_json(await request.body(), "the request")
            if document.get("model") != self.name or document.get("encoding_format") != "float":
                raise PictureRefused(f"ask for the model {self.name}, with encoding_format float.")
            urls = document.get("input")
            images = await asyncio.to_thread(
                decode_data_urls, urls if isinstance(urls, list) else []
            )
        except MalformedMessage as error:
            return JSONResponse({"error": {"message": str(error)}}, status_code=400)
        rows = (await self.embed(images)).tolist()
        return JSONResponse(
            {
                "object": "list",
                "model": self.name,
                "data": [
                    {"object": "embedding", "index": index, "embedding": row}
                    for index, row in enumerate(rows)
                ],
                "usage": {"prompt_tokens": 0, "total_tokens": 0},
            }
        )
