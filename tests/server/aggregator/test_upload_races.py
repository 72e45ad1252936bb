"""Uploads that meet: repeats, rivals and floods."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path

import pytest
from support.aggregator import (
    AggregatorServer,
    charter_of,
    contribution_of,
    events_of,
)
from support.federation import Federation

from fedhelp_secure.secure_sum.contribution import Contribution
from fedhelp_secure.transport.client import PeerRefused
from fedhelp_secure.wire.v1 import coordinator_pb2 as wire
from fedhelp_server.aggregator.book import MAXIMUM_LOGGED_REJECTIONS
from fedhelp_server.aggregator.custodians import CustodianAddresses


def test_same_bytes_same_receipt_other_bytes_conflict(
    federation: Federation, addresses: CustodianAddresses, tmp_path: Path
) -> None:
    with AggregatorServer(
        federation, tmp_path, charter_of(federation, "twice"), addresses
    ) as running:
        party = running.party("small-1")
        party.wait_for(wire.ROUND_STATE_OPEN)
        first, second = (contribution_of(federation, running.charter, "small-1") for _ in range(2))
        receipt = party.contribute(first)
        running.contribute("small-2")
        assert party.contribute(first) == receipt
        with pytest.raises(PeerRefused) as refused:
            party.contribute(second)
        assert refused.value.code == "contribution-conflict"
        # The first manifest does not vouch for other bytes, either.
        swapped = dataclasses.replace(first, ciphertext=second.ciphertext)
        with pytest.raises(PeerRefused) as refused:
            party.contribute(swapped)
        assert refused.value.code == "manifest"
        events = events_of(running.entries())
        assert events.count("contribution_accepted") == 2
        assert events.count("contribution_rejected") == 2
        running.contribute("large-1")
        party.wait_for(wire.ROUND_STATE_OPENED)
        assert party.contribute(first) == receipt


def test_racing_uploads_of_one_hospital_give_one_contribution(
    federation: Federation, addresses: CustodianAddresses, tmp_path: Path
) -> None:
    with AggregatorServer(
        federation, tmp_path, charter_of(federation, "race"), addresses
    ) as running:
        party = running.party("small-1")
        party.wait_for(wire.ROUND_STATE_OPEN)
        rivals = [contribution_of(federation, running.charter, "small-1") for _ in range(2)]
        outcomes: list[str] = []

        def send(contribution: Contribution) -> None:
            try:
                party.contribute(contribution)
                outcomes.append("accepted")
            except PeerRefused as refusal:
                outcomes.append(refusal.code)

        threads = [threading.Thread(target=send, args=(rival,)) for rival in rivals]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert sorted(outcomes) == ["accepted", "contribution-conflict"]
        blobs = [
            file for file in (running.root / "aggregator" / "blobs").iterdir() if file.is_file()
        ]
        assert len(blobs) == 1


def test_rejections_cannot_fill_the_log(
    federation: Federation, addresses: CustodianAddresses, tmp_path: Path
) -> None:
    with AggregatorServer(
        federation, tmp_path, charter_of(federation, "flood"), addresses
    ) as running:
        party = running.party("small-1")
        party.wait_for(wire.ROUND_STATE_OPEN)
        for _ in range(MAXIMUM_LOGGED_REJECTIONS + 3):
            with pytest.raises(PeerRefused):
                party.send(iter(()))
        events = events_of(running.entries())
        assert events.count("contribution_rejected") == MAXIMUM_LOGGED_REJECTIONS
