"""What a demo is asked to do."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict


class Task(enum.StrEnum):
    """What the hospitals learn."""

    CLASSIFICATION = "classification"
    SEGMENTATION = "segmentation"


class DatasetName(enum.StrEnum):
    """Where images may come from."""

    BUSI = "busi"
    BREASTMNIST = "breastmnist"
    PHANTOM = "phantom"
    FOLDER = "folder"


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """One demo run."""

    task: Task
    dataset: DatasetName | None
    """None: resolved from ``data``, the environment and what is installed."""
    data: Path | None
    large: int
    small: int
    rounds: int
    epsilon: str
    seed: int
    """Seeds the split, the models' initialisation and the phantom; never noise, masks or keys."""
    out: Path
    unmaskers: int
    """Custodians B; the first is called ``unmasker``, the others ``unmasker-2`` and so on."""

    @property
    def hospitals(self) -> tuple[str, ...]:
        """Names of all hospitals, in ascending order."""
        large = [f"large-{number}" for number in range(1, self.large + 1)]
        small = [f"small-{number}" for number in range(1, self.small + 1)]
        return tuple(sorted(large + small))


class DataSource(BaseModel):
    """What ``fedhelp client simulate`` says of the data it split."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    dataset: str
    sentence: str
    task: str
    classes: list[str]
    test_images: int
    proxy_images: int

    @classmethod
    def read(cls, path: Path) -> DataSource:
        """The source in the JSON file at ``path``."""
        return cls.model_validate_json(path.read_bytes())
