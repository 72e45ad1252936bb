"""Custodians that go away, an aggregator that is killed, and custodians that say no."""

from __future__ import annotations

import contextlib
import signal
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.aggregator import (
    SEVERAL_FRAMES,
    AggregatorProcess,
    AggregatorServer,
    Custodian,
    addresses_of,
    charter_of,
    contribution_of,
    custodians_of,
    events_of,
    upload,
    weighted_sum,
)
from support.federation import Federation, make_federation

from fedhelp_secure.errors import UnavailablePeer
from fedhelp_secure.evidence.log import log_origin
from fedhelp_secure.evidence.receipts import check_receipt
from fedhelp_secure.transport.identity import Role
from fedhelp_secure.wire.v1 import coordinator_pb2 as wire
from fedhelp_server.aggregator.custodians import CustodianAddresses

HOSPITALS = ["large-1", "small-1", "small-2"]
ONE_ROUND = {"count": 1}


@pytest.mark.parametrize("absent", ["decryptor", "unmasker"])
def test_a_custodian_that_is_away_is_waited_for(
    federation: Federation,
    custodians: tuple[Custodian, ...],
    addresses: CustodianAddresses,
    tmp_path: Path,
    absent: str,
) -> None:
    charter = charter_of(federation, f"away-{absent}", rounds=ONE_ROUND)
    away = custodians[0] if absent == "decryptor" else custodians[1]
    with AggregatorServer(federation, tmp_path, charter, addresses) as running:
        party = running.party("small-1")
        party.wait_for(wire.ROUND_STATE_OPEN)
        away.stop()
        running.contribute(*HOSPITALS)
        party.wait_for_reason(f"waiting for custodian {absent}")
        states = {event.state for event in _first(party.watch(), 1)}
        assert states == {wire.ROUND_STATE_CLOSED}
        away.start()
        event = party.wait_for(wire.ROUND_STATE_OPENED)
        assert event.reason == ""
        assert np.array_equal(party.open().values, weighted_sum(running.charter, HOSPITALS))


def test_an_aggregator_killed_between_close_and_open_goes_on(
    federation: Federation,
    custodians: tuple[Custodian, ...],
    addresses: CustodianAddresses,
    tmp_path: Path,
) -> None:
    charter = charter_of(federation, "killed", rounds=ONE_ROUND)
    with AggregatorProcess(federation, tmp_path, charter, addresses) as running:
        running.party("small-1").wait_for(wire.ROUND_STATE_OPEN)
        # The unmasker has answered, the decryptor has not: killed in the middle of the sum.
        custodians[0].stop()
        receipts = running.contribute(*HOSPITALS)
        running.party("small-1").wait_for_reason("waiting for custodian decryptor")
        running.kill()
        running.start()
        assert running.party("small-1").receipt() == receipts[1]
        running.party("small-1").wait_for(wire.ROUND_STATE_CLOSED)
        custodians[0].start()
        running.party("small-1").wait_for(wire.ROUND_STATE_OPENED)
        for name in HOSPITALS:
            opened = running.party(name).open()
            assert np.array_equal(opened.values, weighted_sum(running.charter, HOSPITALS))
        assert events_of(running.entries()) == [
            "charter_adopted",
            # Each custodian's epoch, and that the round was begun under it.
            *["statement_submitted"] * 4,
            "round_opened",
            *["contribution_accepted"] * 3,
            "round_closed",
            "round_summed",
        ]


def test_kills_at_any_moment_lose_nothing_and_log_nothing_twice(
    federation: Federation, addresses: CustodianAddresses, tmp_path: Path
) -> None:
    charter = charter_of(federation, "kills", rounds=ONE_ROUND, **SEVERAL_FRAMES)
    with AggregatorProcess(federation, tmp_path, charter, addresses) as running:
        receipts = {}
        # Killed at the start, in the middle and at the end of an upload; the node sends again.
        for name, moment in zip(HOSPITALS, (0, 2, None), strict=True):
            _patiently(lambda: running.party("small-1").wait_for(wire.ROUND_STATE_OPEN))
            contribution = contribution_of(federation, running.charter, name)
            messages = upload(running.charter, contribution, frames=1)
            dying = _killing(running.process, messages, moment)
            with contextlib.suppress(UnavailablePeer):
                receipts[name] = running.party(name).send(dying)
            running.kill()
            running.start()
            again = running.party(name).contribute(contribution)
            assert receipts.setdefault(name, again) == again
        running.party("large-1").wait_for(wire.ROUND_STATE_OPENED)
        opened = running.party("large-1").open()
        assert np.array_equal(opened.values, weighted_sum(running.charter, HOSPITALS))
        assert Counter(events_of(running.entries())) == {
            "charter_adopted": 1,
            "statement_submitted": 4,
            "round_opened": 1,
            "contribution_accepted": 3,
            "round_closed": 1,
            "round_summed": 1,
        }
        for receipt in receipts.values():
            check_receipt(
                receipt,
                log_key=running.charter.aggregator.verifying_key(),
                origin=log_origin(running.charter),
            )


