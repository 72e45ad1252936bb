"""One running federation for the attacks that leave it as it is."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.deployment import Deployment, deployed

from fedhelp_secure.transport.identity import Role


@pytest.fixture(scope="session")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Registrar, custodians, aggregator and broker; nobody is revoked, no round is run."""
    with deployed(
        tmp_path_factory.mktemp("attacked"),
        servers=(Role.DECRYPTOR, Role.UNMASKER, Role.AGGREGATOR, Role.BROKER),
        privacy={"mechanism": "rehearsal"},
    ) as running:
        yield running
