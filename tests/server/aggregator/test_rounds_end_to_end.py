"""Whole rounds: real servers over mTLS, real custodians, real encryption."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import fsspec  # type: ignore[import-untyped]
import grpc
import numpy as np
import pytest
from support.aggregator import (
    SEVERAL_FRAMES,
    AggregatorProcess,
    AggregatorServer,
    Party,
    addresses_of,
    charter_of,
    contribution_of,
    custodians_of,
    events_of,
    weighted_sum,
)
from support.federation import Federation, make_federation

from fedhelp_secure.canonical import digest
from fedhelp_secure.errors import PeerError
from fedhelp_secure.evidence.log import log_origin
from fedhelp_secure.evidence.receipts import check_receipt
from fedhelp_secure.signing import peek_document
from fedhelp_secure.transport.client import PeerRefused
from fedhelp_secure.transport.identity import Role
from fedhelp_secure.wire.v1 import coordinator_pb2 as wire
from fedhelp_server.aggregator.custodians import CustodianAddresses

HOSPITALS = ["large-1", "small-1", "small-2"]


def test_two_rounds_from_process_to_teacher(
    federation: Federation, addresses: CustodianAddresses, tmp_path: Path
) -> None:
    charter = charter_of(federation, "two-rounds", rounds={"count": 2})
    with AggregatorProcess(federation, tmp_path, charter, addresses) as running:
        for number in (1, 2):
            running.party("large-1").wait_for(wire.ROUND_STATE_OPEN, number)
            receipts = running.contribute(*HOSPITALS, round_number=number)
            running.party("large-1").wait_for(wire.ROUND_STATE_OPENED, number)
            for name, receipt in zip(HOSPITALS, receipts, strict=True):
                opened = running.party(name).open(number)
                expected = weighted_sum(running.charter, HOSPITALS, number)
                assert np.array_equal(opened.values, expected)
                assert opened.hospitals == tuple(HOSPITALS)
                entry = check_receipt(
                    receipt,
                    log_key=running.charter.aggregator.verifying_key(),
                    origin=log_origin(running.charter),
                )
                assert entry.contribution_accepted.hospital == name
                assert running.party(name).receipt(number) == receipt
        entries = running.entries()
        one_round = [
            # Each custodian began it.
            *["statement_submitted"] * 2,
            "round_opened",
            *["contribution_accepted"] * 3,
            "round_closed",
            "round_summed",
        ]
        stated = ["statement_submitted"] * 2  # each custodian's epoch
        assert events_of(entries) == ["charter_adopted", *stated, *one_round, *one_round]
        objects = running.party(Role.AUDITOR).objects()
        kinds = [*["manifest"] * 3, "decryptor-statement", "unmasker-statement"]
        assert [kind for kind, _ in objects] == kinds * 2 + ["submitted"] * 6
        summed = entries[10].round_summed
        assert summed.decryptor_statement_digest == digest(objects[3][1])
        assert summed.unmasker_statement_digests == [digest(objects[4][1])]
    assert running.status == 0


def test_three_unmaskers_open_long_releases_from_an_object_store(tmp_path: Path) -> None:
    """Several frames, blobs in memory:// instead of the state directory."""
    federation = make_federation(
        tmp_path / "federation", large=1, small=2, unmaskers=3, rounds={"count": 1}
    )
    charter = charter_of(federation, "three", **SEVERAL_FRAMES)
    url = "memory://three-unmaskers"
    with (
        custodians_of(federation) as custodians,
        AggregatorServer(
            federation, tmp_path, charter, addresses_of(custodians), blobs_url=url
        ) as running,
    ):
        running.contribute(*HOSPITALS)
        running.party("large-1").wait_for(wire.ROUND_STATE_OPENED)
        for name in HOSPITALS:
            opened = running.party(name).open()
            assert np.array_equal(opened.values, weighted_sum(running.charter, HOSPITALS))
            assert opened.hospitals == tuple(HOSPITALS)
        objects = running.party(Role.AUDITOR).objects()
        kinds = [*["manifest"] * 3, "decryptor-statement", *["unmasker-statement"] * 3]
        assert [kind for kind, _ in objects] == kinds + ["submitted"] * 8
        summed = running.entries()[-1].round_summed
        assert summed.decryptor_statement_digest == digest(objects[3][1])
        assert summed.unmasker_statement_digests == [digest(item) for _, item in objects[4:7]]
        names = [peek_document(kind, item)["unmasker"] for kind, item in objects[4:7]]
        assert names == ["unmasker", "unmasker-2", "unmasker-3"]
        # Ciphertexts, the sum and four bodies are where the URL says, and nowhere else.
        assert len(fsspec.filesystem("memory").find("/three-unmaskers")) == 3 + 1 + 4
        assert list((running.root / "aggregator" / "blobs").iterdir()) == []


