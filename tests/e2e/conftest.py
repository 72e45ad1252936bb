"""One real demo for every test that looks at what a federation leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from fedhelp_client.data.cohort import PhantomCohort
from fedhelp_client.data.folder import write_folder
from fedhelp_client.data.types import Dataset

PATIENTS = 90
DEMO_SECONDS = 580
"""A demo's own length is a matter of the machine; this is when a test gives up."""


@dataclass(frozen=True, slots=True)
class FinishedDemo:
    """What ``fedhelp demo`` left in ``<work>/out/demo``."""

    work: Path
    out: Path
    result: dict[str, Any]
    screen: str
    kept_running: int
    """Server processes that ran between the result and Ctrl-C."""


def processes_naming(text: str) -> list[psutil.Process]:
    """Every process but this one that has ``text`` in its command line."""
    found = []
    for process in psutil.process_iter():
        try:
            command = process.cmdline()
        except psutil.Error:
            continue
        if process.pid != os.getpid() and any(text in part for part in command):
            found.append(process)
    return found


def fedhelp(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run ``fedhelp`` as a user would."""
    return subprocess.run(
        [sys.executable, "-m", "fedhelp_secure", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=DEMO_SECONDS,
    )


@pytest.fixture(scope="session")
def few_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a hospital has it, with the pictures of few phantom patients."""
    cohort = PhantomCohort(PATIENTS, seed=5, task="classification")
    identifiers = [patient.identifier for patient in cohort.patients()]
    folder = tmp_path_factory.mktemp("images") / "folder"
    # DICOM, as of docs/tutorial.md.
    write_folder(Dataset("few", cohort.classes, cohort.at_nobody(identifiers)), folder, dicom=True)
    return folder


def demo_arguments(data: Path) -> list[str]:
    """A short federation on the folder ``data``, as docs/tutorial.md has it."""
    return [
        *("demo", "--dataset", "folder", "--data", str(data), "--epsilon", "8"),
        *("--large", "1", "--small", "2", "--rounds", "2", "--unmaskers", "2"),
        *("--out", "out/demo", "--json", "result.json"),
    ]


@pytest.fixture(scope="session")
def finished_demo(tmp_path_factory: pytest.TempPathFactory, few_images: Path) -> FinishedDemo:
    """A short federation on few images: one large and two small hospitals, two unmaskers."""
    work = tmp_path_factory.mktemp("demo")
    arguments = [*demo_arguments(few_images), "--keep-running"]
    published = work / "result.json"
    with (work / "screen").open("wb") as screen:
        process = subprocess.Popen(
            [sys.executable, "-m", "fedhelp_secure", *arguments],
            cwd=work,
            stdout=screen,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            deadline = time.monotonic() + DEMO_SECONDS
            while not published.exists() and process.poll() is None:
                assert time.monotonic() < deadline, "the demo takes too long"
                time.sleep(0.2)
            # The result is there while the servers still run.
            kept = processes_naming(str(work / "out" / "demo" / "parties"))
            process.send_signal(signal.SIGINT)
            status = process.wait(timeout=60)
        finally:
            process.kill()
            process.wait()
    text = (work / "screen").read_text()
    assert status == 0, text
    result = json.loads(published.read_text())
    return FinishedDemo(work, work / "out" / "demo", result, text, len(kept))
