"""One picture of many: what a person looks at to see that the right images were read.

It shows patients, so it is written for its owner only and goes nowhere.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from fedhelp_client.data.images import png_bytes
from fedhelp_client.data.types import Dataset, Example
from fedhelp_secure.state import write_atomically

THUMBNAIL = 160
"""Pixels of a thumbnail's longer side."""

CAPTION = 16
"""Pixels below each thumbnail, for its number and label."""

MOST_PICTURES = 64


def write_contact_sheet(dataset: Dataset, path: Path) -> int:
    """Write the first pictures of every class to the PNG file ``path``; returns how many.

    Classes take turns, so that each is seen; a mask's border is drawn white. The caption is the
    picture's number in the order of the table, from 1, and its class.
    """
    chosen = _taking_turns(dataset)
    across = math.ceil(math.sqrt(len(chosen)))
    down = math.ceil(len(chosen) / across)
    sheet = Image.new("L", (across * THUMBNAIL, down * (THUMBNAIL + CAPTION)))
    draw = ImageDraw.Draw(sheet)
    for place, index in enumerate(chosen):
        example = dataset.examples[index]
        left, top = place % across * THUMBNAIL, place // across * (THUMBNAIL + CAPTION)
        sheet.paste(_thumbnail(example), (left, top))
        caption = f"{index + 1} {dataset.classes[example.label]}"
        draw.text((left + 3, top + THUMBNAIL + 2), caption.encode("ascii", "replace"), fill=255)
    write_atomically(path, png_bytes(np.asarray(sheet)))
    return len(chosen)


def _taking_turns(dataset: Dataset) -> list[int]:
    """Indices of at most MOST_PICTURES examples: the first of each class, then the second."""
    seen: dict[int, int] = {}
    turns = []
    for index, example in enumerate(dataset.examples):
        turns.append((seen.setdefault(example.label, 0), example.label, index))
        seen[example.label] += 1
    return [index for _, _, index in sorted(turns)[:MOST_PICTURES]]


def _thumbnail(example: Example) -> Image.Image:
    pixels = example.image.copy()
    if example.mask is not None:
        pixels[_border(example.mask, max(1, max(pixels.shape) // THUMBNAIL))] = 255
    picture = Image.fromarray(pixels)
    picture.thumbnail((THUMBNAIL - 4, THUMBNAIL - 4))
    return picture


def _border(mask: NDArray[np.uint8], width: int) -> NDArray[np.bool_]:
    """The pixels of ``mask`` that are within ``width`` of a pixel outside it."""
    inside = np.pad(mask > 0, width)
    eroded = inside.copy()
    for axis in (0, 1):
        for shift in (-width, width):
            eroded &= np.roll(inside, shift, axis)
    border: NDArray[np.bool_] = (inside & ~eroded)[width:-width, width:-width]
    return border