def test_at_the_deadline_a_cohort_is_summed_and_less_than_one_fails(
    federation: Federation, addresses: CustodianAddresses, tmp_path: Path
) -> None:
    # Two federations wait for their deadline at the same time.
    (tmp_path / "short").mkdir()
    drop_out = charter_of(federation, "drop-out", rounds={"deadline_seconds": 8, "count": 1})
    no_cohort = charter_of(federation, "no-cohort", rounds={"deadline_seconds": 5, "count": 3})
    with (
        AggregatorServer(federation, tmp_path, drop_out, addresses) as running,
        AggregatorServer(federation, tmp_path / "short", no_cohort, addresses) as short,
    ):
        present = ["large-1", "small-2"]
        running.contribute(*present)
        running.party("large-1").wait_for(wire.ROUND_STATE_OPENED)
        opened = running.party("small-1").open()
        assert opened.hospitals == tuple(present)
        assert np.array_equal(opened.values, weighted_sum(running.charter, present))
        late = contribution_of(federation, running.charter, "small-1")
        with pytest.raises(PeerRefused, match="takes no contributions now") as refused:
            running.party("small-1").contribute(late)
        assert refused.value.code == "round-not-open"
        rejected = running.entries()[-1].contribution_rejected
        assert (rejected.round, rejected.hospital) == (1, "small-1")
        assert rejected.code == "round-not-open"
        _check_failed(short)


def _check_failed(short: AggregatorServer) -> None:
    event = short.party("large-1").wait_for(wire.ROUND_STATE_FAILED)
    assert event.reason.startswith("the deadline passed without a cohort")
    short.party("large-1").wait_for(wire.ROUND_STATE_FAILED, 3)
    failed = [entry.round_failed for entry in short.entries()[-3:]]
    assert [(entry.round, entry.code) for entry in failed] == [
        (1, "cohort"),
        (2, "earlier-round-failed"),
        (3, "earlier-round-failed"),
    ]
    with pytest.raises(PeerRefused) as refused:
        short.party("small-1").open()
    assert refused.value.code == "round-not-opened"


def test_two_watchers_see_the_present_state_then_every_change(
    federation: Federation, addresses: CustodianAddresses, tmp_path: Path
) -> None:
    charter = charter_of(federation, "watchers", rounds={"count": 1})
    seen: dict[str, list[tuple[int, int]]] = {"large-1": [], "small-1": []}
    with AggregatorServer(federation, tmp_path, charter, addresses) as running:
        running.party("large-1").wait_for(wire.ROUND_STATE_OPEN)
        running.contribute("large-1")
        started = threading.Barrier(3)

        def watch(name: str) -> None:
            for event in running.party(name).watch():
                if not seen[name]:
                    started.wait(10)
                seen[name].append((event.state, event.contributions))
                if event.state == wire.ROUND_STATE_OPENED:
                    return

        for name in seen:
            running.party(name)
        threads = [threading.Thread(target=watch, args=(name,)) for name in seen]
        for thread in threads:
            thread.start()
        started.wait(10)
        running.contribute("small-1", "small-2")
        for thread in threads:
            thread.join(20)
    expected = [
        (wire.ROUND_STATE_OPEN, 1),
        (wire.ROUND_STATE_OPEN, 2),
        (wire.ROUND_STATE_OPEN, 3),
        (wire.ROUND_STATE_CLOSED, 3),
        (wire.ROUND_STATE_OPENED, 3),
    ]
    assert seen == {"large-1": expected, "small-1": expected}


def _watching(party: Party) -> grpc.Call:
    """A watch that has its place; the server may take a while to notice who has left."""
    request = wire.WatchRoundsRequest(charter_digest=party.charter.digest, session=party.session)
    deadline = time.monotonic() + 60
    while True:
        stream = party.coordinator.WatchRounds(request)
        try:
            assert next(stream).round == 1
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE or time.monotonic() > deadline:
                raise
            time.sleep(0.2)
        else:
            return stream


def test_a_watcher_that_leaves_gives_its_place_back(
    federation: Federation, addresses: CustodianAddresses, tmp_path: Path
) -> None:
    charter = charter_of(federation, "leavers", rounds={"count": 1})
    with AggregatorServer(federation, tmp_path, charter, addresses) as running:
        party = running.party("large-1")
        # More than there are places, one after another.
        for _ in range(8):
            _watching(party).cancel()
        held = [_watching(party) for _ in range(2)]
        with pytest.raises(PeerError, match="as many such calls"):
            next(party.watch())
        # Another hospital is not affected.
        running.party("small-1").wait_for(wire.ROUND_STATE_OPEN)
        for stream in held:
            assert stream.is_active()
