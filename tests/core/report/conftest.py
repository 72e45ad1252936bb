from __future__ import annotations

from pathlib import Path

import pytest
from support.evidence import Story, tell
from support.federation import Federation, make_federation

from fedhelp_secure.report.audit import build_report
from fedhelp_secure.report.document import Document
from fedhelp_secure.report.facts import Facts, read_facts


@pytest.fixture(scope="session")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation"), large=1, small=2, unmaskers=2)


@pytest.fixture(scope="session")
def story(federation: Federation, tmp_path_factory: pytest.TempPathFactory) -> Story:
    return tell(federation, tmp_path_factory.mktemp("ledgers"))


@pytest.fixture(scope="session")
def bundle(story: Story, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return story.copy().write(tmp_path_factory.mktemp("bundles") / "true")


@pytest.fixture(scope="session")
def facts(bundle: Path) -> Facts:
    return read_facts(bundle)


@pytest.fixture(scope="session")
def document(facts: Facts) -> Document:
    return build_report(facts)
