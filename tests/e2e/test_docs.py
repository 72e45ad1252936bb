"""The commands in the documents run as they stand, in the order in which they stand."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
from e2e.conftest import FinishedDemo, fedhelp

ROOT = Path(__file__).parents[2]
PAGES = [
    "auditor.md",
    "broker-operator.md",
    "compliance-officer.md",
    "ml-engineer.md",
    "privacy-officer.md",
    "security-engineer.md",
]


def _commands(page: str) -> list[list[str]]:
    blocks = re.findall(r"```console\n(.*?)```", (ROOT / "docs" / page).read_text(), re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    assert all(line.startswith("$ fedhelp ") for line in lines), page
    return [shlex.split(line.removeprefix("$ fedhelp ")) for line in lines]


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_runs(
    finished_demo: FinishedDemo, tmp_path: Path, page: str
) -> None:
    commands = _commands(page)
    assert commands
    if any("out/demo" in argument for command in commands for argument in command):
        shutil.copytree(finished_demo.out, tmp_path / "out" / "demo")
    for command in commands:
        done = fedhelp(*command, cwd=tmp_path)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"


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
