"""The commands in the documents run as they stand, in the order in which they stand."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from e2e.conftest import DEMO_SECONDS, FinishedDemo, demo_arguments, fedhelp

ROOT = Path(__file__).parents[2]
PASTE = "paste"
PAGES = [
    "auditor.md",
    "broker-operator.md",
    "compliance-officer.md",
    "deployment.md",
    "ml-engineer.md",
    "privacy-officer.md",
    "security-engineer.md",
    "tutorial.md",
]


def _commands(page: str) -> list[str]:
    """What a reader types, in order; `PASTE` alone stands for what was printed just before.

    A line without ``$`` is what the command above it prints. A command that ends in ``&`` goes on
    in the background. openssl stands where a hospital's own PKI would.
    """
    blocks = re.findall(r"```console\n(.*?)```", (ROOT / "docs" / page).read_text(), re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    known = ("$ fedhelp ", "$ openssl ", "$ python ", "$ (umask 077 && ", "fedhelp ")
    assert all(line.startswith(known) for line in lines), page
    return [line.removeprefix("$ ") if line[0] == "$" else PASTE for line in lines]


def _files(page: str) -> list[tuple[str, str]]:
    """Name and content of each file that a page has its reader save."""
    text = (ROOT / "docs" / page).read_text()
    return re.findall(r"Save as `([\w.-]+)`:\n\n```(?:yaml|python)\n(.*?)```", text, re.DOTALL)


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_runs(
    finished_demo: FinishedDemo, tmp_path: Path, page: str
) -> None:
    commands = _commands(page)
    assert commands
    if any("out/demo" in command for command in commands):
        shutil.copytree(finished_demo.out, tmp_path / "out" / "demo")
    for name, content in _files(page):
        (tmp_path / name).write_text(content)
    printed = ""
    with ExitStack() as background:
        for command in commands:
            if command.endswith(" &"):
                background.enter_context(_in_background(command[:-2], tmp_path))
            elif command == PASTE:
                assert printed.startswith("fedhelp ")
                printed = _run(printed, tmp_path)
            else:
                printed = _run(command, tmp_path)


def _run(command: str, folder: Path) -> str:
    """As a reader would run it, with the installed program."""
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=DEMO_SECONDS,
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


@contextmanager
def _in_background(command: str, folder: Path) -> Iterator[None]:
    ready = folder / f"ready-{len(list(folder.iterdir()))}"
    arguments = ["bash", "-c", f"exec {command} --ready-file {ready}"]
    with subprocess.Popen(arguments, cwd=folder, env=_environment()) as process:
        try:
            while not ready.exists():
                assert process.poll() is None, command
                time.sleep(0.05)
            yield
        finally:
            process.terminate()


def _environment() -> dict[str, str]:
    """With this installation's program found first."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path}


def test_the_tutorials_demo_is_the_one_that_these_tests_run() -> None:
    """On DICOM too: see `few_images`."""
    command = " ".join(demo_arguments(Path("invented/hospitals/large-1")))
    assert f"\nfedhelp {command}\n" in (ROOT / "docs" / "tutorial.md").read_text()


def test_readme_names_only_targets_and_files_that_exist() -> None:
    readme = (ROOT / "README.md").read_text()
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"make ([a-z]+)", readme):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    pages = [ROOT / "README.md", ROOT / "threat_model.md", *sorted((ROOT / "docs").rglob("*.md"))]
    for page in pages:
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name} links to {link}"


def test_the_threat_model_names_only_files_that_exist() -> None:
    text = (ROOT / "threat_model.md").read_text()
    named = set(re.findall(r"`((?:fedhelp_secure|keys|server|client|tests)/[\w/.]+)`", text))
    assert len(named) > 5
    for name in named:
        assert (ROOT / name).exists(), name


def test_the_options_table_of_the_demo_is_complete(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "demo.md").read_text()
    shown = fedhelp("demo", "--help", cwd=tmp_path).stdout
    options = set(re.findall(r"--[a-z-]+", shown)) - {"--help"}
    assert len(options) > 8
    for option in options:
        assert option in page, option
