"""The loss of every epoch of a training or a distillation, for whoever works at the hospital.

A loss follows from patients and has no noise: it goes into a file of the state directory, for its
owner only, one line an epoch, and into a checkpoint so that a run that was killed has the whole
curve. It is in no log, no progress, no result and nothing that leaves the site.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from fedhelp_client.data.types import DataError
from fedhelp_secure.state import StateDirectory, write_atomically

STEPS = ("training", "distillation")


class EpochLoss(BaseModel):
    """One line: means over the batches of one epoch, each term with its weight."""

    # A training may diverge: that is to be seen too.
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, ser_json_inf_nan="constants"
    )

    step: str
    epoch: int = Field(ge=1)
    """From 1."""
    of: int = Field(ge=1)
    loss: float
    """The sum of the terms."""
    terms: dict[str, float]


class Curve:
    """The curve of one step, in the file ``<step>.jsonl`` of a folder."""

    def __init__(self, folder: Path, step: str) -> None:
        self.step = step
        self._path = folder / f"{step}.jsonl"
        self._lines: list[str] = []

    def restart(self, lines: Sequence[str]) -> None:
        """Begin after the epochs of ``lines``, as `lines` gave them; others are forgotten."""
        self._lines = list(lines)
        write_atomically(self._path, "".join(f"{line}\n" for line in lines).encode())

    def add(self, batches: Sequence[Mapping[str, float]], epoch: int, of: int) -> None:
        """One more epoch, number ``epoch`` (from 1) of ``of``, from its batches' terms."""
        terms = {name: sum(batch[name] for batch in batches) / len(batches) for name in batches[0]}
        line = EpochLoss(
            step=self.step, epoch=epoch, of=of, loss=sum(terms.values()), terms=terms
        ).model_dump_json()
        self._lines.append(line)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")

    def lines(self) -> list[str]:
        """What a checkpoint keeps."""
        return list(self._lines)


def curves_folder(state: StateDirectory) -> Path:
    """Where a hospital's curves are."""
    return state.role_directory() / "results"


def read_curves(folder: Path) -> list[EpochLoss]:
    """All epochs of all steps in their order; empty without any.

    Raises DataError if a file is damaged.
    """
    epochs = []
    for step in STEPS:
        path = folder / f"{step}.jsonl"
        try:
            text = path.read_text(encoding="utf-8") if path.exists() else ""
            # What follows the last line's end is being written at this moment.
            lines = text.split("\n")[:-1]
            epochs += [EpochLoss.model_validate_json(line) for line in lines]
        except (OSError, ValueError) as error:
            raise DataError(
                f"{path} is no curve of a node; remove it, it is only for looking at."
            ) from error
    return epochs
