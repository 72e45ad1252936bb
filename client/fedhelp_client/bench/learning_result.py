"""What ``fedhelp bench learning`` writes."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

from fedhelp_client.bench.setting import Setting
from fedhelp_client.data.types import Task


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class SeedSpread(_Document):
    """A figure over seeds."""

    mean: float
    deviation: float
    """Standard deviation over seeds; 0 for one seed."""
    of_seeds: list[float]
    """In the order of the result's seeds."""

    @classmethod
    def of(cls, values: Sequence[float]) -> SeedSpread:
        """Of at least one value."""
        deviation = statistics.stdev(values) if len(values) > 1 else 0.0
        rounded = [round(value, 4) for value in values]
        return cls(
            mean=round(statistics.mean(values), 4),
            deviation=round(deviation, 4),
            of_seeds=rounded,
        )


class MethodScores(_Document):
    """One method at the measured hospitals of one group, on images that belong to nobody."""

    group: Literal["large", "small"]
    method: str
    epsilon: str | None
    """Of all releases together, by patient; None if nothing was noised."""
    bytes_sent: int
    """By one hospital, in all."""
    figures: dict[str, SeedSpread]
    """Accuracy, balanced accuracy and AUC; or Dice and Hausdorff 95 (pixels of 224 x 224)."""
    gain: SeedSpread
    """In the first figure: over the stronger alone, or over the whole method in an ablation; paired
    by seed."""


class LearningResult(_Document):
    """All figures, and what they depend on."""

    task: Task
    data: str
    setting: Setting
    styles: bool
    seeds: list[int]
    measured: list[str]
    """Hospitals."""
    ablation: str | None
    delta: str
    scores: list[MethodScores]
    seconds: float
