from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from support.charters import complete
from support.federation import Federation, make_federation
from support.secure_sum import contribute_all

from fedhelp_keys.custodian.decryptor import DecryptorService
from fedhelp_keys.custodian.unmasker import UnmaskerService
from fedhelp_secure.charter import parse_charter, sign_charter
from fedhelp_secure.secure_sum.contribution import Contribution

_NUMBERS = itertools.count()


@pytest.fixture(scope="session")
def shared_federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    """One federation for all these tests; those that use up rounds take `federation`."""
    return make_federation(tmp_path_factory.mktemp("federation"), unmaskers=3)


@pytest.fixture
def federation(shared_federation: Federation) -> Federation:
    """The shared federation under a charter of the test's own: no round of it is answered yet.

    Releases fill two frames and a part of a third.
    """
    document = shared_federation.charter.document() | {"name": f"test-{next(_NUMBERS)}"}
    document["privacy"]["mechanism"] = "rehearsal"
    document["secure_sum"] = {"values": 9_000, "fraction_bits": 12}
    charter = parse_charter(complete(document))
    assert charter.secure_sum.frames == 3
    envelope = sign_charter(charter, shared_federation.governance_key)
    return dataclasses.replace(shared_federation, charter=charter, charter_envelope=envelope)


@pytest.fixture(scope="session")
def decryptor(shared_federation: Federation) -> Iterator[DecryptorService]:
    service = DecryptorService(shared_federation.state("decryptor"))
    yield service
    service.close()


@pytest.fixture(scope="session")
def unmaskers(shared_federation: Federation) -> Mapping[str, UnmaskerService]:
    """Every unmasker's service, by name."""
    names = [one.name for one in shared_federation.charter.custodians.unmaskers]
    return {name: UnmaskerService(shared_federation.state(name)) for name in names}


@pytest.fixture
def sent(federation: Federation, tmp_path: Path) -> dict[str, Contribution]:
    """Every hospital's contribution to round 1."""
    return contribute_all(federation, tmp_path / "sent")
