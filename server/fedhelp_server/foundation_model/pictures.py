"""The pictures in a request: PNG, grey, all of one size."""

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


_DATA_URL = "data:image/png;base64,"


class PictureRefused(MalformedMessage):
    """A picture in a request is not a grey PNG, or not of the size of the others."""

    code = "picture"


def decode_pictures(items: Sequence[object]) -> NDArray[np.uint8]:
    """Grey images [N, H, W] from PNGs (bytes) or their base64 texts; raises PictureRefused."""
    if not items:
        raise PictureRefused("a request must hold at least one picture.")
    images = [_decode(item) for item in items]
    if len({image.shape for image in images}) != 1:
        raise PictureRefused("the pictures of a request must be of one size.")
    return np.stack(images)


def decode_data_urls(urls: Sequence[object]) -> NDArray[np.uint8]:
    """Grey images [N, H, W] from ``data:image/png;base64,`` URLs; raises PictureRefused."""
    if not all(isinstance(url, str) and url.startswith(_DATA_URL) for url in urls):
        raise PictureRefused(f"a picture must be a data URL that begins with {_DATA_URL}")
    return decode_pictures([str(url).removeprefix(_DATA_URL) for url in urls])


def _decode(item: object) -> NDArray[np.uint8]:
    from PIL import Image

    if not isinstance(item, str | bytes):
        raise PictureRefused("a picture must be a PNG, or its base64 text.")
    try:
        # gRPC carries bytes as they are; JSON cannot.
        data = item if isinstance(item, bytes) else base64.b64decode(item, validate=True)
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
