"""What an operator sees while a node works."""

from __future__ import annotations

import io
import json
import stat
from pathlib import Path

from rich.console import Console

from fedhelp_client.progress import ProgressBars, ProgressFile


def _shown(*, terminal: bool) -> str:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=terminal, width=100)
    with ProgressBars(console) as bars:
        for epoch in (1, 2, 3):
            bars("training", epoch, 8)
        bars("features", 5, 5)
    return screen.getvalue()


def test_a_terminal_shows_a_bar_a_step() -> None:
    shown = _shown(terminal=True)
    assert "training" in shown
    assert "3/8" in shown
    assert "5/5" in shown


def test_a_log_gets_no_bars() -> None:
    """How much there is tells how many images there are."""
    assert not _shown(terminal=False).strip()


def test_the_file_has_one_line_an_epoch_and_is_its_owners(tmp_path: Path) -> None:
    path = tmp_path / "out" / "progress.jsonl"
    progress = ProgressFile(path, "small-1")
    for epoch in (1, 2):
        progress("training", epoch, 2)
    progress.close()
    events = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(event["step"], event["done"], event["total"]) for event in events] == [
        ("training", 1, 2),
        ("training", 2, 2),
    ]
    assert set(events[0]) == {"unix_seconds", "hospital", "step", "done", "total"}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
