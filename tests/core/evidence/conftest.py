from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support.evidence import Story, tell
from support.federation import Federation, make_federation

Writer = Callable[[Story], Path]


@pytest.fixture(scope="session")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation"), large=1, small=3, unmaskers=2)


@pytest.fixture(scope="session")
def true_story(federation: Federation, tmp_path_factory: pytest.TempPathFactory) -> Story:
    return tell(federation, tmp_path_factory.mktemp("ledgers"))


@pytest.fixture(scope="session")
def true_bundle(true_story: Story, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return true_story.copy().write(tmp_path_factory.mktemp("bundles") / "true")


@pytest.fixture
def story(true_story: Story) -> Story:
    """What happened, to be told otherwise."""
    return true_story.copy()


@pytest.fixture
def bundle(true_bundle: Path, tmp_path: Path) -> Path:
    """The true bundle, to be changed."""
    return Path(shutil.copytree(true_bundle, tmp_path / "bundle"))
