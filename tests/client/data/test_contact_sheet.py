"""The picture of many: every class is on it, masks are drawn, only its owner can read it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image
from support.learning import discs

from fedhelp_client.data.contact_sheet import (
    CAPTION,
    MOST_PICTURES,
    THUMBNAIL,
    write_contact_sheet,
)


def test_the_sheet_holds_every_class_and_is_private(tmp_path: Path) -> None:
    dataset = discs(9, seed=1, task="classification")
    assert write_contact_sheet(dataset, tmp_path / "sheet.png") == 9
    assert (tmp_path / "sheet.png").stat().st_mode & 0o077 == 0
    pixels = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert pixels.shape == (3 * (THUMBNAIL + CAPTION), 3 * THUMBNAIL)
    for place in range(9):
        top, left = place // 3 * (THUMBNAIL + CAPTION), place % 3 * THUMBNAIL
        assert pixels[top : top + THUMBNAIL, left : left + THUMBNAIL].std() > 1
        assert pixels[top + THUMBNAIL : top + THUMBNAIL + CAPTION].max() > 100


def test_a_rare_class_is_seen_among_many_images(tmp_path: Path) -> None:
    dataset = discs(3, seed=1, task="classification")
    common = replace(dataset.examples[0], label=0)
    rare = replace(dataset.examples[1], label=1, image=np.full_like(common.image, 255))
    many = replace(dataset, examples=(*[common] * 200, rare))
    assert write_contact_sheet(many, tmp_path / "sheet.png") == MOST_PICTURES
    pixels = np.asarray(Image.open(tmp_path / "sheet.png"))
    # The classes take turns: the only image of the second class is the second picture.
    assert pixels[:60, THUMBNAIL : THUMBNAIL + 60].mean() > 250


def test_a_mask_s_border_is_drawn(tmp_path: Path) -> None:
    dataset = discs(1, seed=1, task="segmentation")
    example = dataset.examples[0]
    black = replace(example, image=np.zeros_like(example.image))
    mask = np.zeros_like(example.image)
    mask[20:40, 10:30] = 1
    write_contact_sheet(replace(dataset, examples=(replace(black, mask=mask),)), tmp_path / "s.png")
    picture = np.asarray(Image.open(tmp_path / "s.png"))[:THUMBNAIL]
    drawn = np.argwhere(picture > 0)
    assert drawn.min(axis=0).tolist() == [20, 10]
    assert drawn.max(axis=0).tolist() == [39, 29]
    assert picture[30, 20] == 0
