"""What ``fedhelp bench utility`` writes."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

from fedhelp_client.bench.setting import Setting
from fedhelp_client.data.types import Task

Figure = Literal["accuracy", "balanced_accuracy", "auc", "dice", "gain"]


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

    group: Literal["large", "small"]
    way: str
    epsilon: str | None
    """Budget of the release, or None if nothing was released with noise."""
    accuracy: Spread | None = None
    """This and the two that follow: of classification."""
    balanced_accuracy: Spread | None = None
    auc: Spread | None = None
    dice: Spread | None = None
    """Of segmentation."""
    gain: Spread
    """In accuracy or Dice, over the stronger of the ways alone, paired by seed."""

    def of(self, figure: Figure) -> Spread:
        """The figure of that name; raises KeyError if the task has no such figure."""
        spread: Spread | None = getattr(self, figure)
        if spread is None:
            raise KeyError(figure)
        return spread


class UtilityResult(_Document):
    """All figures, and all that they depend on."""

    task: Task
    data: str
    setting: Setting
    styles: bool
    patients: dict[str, int]
    """Of public data: at each hospital, in the proxy set and withheld, of the first seed."""
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
