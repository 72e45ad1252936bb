"""Images as PNG files, made from pixels: no file that anybody has ever passes through."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray


def png(image: NDArray[np.uint8]) -> bytes:
    """The PNG of a grey ``image`` [H, W]: header, pixels, end, and no other chunk."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, format="PNG")
    return buffer.getvalue()
