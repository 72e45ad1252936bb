"""A node is a witness of the evidence log, and stops for nothing but another history."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.federation import Federation, copied, make_federation
from support.relay import Relay, running_relay

from fedhelp_client.node.coordinator import Coordinator
from fedhelp_secure.evidence.cosignature import open_cosigned
from fedhelp_secure.evidence.witness import HistoryRefused, LogWitness
from fedhelp_secure.wire.v1.evidence_pb2 import CharterAdopted, LogEntry


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("parties"), large=1, small=2)


@pytest.fixture
def federation(original: Federation, tmp_path: Path) -> Federation:
    return copied(original, tmp_path / "parties")


def coordinator(federation: Federation, address: str) -> Coordinator:
    return Coordinator(federation.state("small-1"), federation.charter, address)


def grow(relay: Relay, moment: int) -> None:
    adopted = CharterAdopted(charter_digest=relay.federation.charter.digest)
    relay.log.append(LogEntry(unix_milliseconds=moment, charter_adopted=adopted))


def test_it_cosigns_what_continues(federation: Federation, tmp_path: Path) -> None:
    with running_relay(federation, tmp_path / "relay") as (relay, address):
        for size in range(1, 4):
            grow(relay, size)
            coordinator(federation, address).cosign_log()
            (name, note) = relay.evidence.cosigned.popitem()
            assert name == "small-1"
            opened = open_cosigned(
                note,
                charter=federation.charter,
                witness=federation.state("small-1").identity,
            )
            assert opened.checkpoint.size == size


def test_nobody_there_is_no_reason_to_stop(
    federation: Federation, caplog: pytest.LogCaptureFixture
) -> None:
    coordinator(federation, "127.0.0.1:1").cosign_log()
    assert "was not cosigned this time" in caplog.text
    assert LogWitness(federation.state("small-1"), federation.charter).remembered() is None


def test_another_history_stops_it(federation: Federation, tmp_path: Path) -> None:
    with running_relay(federation, tmp_path / "first") as (relay, address):
        grow(relay, 1)
        coordinator(federation, address).cosign_log()
    with running_relay(federation, tmp_path / "second") as (relay, address):
        grow(relay, 2)
        with pytest.raises(HistoryRefused):
            coordinator(federation, address).cosign_log()
        assert relay.evidence.cosigned == {}