def test_one_custodian_is_waited_for_while_all_others_answer(tmp_path: Path) -> None:
    federation = make_federation(
        tmp_path / "federation", large=1, small=2, unmaskers=2, rounds=ONE_ROUND
    )
    charter = (federation.charter, federation.charter_envelope)
    with (
        custodians_of(federation) as custodians,
        AggregatorServer(federation, tmp_path, charter, addresses_of(custodians)) as running,
    ):
        party = running.party("small-1")
        party.wait_for(wire.ROUND_STATE_OPEN)
        custodians[2].stop()
        running.contribute(*HOSPITALS)
        party.wait_for_reason("waiting for custodian unmasker-2")
        auditor, deadline = running.party(Role.AUDITOR), time.monotonic() + 20
        answered = ["decryptor-statement", "unmasker-statement"]
        while (kinds := [kind for kind, _ in auditor.objects()])[3:-6] != answered:
            assert time.monotonic() < deadline, kinds
            time.sleep(0.05)
        custodians[2].start()
        party.wait_for(wire.ROUND_STATE_OPENED)
        assert np.array_equal(party.open().values, weighted_sum(running.charter, HOSPITALS))


def test_a_round_that_was_open_waits_anew_after_a_restart(
    federation: Federation, addresses: CustodianAddresses, tmp_path: Path
) -> None:
    charter = charter_of(federation, "reopened", rounds=ONE_ROUND)
    server = AggregatorServer(federation, tmp_path, charter, addresses)
    with server as running:
        running.party("large-1").wait_for(wire.ROUND_STATE_OPEN)
    # As if the deadline had passed while the aggregator was away.
    database = sqlite3.connect(server.root / "aggregator" / "rounds.sqlite3")
    database.execute("UPDATE rounds SET deadline = 1")
    database.commit()
    database.close()
    with server as running:
        running.contribute(*HOSPITALS)
        running.party("large-1").wait_for(wire.ROUND_STATE_OPENED)


def test_a_damaged_ciphertext_stops_the_aggregator_rather_than_the_round(
    federation: Federation, addresses: CustodianAddresses, tmp_path: Path
) -> None:
    charter = charter_of(federation, "damaged", rounds=ONE_ROUND)
    with AggregatorProcess(federation, tmp_path, charter, addresses) as running:
        running.contribute("large-1", "small-1")
        blobs = [file for file in (running.root / "aggregator/blobs").iterdir() if file.is_file()]
        whole = blobs[0].read_bytes()
        blobs[0].write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        running.contribute("small-2")
        assert running.process.wait(timeout=20) == 1
    # Mended, it goes on where it was.
    blobs[0].write_bytes(whole)
    with AggregatorServer(federation, tmp_path, charter, addresses) as again:
        again.party("large-1").wait_for(wire.ROUND_STATE_OPENED)


def test_a_damaged_sum_is_not_sent_until_it_is_mended(
    federation: Federation,
    custodians: tuple[Custodian, ...],
    addresses: CustodianAddresses,
    tmp_path: Path,
) -> None:
    charter = charter_of(federation, "damaged-sum", rounds=ONE_ROUND)
    with AggregatorServer(federation, tmp_path, charter, addresses) as running:
        party = running.party("large-1")
        party.wait_for(wire.ROUND_STATE_OPEN)
        custodians[0].stop()
        running.contribute(*HOSPITALS)
        party.wait_for_reason("waiting for custodian decryptor")
        files = [file for file in (running.root / "aggregator/blobs").iterdir() if file.is_file()]
        whole = {file: file.read_bytes() for file in files}
        for file in files:
            file.write_bytes(b"damaged")
        custodians[0].start()
        party.wait_for_reason("waiting for the aggregator's operator (code blob-damaged)")
        for file, data in whole.items():
            file.write_bytes(data)
        party.wait_for(wire.ROUND_STATE_OPENED)


def test_it_stops_at_once_while_it_is_watched_and_waiting(
    federation: Federation, tmp_path: Path
) -> None:
    charter = charter_of(federation, "stopped", rounds=ONE_ROUND)
    nowhere = CustodianAddresses("127.0.0.1:1", ("127.0.0.1:1",))
    with AggregatorProcess(federation, tmp_path, charter, nowhere) as running:
        watch = running.party("large-1").watch()
        for event in watch:
            if event.reason.count("waiting for") == 2:
                break
        before = time.monotonic()
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(timeout=10) == 0
        assert time.monotonic() - before < 3
        assert list(watch) == []


def _killing(
    process: subprocess.Popen[bytes],
    messages: Iterator[wire.ContributeRequest],
    moment: int | None,
) -> Iterator[wire.ContributeRequest]:
    """``messages``, with the process killed before number ``moment`` (from 0), or after all."""
    for number, message in enumerate(messages):
        if number == moment:
            process.kill()
        yield message
    if moment is None:
        process.kill()


def _first(events: Iterator[wire.RoundEvent], count: int) -> list[wire.RoundEvent]:
    return [next(events) for _ in range(count)]


def _patiently(call: object) -> None:
    assert callable(call)
    for _ in range(50):
        try:
            call()
        except UnavailablePeer:
            time.sleep(0.1)
        else:
            return
    raise AssertionError("the aggregator did not come back")
