"""What a node tells its operator while it works: steps, and how much of each is done.

How much there is follows from the number of images, so the file is its owner's alone.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

ProgressCallback = Callable[[str, int, int], None]
"""Called with the step's name, how much of it is done, and how much there is in all."""


class ProgressBars:
    """A bar a step on the operator's terminal; nothing where the screen is none, as in a log."""

    def __init__(self, console: Console) -> None:
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._steps: dict[str, TaskID] = {}

    def __enter__(self) -> ProgressBars:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def __call__(self, step: str, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` parts of ``step``, epochs for one, are complete."""
        if step not in self._steps:
            self._steps[step] = self._bars.add_task(step, total=total)
        self._bars.update(self._steps[step], completed=done, total=total)


class ProgressFile:
    """Appends one JSON line an event to a file that an operator, or the demo, follows."""

    def __init__(self, path: Path, hospital: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._file = path.open("a", encoding="utf-8", buffering=1)
        # Totals follow from how many images there are: for the operator's eyes only.
        os.fchmod(self._file.fileno(), 0o600)
        self._hospital = hospital

    def __call__(self, step: str, done: int, total: int) -> None:
        """Record that ``done`` of ``total`` parts of ``step`` are complete."""
        event = {
            "unix_seconds": round(time.time(), 3),
            "hospital": self._hospital,
            "step": step,
            "done": done,
            "total": total,
        }
        self._file.write(json.dumps(event) + "\n")

    def close(self) -> None:
        """No more events."""
        self._file.close()
