"""From grey images to the backbone's input: 224 x 224, three equal channels, ImageNet scale."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedhelp_secure.errors import ConfigurationError

SIDE = 224
"""Height and width of the input, in pixels: 16 x 16 patches of 14 pixels."""

MEAN = np.array([0.485, 0.456, 0.406], dtype=np.float32)
DEVIATION = np.array([0.229, 0.224, 0.225], dtype=np.float32)
"""Of the images that DINOv2 was trained on, a channel each, on a scale of 0 to 1; so is `MEAN`."""


class ImagesRefused(ConfigurationError):
    """An array is not a stack of grey 8-bit images."""

    code = "backbone-images"


def check_images(images: NDArray[np.uint8]) -> None:
    """Raises ImagesRefused unless ``images`` is uint8 [N, H, W] with N, H and W at least 1."""
    if images.dtype != np.uint8 or images.ndim != 3 or 0 in images.shape:
        raise ImagesRefused(
            "images must be an array of bytes (uint8) of shape [count, height, width], none of "
            "them 0; convert them to 8-bit grey first."
        )


def prepare(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The input tensor [N, 3, 224, 224] for grey ``images`` [N, H, W].

    Bilinear with anti-aliasing (Pillow), scaled to 0..1, the grey value in all three channels, then
    the normalisation that DINOv2 was trained with. Raises ImagesRefused.
    """
    from PIL import Image

    check_images(images)
    resized = np.empty((len(images), SIDE, SIDE), dtype=np.float32)
    for index, image in enumerate(images):
        picture = Image.fromarray(np.ascontiguousarray(image))
        resized[index] = np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BILINEAR))
    grey = resized[:, np.newaxis] / np.float32(255)
    mean, deviation = MEAN[:, np.newaxis, np.newaxis], DEVIATION[:, np.newaxis, np.newaxis]
    prepared: NDArray[np.float32] = (grey - mean) / deviation
    return prepared
