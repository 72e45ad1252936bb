"""What a node writes down beside the network that it leaves: what an export has to know of it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedhelp_client.architecture import Architecture, preset
from fedhelp_client.data.types import DataError, Task
from fedhelp_secure.canonical import canonical_json
from fedhelp_secure.state import StateDirectory, write_atomically


class ModelRecord(BaseModel):
    """One learnt network; measured on the public test set, on nothing of the hospital's own."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    version: Literal[1] = 1
    federation: str
    charter: str
    charter_digest: str
    hospital: str
    group: Literal["large", "small"]
    task: Task
    classes: tuple[str, ...] = Field(min_length=2)
    metric: Literal["accuracy", "dice"]
    alone: float
    distilled: float
    head_alone: float | None = None
    """Of a head on the public backbone, from the hospital's own patients alone."""
    head: float | None = None
    """Of the kept classifier or segmenter; None where none is kept."""
    test_images: int
    mechanism: str
    epsilon_aggregate: str
    epsilon_collusion: str
    delta: str
    learnt: str
    """When, UTC, RFC 3339."""
    architecture: Architecture | None = None
    """Which network it is; None for the group's default."""

    def network(self) -> Architecture:
        """Which network it is."""
        return self.architecture or preset(self.group, self.task)

    def save(self, state: StateDirectory) -> None:
        """Write it into ``state``, in the place of an earlier one."""
        write_atomically(_path(state), canonical_json(self.model_dump(mode="json")))

    @classmethod
    def load(cls, state: StateDirectory) -> ModelRecord:
        """The record in ``state``; raises DataError if no node has left one."""
        try:
            return cls.model_validate_json(_path(state).read_bytes())
        except (OSError, ValidationError) as error:
            raise DataError(
                f"{state.root} holds no learnt model; run 'fedhelp client run' to its end first."
            ) from error


def _path(state: StateDirectory) -> Path:
    return state.role_directory() / "models" / "record.json"
