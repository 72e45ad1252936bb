"""A task that a network learns in seconds: is there a bright disc, and where."""

from __future__ import annotations

import numpy as np

from fedhelp_client.data.types import SEGMENTATION_CLASSES, Dataset, Example, Task
from fedhelp_client.export.record import ModelRecord

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
    return Dataset("discs", _classes(task), tuple(examples))


def _classes(task: Task) -> tuple[str, ...]:
    return SEGMENTATION_CLASSES if task == "segmentation" else ("absent", "present")


def model_record(task: Task, *, head: float | None = 0.75) -> ModelRecord:
    """What a node of small-1 records of its models of discs; without ``head`` it kept none."""
    return ModelRecord(
        federation="example",
        charter="pilot",
        charter_digest="sha256:" + "0" * 64,
        hospital="small-1",
        group="small",
        task=task,
        classes=_classes(task),
        metric="accuracy" if task == "classification" else "dice",
        alone=0.5,
        distilled=0.625,
        head_alone=None if head is None else 0.6875,
        head=head,
        test_images=40,
        mechanism="probe",
        epsilon_aggregate="3.000000",
        epsilon_collusion="6.100000",
        delta="1e-6",
        learnt="2026-01-01T00:00:00Z",
    )


def silent(step: str, done: int, total: int) -> None:
    """A progress callback that tells nobody."""
