"""The commands in the documents run as they stand, in the order in which they stand."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from e2e.conftest import FinishedDemo, fedhelp

ROOT = Path(__file__).parents[2]
PASTE = "paste"
PAGES = [
    "auditor.md",
    "compliance-officer.md",
    "ml-engineer.md",
    "privacy-officer.md",
    "security-engineer.md",
]


def _commands(page: str) -> list[list[str]]:
    """What a reader types, in order; ``paste`` alone stands for what was printed just before.

    A line without ``$`` is what the command above it prints. A command that ends in ``&`` goes on
    in the background.
    """
    blocks = re.findall(r"```console\n(.*?)```", (ROOT / "docs" / page).read_text(), re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    assert all(line.startswith(("$ fedhelp ", "fedhelp ")) for line in lines), page
    typed = [line.removeprefix("$ fedhelp ") if line[0] == "$" else PASTE for line in lines]
    return [shlex.split(line) for line in typed]


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_runs(
    finished_demo: FinishedDemo, tmp_path: Path, page: str
) -> None:
    commands = _commands(page)
    assert commands
    if any("out/demo" in argument for command in commands for argument in command):
        shutil.copytree(finished_demo.out, tmp_path / "out" / "demo")
    printed = ""
    with ExitStack() as background:
        for command in commands:
            if command[-1] == "&":
                background.enter_context(_in_background(command[:-1], tmp_path))
            elif command == [PASTE]:
                assert printed.startswith("fedhelp ")
                printed = _run(shlex.split(printed)[1:], tmp_path)
            else:
                printed = _run(command, tmp_path)


def _run(arguments: list[str], folder: Path) -> str:
    done = fedhelp(*arguments, cwd=folder)
    assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
    return done.stdout


@contextmanager
def _in_background(arguments: list[str], folder: Path) -> Iterator[None]:
    ready = folder / f"ready-{len(list(folder.iterdir()))}"
    command = [sys.executable, "-m", "fedhelp_secure", *arguments, "--ready-file", str(ready)]
    with subprocess.Popen(command, cwd=folder) as process:
        try:
            while not ready.exists():
                assert process.poll() is None, arguments
                time.sleep(0.05)
            yield
        finally:
            process.terminate()


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
