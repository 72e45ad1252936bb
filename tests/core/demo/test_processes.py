"""No interrupt comes between the start of a process and the list of those that are ended."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from fedhelp_secure.demo.processes import ProcessGroup


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_process_that_is_interrupted_while_it_starts_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    started: list[subprocess.Popen[bytes]] = []

    class Interrupted(subprocess.Popen[bytes]):
        def __init__(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401
            super().__init__(*arguments, **options)
            started.append(self)
            signal.raise_signal(number)

    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    with pytest.raises(KeyboardInterrupt), ProcessGroup(tmp_path) as group:
        group.start("version", "--version")
    (process,) = started
    # Waited for, so not left behind: `stop` knew of it.
    assert process.returncode is not None


def test_handlers_are_as_before(tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with ProcessGroup(tmp_path) as group:
        group.run("version", "--version")
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
