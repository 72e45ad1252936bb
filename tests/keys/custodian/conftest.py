from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.federation import Federation, make_federation

from fedhelp_keys.custodian.decryptor import DecryptorService
from fedhelp_keys.custodian.unmasker import UnmaskerService


@pytest.fixture(scope="session")
def shared_federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    """For tests that make charters of their own, so that no round is answered twice."""
    return make_federation(tmp_path_factory.mktemp("federation"))


@pytest.fixture
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    """For tests that use up the rounds of its charter."""
    return make_federation(tmp_path_factory.mktemp("federation"))


@pytest.fixture
def decryptor(federation: Federation) -> Iterator[DecryptorService]:
    service = DecryptorService(federation.state("decryptor"))
    yield service
    service.close()


@pytest.fixture
def unmasker(federation: Federation) -> UnmaskerService:
    return UnmaskerService(federation.state("unmasker"))
