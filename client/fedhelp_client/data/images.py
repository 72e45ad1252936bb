"""Grey images and masks on disk: PNG and JPEG in, PNG out, within limits that every model takes."""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fedhelp_client.data.types import ImageRefused

MINIMUM_SIDE = 16
"""Pixels; a smaller image holds less than one token of the backbone."""

MAXIMUM_SIDE = 4096
"""Pixels; the charter's limit for the proxy set, and a guard against decompression bombs."""

SUFFIXES = frozenset({".png", ".jpg", ".jpeg"})

_EIGHT_BIT_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "YCbCr", "CMYK"})


def read_grey(path: Path, name: str) -> NDArray[np.uint8]:
    """The image at ``path`` as uint8 [H, W].

    ``name`` is what errors call it. Raises ImageRefused if the file is missing, is no 8-bit PNG or
    JPEG, is damaged, or has a side outside 16 to 4096 pixels (checked before it is decoded).
    """
    try:
        # Pillow warns of very large images while it opens them; our own limit is far below.
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=("PNG", "JPEG")) as image:
                _check_size(image, name)
                _check_mode(image, name)
                return np.asarray(image.convert("L"), dtype=np.uint8)
    except FileNotFoundError as error:
        raise ImageRefused(f"{name} does not exist; correct the table or add the file.") from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ImageRefused(_too_large(name)) from error
    except (OSError, ValueError, SyntaxError) as error:
        raise ImageRefused(
            f"{name} cannot be read as a PNG or JPEG image; export it again or remove it."
        ) from error


def read_mask(path: Path, name: str, shape: tuple[int, int]) -> NDArray[np.uint8]:
    """The mask at ``path`` as uint8 of 0 and 1; raises ImageRefused if it is not of ``shape``."""
    grey = read_grey(path, name)
    if grey.shape != shape:
        raise ImageRefused(
            f"{name} has another size than its image; export the mask in the image's own size."
        )
    return (grey > 127).astype(np.uint8)


def png_bytes(image: NDArray[np.uint8]) -> bytes:
    """``image`` (uint8 [H, W]) as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, format="PNG", compress_level=3)
    return buffer.getvalue()


def write_private(path: Path, data: bytes) -> None:
    """Make the new file ``path`` with ``data``, readable by its owner only."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)


def _check_size(image: Image.Image, name: str) -> None:
    if min(image.size) < MINIMUM_SIDE:
        raise ImageRefused(
            f"{name} is smaller than {MINIMUM_SIDE} pixels; export it in its full size."
        )
    if max(image.size) > MAXIMUM_SIDE:
        raise ImageRefused(_too_large(name))


def _check_mode(image: Image.Image, name: str) -> None:
    if image.mode not in _EIGHT_BIT_MODES:
        raise ImageRefused(
            f"{name} has more than 8 bits a channel; export it with 8 bits, windowed as it is read."
        )


def _too_large(name: str) -> str:
    return f"{name} is larger than {MAXIMUM_SIDE} pixels; export it at its native resolution."
