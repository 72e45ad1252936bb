"""A ledger that was restored, replaced or removed is found out before anything is released."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.federation import Federation, make_federation
from support.processes import running_servers
from support.relay import Relay, running_relay
from support.site import Site, run_together, site_of

from fedhelp_client.node.rehearsal import Rehearsal, invent
from fedhelp_client.node.witness import check_own_files
from fedhelp_secure.errors import FedHelpError, SignatureRefused
from fedhelp_secure.privacy.witness import LedgerOutdated
from fedhelp_secure.secure_sum.contribution import ManifestRefused
from fedhelp_secure.state import StateDirectory

NAME = "small-1"


@dataclass
class World:
    """A federation whose rounds have all been run, and a copy of one site from before them."""

    federation: Federation
    relay: Relay
    address: str
    backup: Path

    @property
    def state(self) -> StateDirectory:
        return self.federation.state(NAME)

    def site(self) -> Site:
        return site_of(self.federation, NAME, self.address)

    def restore(self, *parts: str) -> None:
        """Put parts of the copy back in the place of what is there; all of it if none are named."""
        for part in parts or ("ledger.sqlite", "charters"):
            target = self.state.role_directory() / part
            shutil.rmtree(target) if target.is_dir() else target.unlink()
            source = self.backup / part
            (shutil.copytree if source.is_dir() else shutil.copyfile)(source, target)


def files_of(state: StateDirectory) -> dict[str, bytes]:
    root = state.role_directory()
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def refused(world: World, error: type[FedHelpError] = LedgerOutdated) -> str:
    """What a node says that refuses to release; it must change and send nothing."""
    site = world.site()
    before = files_of(world.state)
    sent = {number: dict(by) for number, by in world.relay.received.items()}
    with pytest.raises(error) as caught:
        site.run()
    assert files_of(world.state) == before
    assert {number: dict(by) for number, by in world.relay.received.items()} == sent
    return str(caught.value)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    federation = make_federation(tmp_path / "parties", large=1, small=1, rounds={"count": 2})
    names = [hospital.name for hospital in federation.charter.hospitals]
    backup = tmp_path / "backup"
    with running_relay(federation, tmp_path / "relay") as (relay, address):
        world = World(federation, relay, address, backup)
        site = world.site()
        # A backup of the first day: nothing debited.
        shutil.copytree(world.state.role_directory(), backup)
        (backup / "charters").mkdir()
        run_together([site, *(site_of(federation, n, address) for n in names if n != NAME)])
        yield world


def test_an_honest_node_is_let_through_again(world: World) -> None:
    entries = len(world.site().ledger.account().entries)
    world.site().run()
    assert len(world.site().ledger.account().entries) == entries


def test_a_whole_state_from_an_old_backup_is_refused(world: World) -> None:
    world.restore()
    assert "older copy" in refused(world)


def test_an_old_ledger_is_found_by_the_nodes_own_files_alone(world: World) -> None:
    world.relay.withholding = True
    world.restore("ledger.sqlite")
    refused(world)


def test_a_ledger_that_went_on_from_an_old_copy_is_found_out(world: World) -> None:
    """All rounds are debited again there, but these are not the debits that were signed for."""
    world.relay.withholding = True
    world.restore("ledger.sqlite")
    for number in (1, 2):
        world.site().ledger.reserve(world.federation.charter, number)
    refused(world)
    world.relay.withholding = False
    shutil.rmtree(world.state.role_directory() / "charters")
    refused(world)


def test_a_ledger_that_was_removed_is_found_out(world: World) -> None:
    (world.state.role_directory() / "ledger.sqlite").unlink()
    refused(world)
    # Without the node's own files as well.
    shutil.rmtree(world.state.role_directory() / "charters")
    refused(world)


def test_receipts_alone_are_enough(world: World) -> None:
    world.relay.withholding = True
    for folder in world.site().releaser.files.directory.glob("round-*"):
        shutil.rmtree(folder)
    check_own_files(world.state, world.site().ledger.account())
    world.restore("ledger.sqlite")
    refused(world)


def test_every_round_is_asked_about(world: World) -> None:
    """The aggregator denies the first round and shows the second."""
    world.restore()
    manifest = world.relay._contributions[2][NAME].manifest
    world.relay.withholding = False
    world.relay._contributions[1].pop(NAME)
    world.relay.shown = {(2, NAME): manifest}
    assert "round 2" in refused(world)


def test_an_aggregator_that_shows_it_only_later_is_in_time(world: World) -> None:
    """Denied at the start and shown when the round is about to be debited: no debit, no noise."""
    world.restore()
    world.relay.withholding = True
    site = world.site()
    site.releaser.witness.check()
    world.relay.withholding = False
    before = files_of(world.state)
    with pytest.raises(LedgerOutdated, match="round 1"):
        site.releaser._reserve(1, None)
    assert files_of(world.state) == before


@pytest.mark.parametrize(
    ("error", "forged"),
    [
        # What another hospital signed for this round.
        (ManifestRefused, lambda world: world.relay._contributions[1]["large-1"].manifest),
        # What this hospital signed for another round.
        (ManifestRefused, lambda world: world.relay._contributions[2][NAME].manifest),
        # What the aggregator signed in this hospital's name.
        (
            SignatureRefused,
            lambda world: (
                world.federation.state("aggregator")
                .signing_key()
                .sign_document("manifest", {"hospital": NAME})
            ),
        ),
    ],
)
def test_only_this_hospitals_own_signature_counts(
    world: World, error: type[FedHelpError], forged: Callable[[World], bytes]
) -> None:
    world.relay.shown = {(1, NAME): forged(world)}
    refused(world, error)


def test_a_stored_contribution_of_somebody_else_is_refused(world: World) -> None:
    folder = world.site().releaser.files.directory
    (folder / "round-1" / "manifest").write_bytes(world.relay._contributions[1]["large-1"].manifest)
    refused(world, SignatureRefused)


def test_a_stored_contribution_in_another_rounds_place_is_refused(world: World) -> None:
    folder = world.site().releaser.files.directory
    (folder / "round-1").rename(folder / "round-0")
    (folder / "round-2").rename(folder / "round-1")
    assert "belongs elsewhere" in refused(world, FedHelpError)


def test_a_rehearsal_leaves_no_debit_and_none_is_missed(tmp_path: Path) -> None:
    federation = make_federation(
        tmp_path / "parties", large=1, small=1, privacy={"mechanism": "rehearsal"}
    )
    with running_relay(federation, tmp_path / "relay", expected={NAME}) as (_, address):
        site = site_of(federation, NAME, address)
        releaser = site.releaser
        rehearsal = Rehearsal(releaser.coordinator, releaser.keys, releaser.files, print)
        round_keys = releaser.coordinator.round_keys(1, releaser.keys)
        contribution = rehearsal._contribution(round_keys, invent(federation.charter))
        receipt = releaser.coordinator.contribute(1, contribution)
        releaser.files.store_receipt(1, receipt.SerializeToString(deterministic=True))
    check_own_files(federation.state(NAME), site.ledger.account())


def test_the_real_aggregator_shows_what_a_restored_hospital_signed(tmp_path: Path) -> None:
    federation = make_federation(tmp_path / "parties", large=1, small=1, rounds={"count": 1})
    names = [hospital.name for hospital in federation.charter.hospitals]
    state = federation.state(NAME)
    with running_servers(federation, tmp_path / "run") as servers:
        address = servers.addresses["aggregator"]
        sites = [site_of(federation, name, address) for name in names]
        shutil.copytree(state.role_directory(), tmp_path / "backup")
        run_together(sites)
        shutil.rmtree(state.role_directory())
        shutil.copytree(tmp_path / "backup", state.role_directory(), dirs_exist_ok=True)
        restored = site_of(federation, NAME, address)
        before = files_of(state)
        with pytest.raises(LedgerOutdated, match="round 1"):
            restored.run()
        assert files_of(state) == before
