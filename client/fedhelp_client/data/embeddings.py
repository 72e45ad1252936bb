"""What the frozen backbone sees in an image: the same for the proxy set and for a patient.

Images are scaled to 224 x 224 pixels, as the backbone was trained; their shape is not kept. For
classification an image is one row, its summary over several layers of the backbone; for
segmentation it is its 16 x 16 patch tokens, each with its position.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fedhelp_client.data.types import DataError, Task

if TYPE_CHECKING:
    from fedhelp_secure.backbone import Backbone

SIDE = 224
"""Pixels of the backbone's input."""

GRID = 16
"""Patch tokens down and across."""


def resize_images(images: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Images of any size as uint8 [N, 224, 224]; raises DataError if there is none."""
    return _resized(images, Image.Resampling.BILINEAR)


def resize_masks(masks: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Masks of 0 and 1 as uint8 [N, 224, 224]; raises DataError if there is none."""
    return _resized(masks, Image.Resampling.NEAREST)


def embed(backbone: Backbone, images: NDArray[np.uint8], task: Task) -> NDArray[np.float32]:
    """Embeddings [N, T, E] of ``images`` (uint8 [N, 224, 224]).

    Classification: T = 1, E = 10,752. Segmentation: T = 256 (row by row), E = 388.
    """
    if task == "classification":
        return backbone.summaries(images)[:, None, :]
    patches = backbone.tokens(images)[:, 1:, :]
    positions = np.broadcast_to(token_positions(), (len(patches), GRID * GRID, 4))
    embeddings: NDArray[np.float32] = np.concatenate([patches, positions], axis=2)
    return embeddings


def token_targets(masks: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The part of each patch that is background and lesion: [N, 256, 2], rows sum to 1.

    ``masks``: 0 and 1, uint8 [N, 224, 224].
    """
    patch = SIDE // GRID
    blocks = masks.reshape(len(masks), GRID, patch, GRID, patch).astype(np.float64)
    lesion = blocks.mean(axis=(2, 4)).reshape(len(masks), GRID * GRID)
    return np.stack([1.0 - lesion, lesion], axis=2)


def token_positions() -> NDArray[np.float32]:
    """[256, 4]: x, y, x squared and y squared of each patch, each centred on 0."""
    axis = (np.arange(GRID) + 0.5) / GRID * 2.0 - 1.0
    down, across = np.meshgrid(axis, axis, indexing="ij")
    columns = np.stack([across, down, across**2, down**2], axis=2).reshape(GRID * GRID, 4)
    positions: NDArray[np.float32] = (columns - columns.mean(axis=0)).astype(np.float32)
    return positions


def _resized(images: Sequence[NDArray[np.uint8]], method: Image.Resampling) -> NDArray[np.uint8]:
    if not images:
        raise DataError("There is no image to embed; give a folder with images.")
    return np.stack(
        [
            np.asarray(Image.fromarray(image).resize((SIDE, SIDE), method), dtype=np.uint8)
            for image in images
        ]
    )
