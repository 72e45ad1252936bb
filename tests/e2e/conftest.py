"""One real demo for every test that looks at what a federation leaves."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


@dataclass(frozen=True, slots=True)
class FinishedDemo:
    """What ``fedhelp demo`` left in ``<work>/out/demo``."""

    work: Path
    out: Path
    result: dict[str, Any]
    screen: str


def fedhelp(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run ``fedhelp`` as a user would."""
    return subprocess.run(
        [sys.executable, "-m", "fedhelp_secure", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )


@pytest.fixture(scope="session")
def finished_demo(tmp_path_factory: pytest.TempPathFactory) -> FinishedDemo:
    """A short federation on phantom images: one large and two small hospitals, two rounds."""
    work = tmp_path_factory.mktemp("demo")
    done = fedhelp(
        *("demo", "--dataset", "phantom", "--large", "1", "--small", "2", "--rounds", "2"),
        *("--epsilon", "8", "--out", "out/demo", "--json", "result.json"),
        cwd=work,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((work / "result.json").read_text())
    return FinishedDemo(work, work / "out" / "demo", result, done.stdout)
