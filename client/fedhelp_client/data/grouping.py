"""Which images are of one patient, where a publisher gave no patient identifiers.

Two frames of one lesion, or one frame stored twice, look nearly the same. Each image gets a
difference hash (N. Krawetz, "Kind of Like That", hackerfactor.com, 2013): it is scaled to 17 x
16 and every pixel compared with its right neighbour, 256 bits. Images within 20 bits, directly or
through others, are taken for one patient. It errs on the side of joining what looks alike, which is
the safe side for a split between patients.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

HASH_SIDE = 16
MAXIMUM_DISTANCE = 20
"""Bits of 256 that two images of one patient may differ in."""


def difference_hash(image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """The 256 bits of ``image`` (uint8 [H, W]): is a pixel brighter than its left neighbour?"""
    small = Image.fromarray(image).resize((HASH_SIDE + 1, HASH_SIDE), Image.Resampling.LANCZOS)
    grey = np.asarray(small, dtype=np.int16)
    bits: NDArray[np.bool_] = (grey[:, 1:] > grey[:, :-1]).ravel()
    return bits


def group_by_hash(images: Sequence[NDArray[np.uint8]]) -> tuple[int, ...]:
    """A group number for each image, counted from 0 in order of first appearance."""
    if not images:
        return ()
    signs = np.stack([difference_hash(image) for image in images]).astype(np.float32) * 2 - 1
    distances = (signs.shape[1] - signs @ signs.T) / 2
    parents = list(range(len(images)))
    for first, second in np.argwhere(np.triu(distances <= MAXIMUM_DISTANCE, k=1)).tolist():
        parents[_root(parents, first)] = _root(parents, second)
    numbers: dict[int, int] = {}
    return tuple(
        numbers.setdefault(_root(parents, index), len(numbers)) for index in range(len(images))
    )


def _root(parents: list[int], index: int) -> int:
    """The representative of ``index``, with path halving (Tarjan 1975)."""
    while parents[index] != index:
        parents[index] = parents[parents[index]]
        index = parents[index]
    return index
