"""What ``fedhelp bench utility`` writes."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Spread(_Document):
    """A figure over seeds."""

    mean: float
    least: float
    largest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value."""
        return cls(mean=statistics.mean(values), least=min(values), largest=max(values))


class Scores(_Document):
    """One way of learning, for the hospitals of one group, on images that belong to nobody."""

    group: Literal["large", "small", "all"]
    way: str
    epsilon: str | None
    """Budget of the release, or None if nothing was released with noise."""
    accuracy: Spread
    balanced_accuracy: Spread
    auc: Spread
    gain: Spread
    """Accuracy over the stronger of the ways alone, paired by seed."""


class UtilityResult(_Document):
    """All figures, and all that they depend on."""

    task: Literal["classification"] = "classification"
    data: str
    seeds: list[int]
    draws: int
    """Draws of the noise for each seed; a seed's figure is their mean."""
    large: int
    small: int
    minimum: int
    colluders: int
    delta: str
    rounds: dict[str, int]
    """By epsilon."""
    probe: dict[str, dict[str, str | int]]
    """By epsilon: the charter's parameters."""
    scores: list[Scores]
    seconds: float
