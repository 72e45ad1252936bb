"""The MLServer runtime that answers with DINOv2 embeddings."""

from __future__ import annotations

import asyncio

import numpy as np
from mlserver import MLModel
from mlserver.errors import InferenceError
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput

from fedhelp_secure.backbone import Backbone, load_backbone
from fedhelp_server.foundation_model.pictures import PictureRefused, decode_pictures

MODEL_NAME = "dinov2-small"
INPUT = "images"
OUTPUT = "embeddings"
_PART = 8


class DinoRuntime(MLModel):  # type: ignore[misc]  # mlserver has no type information
    """One BYTES input ``images`` of base64 PNGs -> one FP32 output ``embeddings`` [N, 768]."""

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
        async with self._turn:
            # In small parts: a request that is cancelled, as at shutdown, ends with its part.
            parts = [
                await asyncio.to_thread(self._backbone.embed, images[start : start + _PART])
                for start in range(0, len(images), _PART)
            ]
        embeddings = np.concatenate(parts)
        output = ResponseOutput(
            name=OUTPUT,
            shape=list(embeddings.shape),
            datatype="FP32",
            data=embeddings.ravel().tolist(),
        )
        return InferenceResponse(model_name=self.name, outputs=[output])
