"""Every custodian changes its keys, between rounds and during them, and no round is lost.

Real processes throughout: ``fedhelp custodian serve``, ``server run``, ``client rehearse`` and
``custodian rotate``; the evidence is exported, and verified as far as a federation without patients
and without a foundation model can be.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from e2e.conftest import fedhelp
from support.federation import Federation, make_federation
from support.processes import Servers, context_file, running_servers

from fedhelp_keys.custodian import key_files
from fedhelp_keys.custodian.epochs import EpochStore
from fedhelp_secure.demo.processes import Running
from fedhelp_secure.evidence import layout, verify_epochs, verify_log, verify_rounds
from fedhelp_secure.evidence.bundle import Sources, export_bundle, sign_index
from fedhelp_secure.transport.client import open_channel
from fedhelp_secure.transport.identity import Identity, Role
from fedhelp_secure.wire.v1 import coordinator_pb2 as wire
from fedhelp_secure.wire.v1.coordinator_pb2_grpc import CoordinatorStub

ROUNDS = 3
CUSTODIANS = ("decryptor", "unmasker", "unmasker-2")


@dataclass(frozen=True, slots=True)
class Finished:
    federation: Federation
    figures: dict[str, list[dict[str, Any]]]
    bundle: Path
    during: list[str]
    """States of a round in which keys were changed."""


def _events(federation: Federation, servers: Servers) -> Iterator[wire.RoundEvent]:
    state = federation.state(Role.AUDITOR)
    expected = Identity(federation.charter.federation, Role.AGGREGATOR, "aggregator")
    with open_channel(state, servers.addresses["aggregator"], expected=expected) as channel:
        request = wire.WatchRoundsRequest(
            charter_digest=federation.charter.digest, session=os.urandom(16)
        )
        yield from CoordinatorStub(channel).WatchRounds(request, timeout=240)


def _rotate(federation: Federation, *names: str) -> None:
    """All at once, as a user would, each by its own command."""
    with ThreadPoolExecutor(len(names)) as pool:
        done = pool.map(
            lambda name: fedhelp(
                *("custodian", "rotate", "--state", str(federation.state(name).root)),
                cwd=federation.root,
            ),
            names,
        )
    for one in done:
        assert one.returncode == 0, one.stderr


class _Run:
    """A rehearsal of ROUNDS rounds by real processes."""

    def __init__(self, federation: Federation, servers: Servers, root: Path) -> None:
        self.federation = federation
        self.servers = servers
        self.root = root
        self.names = [hospital.name for hospital in federation.charter.hospitals]
        self._hospitals: list[Running] = []

    def rehearse(self, name: str) -> None:
        """Start a hospital."""
        address = self.servers.addresses["aggregator"]
        running = self.servers.group.start(
            name,
            *("client", "rehearse", "--state", str(self.federation.state(name).root)),
            *("--context", str(context_file(self.federation))),
            *("--aggregator", f"aggregator@{address}"),
            *("--json", str(self.root / f"{name}.jsonl")),
        )
        self._hospitals.append(running)

    def follow(self) -> list[str]:
        """Change every custodian's keys in an open round, and again while rounds go by."""
        during: list[str] = []
        # One hospital is late, so that the first round stays open until all keys have changed.
        for name in self.names[1:]:
            self.rehearse(name)
        for event in _events(self.federation, self.servers):
            assert event.state != wire.ROUND_STATE_FAILED, event.reason
            at = (event.round, event.state)
            if at == (1, wire.ROUND_STATE_OPEN) and event.contributions and not during:
                during.append("open")
                _rotate(self.federation, *CUSTODIANS)
                self.rehearse(self.names[0])
            elif at == (2, wire.ROUND_STATE_OPEN) and len(during) == 1:
                during.append("running")
                _rotate(self.federation, *CUSTODIANS)
            elif at == (ROUNDS, wire.ROUND_STATE_OPENED):
                break
        for running in self._hospitals:
            self.servers.group.finish(running)
        return during

    def export(self) -> Path:
        """The auditor's bundle, without ledgers, as there were no patients."""
        ledgers, receipts, bundle = (
            self.root / folder for folder in ("ledgers", "receipts", "bundle")
        )
        ledgers.mkdir()
        receipts.mkdir()
        for name in self.names:
            charters = self.federation.state(name).role_directory() / "charters"
            for receipt in charters.glob("*/receipts/*.bin"):
                (receipts / f"{name}-{receipt.name}").write_bytes(receipt.read_bytes())
        address, charter = self.servers.addresses["aggregator"], self.federation.charter_file()
        auditor = self.federation.state(Role.AUDITOR)
        export_bundle(auditor, Sources(address, charter, ledgers, receipts), bundle)
        sign_index(bundle, auditor)
        return bundle

    def figures(self) -> dict[str, list[dict[str, Any]]]:
        """What each hospital wrote, one entry a round."""
        return {
            name: [
                json.loads(line) for line in (self.root / f"{name}.jsonl").read_text().splitlines()
            ]
            for name in self.names
        }


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    root = tmp_path_factory.mktemp("epochs")
    federation = make_federation(
        root / "parties",
        large=1,
        small=2,
        unmaskers=2,
        rounds={"count": ROUNDS},
        privacy={"mechanism": "rehearsal"},
    )
    with running_servers(federation, root / "processes") as servers:
        run = _Run(federation, servers, root)
        during = run.follow()
        return Finished(federation, run.figures(), run.export(), during)


def test_no_round_is_lost_and_all_hospitals_open_the_same_sums(finished: Finished) -> None:
    assert finished.during == ["open", "running"]
    sums = []
    for lines in finished.figures.values():
        assert [line["round"] for line in lines] == list(range(1, ROUNDS + 1))
        assert all(len(line["hospitals"]) == 3 for line in lines)
        sums.append([line["sum_digest"] for line in lines])
    assert sums[0] == sums[1] == sums[2]


def test_the_evidence_shows_every_epoch_and_what_became_of_it(finished: Finished) -> None:
    files = verify_log.check_index(finished.bundle)
    charter = verify_log.check_charter(files, finished.federation.governance_key.public).charter
    tree = verify_log.check_tree(files, verify_log.check_checkpoint(files, charter))
    record = verify_log.check_objects(files, charter, tree)
    accepted = verify_rounds.check_manifests(record)
    assert verify_rounds.check_receipts(files, record, accepted) == 3 * ROUNDS
    assert verify_rounds.check_rounds(record, accepted).summed == tuple(range(1, ROUNDS + 1))
    epochs = verify_epochs.check_epochs(record, accepted)
    assert epochs.rounds == ROUNDS
    # Every custodian has shown its first and its second epoch at least; the first ones are gone.
    assert epochs.epochs >= 2 * len(CUSTODIANS)
    assert epochs.destroyed >= len(CUSTODIANS)
    assert layout.receipts(files)


def test_only_the_present_epochs_secrets_are_left(finished: Finished) -> None:
    for name in CUSTODIANS:
        state = finished.federation.state(name)
        *earlier, present = EpochStore(state).status()
        assert [epoch.number for epoch in (*earlier, present)] == [1, 2, 3]
        assert key_files.secret_path(state, present.number).exists()
        for epoch in earlier:
            assert epoch.fate.startswith("destroyed")
            assert not key_files.secret_path(state, epoch.number).exists()
