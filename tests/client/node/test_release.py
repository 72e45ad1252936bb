"""The node's rounds against the real aggregator and custodians: order, crashes, refusals."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from support.federation import Federation, make_federation
from support.processes import Servers, context_file, running_servers

from fedhelp_client.node.coordinator import Coordinator
from fedhelp_client.node.release import ReleaseFiles, Releaser
from fedhelp_secure.policy import SitePolicy
from fedhelp_secure.privacy.ledger import BudgetExhausted, Ledger
from fedhelp_secure.privacy.probe import PatientExamples
from fedhelp_secure.public_set import PublicSet, fit_projection
from fedhelp_secure.secure_sum.ckks import PublicContext
from fedhelp_secure.transport.client import open_channel
from fedhelp_secure.transport.identity import Identity, Role

DIMENSION, CLASSES = 4, 2


def _public_set() -> PublicSet:
    generator = np.random.default_rng(3)
    embeddings = generator.normal(size=(30, 1, 10)).astype(np.float32)
    projection = fit_projection(embeddings, DIMENSION)
    images = generator.integers(0, 256, (30, 16, 16), dtype=np.uint8)
    return PublicSet(images, projection.apply(embeddings), projection)


PUBLIC_SET = _public_set()


def _patients(count: int) -> list[PatientExamples]:
    features = PUBLIC_SET.features[:count].astype(np.float64)
    return [
        PatientExamples(row, np.eye(CLASSES)[[number % CLASSES]], np.ones(1))
        for number, row in enumerate(features)
    ]


class Site:
    """One hospital's node parts, on its real state directory."""

    def __init__(
        self, federation: Federation, servers: Servers, name: str, policy: SitePolicy | None = None
    ) -> None:
        self.state = federation.state(name)
        expected = Identity(self.state.identity.federation, Role.AGGREGATOR, "aggregator")
        channel = open_channel(self.state, servers.addresses["aggregator"], expected=expected)
        self.ledger = Ledger.open(
            self.state.role_directory() / "ledger.sqlite",
            hospital=name,
            signing_key=self.state.signing_key(),
            policy=policy,
        )
        self.said: list[str] = []
        self.releaser = Releaser(
            coordinator=Coordinator(self.state, federation.charter, channel),
            public_set=PUBLIC_SET,
            context=PublicContext(
                context_file(federation).read_bytes(), federation.charter.secure_sum
            ),
            ledger=self.ledger,
            files=ReleaseFiles(self.state.role_directory() / "charters" / "this"),
            progress=lambda step, done, total: self.said.append(step),
        )

    def stored(self) -> dict[str, bytes]:
        directory = self.releaser.files.directory
        return {
            str(path.relative_to(directory)): path.read_bytes()
            for path in sorted(directory.rglob("*"))
            if path.is_file()
        }


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    return make_federation(
        tmp_path / "parties", large=1, small=2, rounds={"count": 2, "deadline_seconds": 6}
    )


@pytest.fixture
def servers(federation: Federation, tmp_path: Path) -> Iterator[Servers]:
    with running_servers(federation, tmp_path / "run") as servers:
        yield servers


def _run_together(sites: list[Site]) -> list[np.ndarray]:
    with ThreadPoolExecutor(len(sites)) as pool:
        running = [pool.submit(site.releaser.run, _patients(6)) for site in sites]
        return [future.result(timeout=120) for future in running]


def test_every_hospital_ends_with_the_same_model_and_an_account(
    federation: Federation, servers: Servers
) -> None:
    sites = [Site(federation, servers, hospital.name) for hospital in federation.charter.hospitals]
    models = _run_together(sites)
    assert np.isfinite(models[0]).all()
    assert models[0].any()
    for model in models[1:]:
        np.testing.assert_array_equal(model, models[0])
    for site in sites:
        # Reserved, sent and opened, for each of two rounds.
        assert len(site.ledger.account().entries) == 6
        assert {"receipts/1.bin", "receipts/2.bin"} <= set(site.stored())


def test_a_restarted_node_sends_the_stored_bytes_and_spends_nothing(
    federation: Federation, servers: Servers
) -> None:
    names = [hospital.name for hospital in federation.charter.hospitals]
    _run_together([Site(federation, servers, name) for name in names])
    again = Site(federation, servers, names[0])
    stored, entries = again.stored(), len(again.ledger.account().entries)
    again.releaser.run(_patients(6))
    assert again.stored() == stored
    assert len(again.ledger.account().entries) == entries


def test_a_node_that_lost_its_contribution_after_the_debit_sits_the_round_out(
    federation: Federation, servers: Servers
) -> None:
    names = [hospital.name for hospital in federation.charter.hospitals]
    sites = [Site(federation, servers, name) for name in names]
    # As a crash leaves it: debited, and nothing stored.
    sites[-1].ledger.reserve(federation.charter, 1)
    models = _run_together(sites)
    np.testing.assert_array_equal(models[0], models[1])
    stored = sites[-1].stored()
    assert "round-1/ciphertext" not in stored
    assert "round-2/ciphertext" in stored
    spent = sites[-1].ledger.spent(federation.charter)
    assert spent == sites[1].ledger.spent(federation.charter)


def test_a_spent_budget_stops_the_node_before_anything_leaves(
    federation: Federation, servers: Servers
) -> None:
    name = federation.charter.hospitals[0].name
    site = Site(federation, servers, name, SitePolicy(lifetime_epsilon="1"))
    with pytest.raises(BudgetExhausted):
        site.releaser.run(_patients(6))
    assert site.stored() == {}
    assert not site.ledger.account().entries
