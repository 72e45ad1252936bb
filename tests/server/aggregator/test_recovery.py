"""Custodians that go away, an aggregator that is killed, and custodians that say no."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from fedhelp_keys.custodian.unmasker import UnmaskerService
from fedhelp_server.aggregator.custodians import CustodianAddresses

from fedhelp_secure.errors import UnavailablePeer
from fedhelp_secure.evidence.log import log_origin
from fedhelp_secure.evidence.receipts import check_receipt
from fedhelp_secure.secure_sum.answer_wire import header_of
from fedhelp_secure.secure_sum.answers import seal_decryptor_answer
from fedhelp_secure.signing import SigningKey
from fedhelp_secure.transport.chunks import split
from fedhelp_secure.transport.client import open_channel, translated_errors
from fedhelp_secure.transport.identity import Identity, Role
from fedhelp_secure.transport.server import start_server
from fedhelp_secure.wire.v1 import coordinator_pb2 as wire
from fedhelp_secure.wire.v1 import custodian_pb2
from fedhelp_secure.wire.v1.custodian_pb2_grpc import (
    DecryptorServicer,
    DecryptorStub,
    add_DecryptorServicer_to_server,
    add_UnmaskerServicer_to_server,
)
from support.aggregator import (
    ANY_PORT,
    AggregatorProcess,
    AggregatorServer,
    Custodian,
    charter_of,
    contribution_of,
    events_of,
    weighted_sum,
)
from support.federation import Federation

HOSPITALS = ["large-1", "small-1", "small-2"]
ONE_ROUND = {"count": 1}


@pytest.mark.parametrize("absent", ["decryptor", "unmasker"])
def test_a_custodian_that_is_away_is_waited_for(
    federation: Federation,
    custodians: tuple[Custodian, Custodian],
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
    custodians: tuple[Custodian, Custodian],
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
            "round_opened",
            *["contribution_accepted"] * 3,
            "round_closed",
            "round_summed",
        ]


def test_kills_at_any_moment_lose_nothing_and_log_nothing_twice(
    federation: Federation, addresses: CustodianAddresses, tmp_path: Path
) -> None:
    charter = charter_of(federation, "kills", rounds={"count": 2})
    with AggregatorProcess(federation, tmp_path, charter, addresses) as running:
        stored = {
            (name, number): contribution_of(federation, running.charter, name, number)
            for name in HOSPITALS
            for number in (1, 2)
        }
        receipts = {}
        # A kill some time into each of the first contributions; the node sends again until it has
        # a receipt.
        pauses = random.Random(7)
        for number in (1, 2):
            _patiently(lambda n=number: running.party("small-1").wait_for(wire.ROUND_STATE_OPEN, n))
            for name in HOSPITALS:
                if (name, number) in {("large-1", 1), ("small-2", 1), ("small-2", 2)}:
                    timer = threading.Timer(pauses.uniform(0.0, 0.6), running.process.kill)
                    timer.start()
                    try:
                        receipts[name, number] = running.party(name).contribute(
                            stored[name, number], number
                        )
                    except UnavailablePeer:
                        pass
                    timer.join()
                    running.kill()
                    running.start()
                again = running.party(name).contribute(stored[name, number], number)
                assert receipts.setdefault((name, number), again) == again
            running.party("large-1").wait_for(wire.ROUND_STATE_OPENED, number)
            opened = running.party("large-1").open(number)
            assert np.array_equal(opened.values, weighted_sum(running.charter, HOSPITALS, number))
        entries = running.entries()
        counted = Counter(events_of(entries))
        assert counted == {
            "charter_adopted": 1,
            "round_opened": 2,
            "contribution_accepted": 6,
            "round_closed": 2,
            "round_summed": 2,
        }
        for receipt in receipts.values():
            check_receipt(
                receipt,
                log_key=running.charter.aggregator.verifying_key(),
                origin=log_origin(running.charter),
            )


def test_a_round_that_was_open_waits_anew_after_a_restart(
    federation: Federation, addresses: CustodianAddresses, tmp_path: Path
) -> None:
    charter = charter_of(federation, "reopened", rounds={"count": 1, "deadline_seconds": 5})
    server = AggregatorServer(federation, tmp_path, charter, addresses)
    with server as running:
        running.party("large-1").wait_for(wire.ROUND_STATE_OPEN)
    time.sleep(5.2)
    # Its deadline has passed while the aggregator was away: nobody is shut out for that.
    with server as running:
        running.contribute(*HOSPITALS)
        running.party("large-1").wait_for(wire.ROUND_STATE_OPENED)


def test_a_definite_refusal_fails_the_round_with_its_code(
    federation: Federation, addresses: CustodianAddresses, tmp_path: Path
) -> None:
    charter = charter_of(federation, "refused", rounds={"count": 2})
    with AggregatorServer(federation, tmp_path, charter, addresses) as running:
        running.party("large-1").wait_for(wire.ROUND_STATE_OPEN)
        # Somebody with the aggregator's keys had another sum of this round decrypted before.
        other = contribution_of(federation, running.charter, "large-1")
        _decrypt(federation, addresses.decryptor, charter[1], other.ciphertext)
        running.contribute(*HOSPITALS)
        event = running.party("large-1").wait_for(wire.ROUND_STATE_FAILED)
        assert event.reason == "the sum was refused with code already-answered."
        running.party("large-1").wait_for(wire.ROUND_STATE_FAILED, 2)
        codes = [entry.round_failed.code for entry in running.entries()[-2:]]
        assert codes == ["already-answered", "earlier-round-failed"]


class _FaultyOnce(UnmaskerService):
    """An unmasker whose first call meets a fault of its own."""

    faults = 0

    def UnmaskSum(  # noqa: N802
        self,
        request_iterator: Iterator[custodian_pb2.UnmaskSumRequest],
        context: grpc.ServicerContext,
    ) -> Iterator[custodian_pb2.AnswerPart]:
        if not self.faults:
            self.faults += 1
            raise OSError("the disk is full")
        yield from super().UnmaskSum(request_iterator, context)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_custodians_own_fault_is_waited_out(
    federation: Federation, addresses: CustodianAddresses, tmp_path: Path
) -> None:
    state = federation.state(Role.UNMASKER)
    faulty = _FaultyOnce(state)
    server = start_server(
        state, ANY_PORT, register=lambda server: add_UnmaskerServicer_to_server(faulty, server)
    )
    charter = charter_of(federation, "fault", rounds=ONE_ROUND)
    there = CustodianAddresses(addresses.decryptor, server.address)
    with AggregatorServer(federation, tmp_path, charter, there) as running:
        running.contribute(*HOSPITALS)
        running.party("large-1").wait_for(wire.ROUND_STATE_OPENED)
        assert faulty.faults == 1
    server.stop(0)


def test_another_party_at_the_address_is_not_asked(
    federation: Federation, addresses: CustodianAddresses, tmp_path: Path
) -> None:
    charter = charter_of(federation, "swapped", rounds=ONE_ROUND)
    swapped = CustodianAddresses(addresses.unmasker, addresses.decryptor)
    with AggregatorServer(federation, tmp_path, charter, swapped) as running:
        running.contribute(*HOSPITALS)
        running.party("large-1").wait_for_reason("waiting for custodian unmasker")


class _Forger(DecryptorServicer):
    """A decryptor that answers at once, with statements of its own making."""

    def __init__(self, federation: Federation, key: SigningKey, *, sum_digest: str | None) -> None:
        self._federation = federation
        self._key = key
        self._sum_digest = sum_digest
        self.charter = federation.charter

    def DecryptSum(  # noqa: N802
        self,
        request_iterator: Iterator[custodian_pb2.DecryptSumRequest],
        context: grpc.ServicerContext,
    ) -> Iterator[custodian_pb2.AnswerPart]:
        for _ in request_iterator:
            pass
        answer = seal_decryptor_answer(
            self.charter,
            1,
            masked_sum=np.zeros(self.charter.secure_sum.values, np.uint64),
            sum_digest=self._sum_digest or "sha256:" + 64 * "0",
            signing_key=self._key,
        )
        yield custodian_pb2.AnswerPart(header=header_of(answer))
        for chunk in split(answer.body):
            yield custodian_pb2.AnswerPart(body_chunk=chunk)


@pytest.mark.parametrize(("own_key", "code"), [(False, "signature"), (True, "answer")])
def test_an_answer_that_does_not_check_is_never_stored(
    federation: Federation,
    addresses: CustodianAddresses,
    tmp_path: Path,
    own_key: bool,
    code: str,
) -> None:
    state = federation.state(Role.DECRYPTOR)
    key = state.signing_key() if own_key else SigningKey.generate()
    forger = _Forger(federation, key, sum_digest=None)
    server = start_server(
        state, ANY_PORT, register=lambda server: add_DecryptorServicer_to_server(forger, server)
    )
    charter = charter_of(federation, f"forged-{code}", rounds=ONE_ROUND)
    forger.charter = charter[0]
    there = CustodianAddresses(server.address, addresses.unmasker)
    with AggregatorServer(federation, tmp_path, charter, there) as running:
        running.contribute(*HOSPITALS)
        running.party("large-1").wait_for(wire.ROUND_STATE_FAILED)
        assert running.entries()[-1].round_failed.code == code
        kinds = [kind for kind, _ in running.party(Role.AUDITOR).objects()]
        assert kinds == [*["manifest"] * 3, "unmasker-statement"]
    server.stop(0)


def test_a_damaged_ciphertext_stops_the_aggregator_rather_than_the_round(
    federation: Federation,
    custodians: tuple[Custodian, Custodian],
    addresses: CustodianAddresses,
    tmp_path: Path,
) -> None:
    charter = charter_of(federation, "damaged", rounds=ONE_ROUND)
    with AggregatorProcess(federation, tmp_path, charter, addresses) as running:
        running.contribute("large-1", "small-1")
        blobs = [file for file in (running.root / "aggregator/blobs").iterdir() if file.is_file()]
        whole = blobs[0].read_bytes()
        blobs[0].write_bytes(whole[:-1] + b"x")
        running.contribute("small-2")
        assert running.process.wait(timeout=20) == 1
        # Mended, it goes on where it was.
        blobs[0].write_bytes(whole)
        running.close_channels()
        running.start()
        running.party("large-1").wait_for(wire.ROUND_STATE_OPENED)


def test_it_stops_at_once_while_it_is_watched_and_waiting(
    federation: Federation, tmp_path: Path
) -> None:
    charter = charter_of(federation, "stopped", rounds=ONE_ROUND)
    nowhere = CustodianAddresses("127.0.0.1:1", "127.0.0.1:1")
    with AggregatorProcess(federation, tmp_path, charter, nowhere) as running:
        running.contribute(*HOSPITALS)
        watch = running.party("large-1").watch()
        for event in watch:
            if event.reason:
                break
        before = time.monotonic()
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(timeout=10) == 0
        assert time.monotonic() - before < 3
        assert list(watch) == []


def _decrypt(federation: Federation, address: str, envelope: bytes, ciphertext: bytes) -> None:
    expected = Identity(federation.charter.federation, Role.DECRYPTOR, "decryptor")
    channel = open_channel(federation.state(Role.AGGREGATOR), address, expected=expected)

    def requests() -> Iterator[custodian_pb2.DecryptSumRequest]:
        header = custodian_pb2.DecryptSumHeader(charter=envelope, round=1)
        yield custodian_pb2.DecryptSumRequest(header=header)
        for chunk in split(ciphertext):
            yield custodian_pb2.DecryptSumRequest(ciphertext_chunk=chunk)

    with translated_errors():
        list(DecryptorStub(channel).DecryptSum(requests(), timeout=30))
    channel.close()


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
