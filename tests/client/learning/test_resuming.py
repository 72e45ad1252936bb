"""A training or distillation that was killed ends with the numbers of one that was not."""

from __future__ import annotations

import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.resuming import learn

from fedhelp_client.checkpoint import Checkpoint
from fedhelp_client.curve import read_curves

_FIRST = [f"training {number}" for number in range(1, 9)]
_LINES = [*_FIRST, *(f"distillation {number}" for number in range(1, 9))]


def _start(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "support.resuming", str(folder), "5"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )


def _kill_after(folder: Path, line: str) -> None:
    process = _start(folder)
    assert process.stdout is not None
    for told in process.stdout:
        if told.strip() == line:
            break
    process.kill()
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert not (folder / "result").exists()


def _here(folder: Path, seed: int) -> tuple[list[str], dict[str, torch.Tensor]]:
    lines: list[str] = []
    numbers = learn(folder, seed, lambda step, done, total: lines.append(f"{step} {done}"))
    return lines, numbers


def test_a_run_killed_twice_ends_as_one_that_was_not(tmp_path: Path) -> None:
    killed = tmp_path / "killed"
    lines, whole = _here(tmp_path / "whole", 5)
    assert lines == _LINES
    _kill_after(killed, "training 3")
    _kill_after(killed, "distillation 4")
    for name in ("training", "distillation"):
        assert stat.S_IMODE((killed / name).stat().st_mode) == 0o600
    out, _ = _start(killed).communicate(timeout=120)
    rest = out.splitlines()
    assert 1 <= len(rest) <= 4
    assert rest == _LINES[-len(rest) :]
    result = torch.load(killed / "result", weights_only=True)
    assert all(torch.equal(value, result[name]) for name, value in whole.items())
    # The curve of a run that was killed is whole.
    curves = read_curves(killed / "curves")
    assert curves == read_curves(tmp_path / "whole" / "curves")
    assert [f"{epoch.step} {epoch.epoch}" for epoch in curves] == _LINES
    # Another seed is another run: it starts from its beginning.
    assert _here(killed, 6)[0] == _LINES
    again = read_curves(killed / "curves")
    assert len(again) == len(curves)
    assert again != curves


def test_a_checkpoint_of_another_run_or_a_torn_one_is_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint = Checkpoint(tmp_path / "models" / "training")
    assert checkpoint.load("a") is None
    checkpoint.save({"run": "a", "epochs": 3})
    loaded = checkpoint.load("a")
    assert loaded is not None
    assert loaded["epochs"] == 3
    assert checkpoint.load("b") is None
    assert "another run" in caplog.text
    path = tmp_path / "models" / "training"
    path.write_bytes(path.read_bytes()[:-40])
    assert checkpoint.load("a") is None
    checkpoint.remove()
    checkpoint.remove()
    assert not path.exists()


def test_checkpoints_are_not_written_all_the_time(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "training", seconds_between=3600)
    assert not checkpoint.due(last=False)
    assert checkpoint.due(last=True)
    assert Checkpoint(tmp_path / "training", seconds_between=0).due(last=False)
