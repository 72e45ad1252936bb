from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator

import pytest
from support.federation import Federation, make_federation

from fedhelp_keys.custodian.decryptor import DecryptorService
from fedhelp_keys.custodian.unmasker import UnmaskerService
from fedhelp_secure.charter import sign_charter

_NUMBERS = itertools.count()


@pytest.fixture(scope="session")
def shared_federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    """One federation for all these tests; those that use up rounds take `federation`."""
    return make_federation(tmp_path_factory.mktemp("federation"))


@pytest.fixture
def federation(shared_federation: Federation) -> Federation:
    """The shared federation under a charter of the test's own: no round of it is answered yet."""
    charter = shared_federation.charter.model_copy(update={"name": f"test-{next(_NUMBERS)}"})
    envelope = sign_charter(charter, shared_federation.governance_key)
    return dataclasses.replace(shared_federation, charter=charter, charter_envelope=envelope)


@pytest.fixture(scope="session")
def decryptor(shared_federation: Federation) -> Iterator[DecryptorService]:
    service = DecryptorService(shared_federation.state("decryptor"))
    yield service
    service.close()


@pytest.fixture(scope="session")
def unmasker(shared_federation: Federation) -> UnmaskerService:
    return UnmaskerService(shared_federation.state("unmasker"))
