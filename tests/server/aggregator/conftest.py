from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.aggregator import Custodian, addresses_of, custodians_of
from support.federation import Federation, make_federation

from fedhelp_server.aggregator.custodians import CustodianAddresses


@pytest.fixture(scope="session")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    """One large and two small hospitals; tests make charters and aggregator states of their own."""
    root: Path = tmp_path_factory.mktemp("federation")
    return make_federation(root, large=1, small=2, rounds={"count": 3})


@pytest.fixture(scope="session")
def custodians(federation: Federation) -> Iterator[tuple[Custodian, ...]]:
    """Decryptor and unmasker, serving for the whole session."""
    with custodians_of(federation) as running:
        yield running


@pytest.fixture
def addresses(custodians: tuple[Custodian, ...]) -> CustodianAddresses:
    return addresses_of(custodians)
