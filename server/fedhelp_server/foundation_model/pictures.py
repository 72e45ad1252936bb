"""The pictures in an inference request: base64 PNG, grey, all of one size."""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedhelp_secure.errors import MalformedMessage

MAXIMUM_SIDE = 4096
"""Pixels; a picture with a larger side is refused before it is decoded."""


class PictureRefused(MalformedMessage):
    """A picture in a request is not a grey PNG, or not of the size of the others."""

    code = "picture"


def decode_pictures(texts: Sequence[object]) -> NDArray[np.uint8]:
    """Grey images [N, H, W] from base64 PNGs; raises PictureRefused."""
    if not texts:
        raise PictureRefused("a request must hold at least one picture.")
    images = [_decode(text) for text in texts]
    if len({image.shape for image in images}) != 1:
        raise PictureRefused("the pictures of a request must be of one size.")
    return np.stack(images)


def _decode(text: object) -> NDArray[np.uint8]:
    from PIL import Image

    if not isinstance(text, str):
        raise PictureRefused("a picture must be the base64 text of a PNG.")
    try:
        data = base64.b64decode(text, validate=True)
        with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
            if picture.mode != "L" or max(picture.size) > MAXIMUM_SIDE:
                raise PictureRefused(
                    f"a picture must be 8-bit grey and at most {MAXIMUM_SIDE} pixels a side."
                )
            return np.asarray(picture, dtype=np.uint8)
    except (
        binascii.Error,
        OSError,
        SyntaxError,
        ValueError,
        Image.DecompressionBombError,
    ) as error:
        raise PictureRefused("a picture must be the base64 text of a PNG.") from error
