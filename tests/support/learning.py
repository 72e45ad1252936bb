"""A task that a network learns in seconds: is there a bright disc, and where."""

from __future__ import annotations

import numpy as np

from fedhelp_client.data.types import SEGMENTATION_CLASSES, Dataset, Example, Task

SIDE = 64


def discs(count: int, *, seed: int, task: Task, contrast: int = 120) -> Dataset:
    """``count`` noisy images; every second one (for segmentation every one) shows a disc."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:SIDE, 0:SIDE]
    examples = []
    for number in range(count):
        shown = task == "segmentation" or number % 2 == 1
        row, column = random.uniform(20, SIDE - 20, size=2)
        disc = (rows - row) ** 2 + (columns - column) ** 2 < random.uniform(9, 14) ** 2
        mask = (disc & shown).astype(np.uint8)
        grey = random.integers(0, 60, size=(SIDE, SIDE)) + contrast * mask
        image = np.clip(grey, 0, 255).astype(np.uint8)
        examples.append(Example(image, int(shown), f"p{number}", mask))
    classes = SEGMENTATION_CLASSES if task == "segmentation" else ("absent", "present")
    return Dataset("discs", classes, tuple(examples))


def silent(step: str, done: int, total: int) -> None:
    """A progress callback that tells nobody."""
