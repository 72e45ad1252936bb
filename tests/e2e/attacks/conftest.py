"""Running federations under attack: one that attacks leave as it is, one with a round open."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from support.aggregator import Party
from support.attacks import hurried_aggregator
from support.deployment import Deployment, deployed
from support.federation import FEDERATION, Federation, make_federation
from support.processes import Servers, running_servers

from fedhelp_secure.transport.identity import Identity, Role

AGGREGATOR = Identity(FEDERATION, Role.AGGREGATOR, "aggregator")


@dataclass(frozen=True, slots=True)
class Attacked:
    """The processes, and its parties' honest calls."""

    federation: Federation
    servers: Servers

    @property
    def address(self) -> str:
        """The aggregator's."""
        return self.servers.addresses["aggregator"]

    def party(self, name: str | Role) -> Party:
        """An honest caller on a connection of its own."""
        return Party(self.federation.state(name), self.federation.charter, self.address)

    def events(self) -> list[str]:
        """What the evidence log tells of, read by the auditor."""
        entries = self.party(Role.AUDITOR).entries()
        return [str(entry.WhichOneof("event")) for entry in entries]


@pytest.fixture(scope="package")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    root = tmp_path_factory.mktemp("attacked")
    # A rehearsal, so that nodes without patients can take part. Nobody calls as small-4: the first
    # round stays open whatever the others do.
    federation = make_federation(
        root / "parties",
        large=1,
        small=4,
        privacy={"mechanism": "rehearsal"},
        rounds={"count": 2, "deadline_seconds": 86_400},
    )
    with running_servers(federation, root) as servers:
        yield Attacked(federation, servers)


@pytest.fixture(scope="package")
def hurried(attacked: Attacked, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Another aggregator of the same identity, with short limits on connections; host:port."""
    root = tmp_path_factory.mktemp("hurried")
    state = shutil.copytree(attacked.federation.state(Role.AGGREGATOR).root, root / "state")
    shutil.rmtree(state / "aggregator")
    with hurried_aggregator(attacked.federation.charter_file(), state, root) as address:
        yield address


@pytest.fixture(scope="session")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Registrar, custodians, aggregator and broker; nobody is revoked, no round is run."""
    with deployed(
        tmp_path_factory.mktemp("deployment"),
        servers=(Role.DECRYPTOR, Role.UNMASKER, Role.AGGREGATOR, Role.BROKER),
        privacy={"mechanism": "rehearsal"},
    ) as running:
        yield running
