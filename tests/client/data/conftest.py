"""Small datasets made by the phantom, and BUSI's layout filled with its pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fedhelp_client.data.images import png_bytes
from fedhelp_client.data.phantom.patients import CLASSES, draw_patients, examine
from fedhelp_client.data.phantom.scanner import draw_scanner
from fedhelp_client.data.types import Dataset, Example


@pytest.fixture(scope="session")
def phantom() -> Dataset:
    """24 patients of all three classes, each on a scanner of their own."""
    random = np.random.default_rng(7)
    examples: list[Example] = []
    for patient in draw_patients(24, seed=7):
        examples.extend(examine(patient, draw_scanner(random), seed=7))
    return Dataset("phantom", CLASSES, tuple(examples))


def save(path: Path, image: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png_bytes(image))


@pytest.fixture
def busi(tmp_path: Path, phantom: Dataset) -> Path:
    """A folder that holds Dataset_BUSI_with_GT: two images a class, one benign with two masks."""
    root = tmp_path / "busi"
    for label, name in enumerate(CLASSES):
        chosen = [example for example in phantom.examples if example.label == label][:2]
        for number, example in enumerate(chosen, start=1):
            stem = root / "Dataset_BUSI_with_GT" / name / f"{name} ({number})"
            save(stem.with_name(f"{stem.name}.png"), example.image)
            assert example.mask is not None
            save(stem.with_name(f"{stem.name}_mask.png"), example.mask * np.uint8(255))
    second = np.zeros_like(phantom.examples[0].image)
    second[-4:, -4:] = 255
    save(root / "Dataset_BUSI_with_GT" / "benign" / "benign (1)_mask_1.png", second)
    return root
