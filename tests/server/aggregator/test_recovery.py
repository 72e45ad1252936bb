"""Custodians that go away, an aggregator that is killed, and custodians that say no."""

from __future__ import annotations

import contextlib
import signal
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
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

from fedhelp_keys.custodian.decryptor import DecryptorService, answer_parts
from fedhelp_keys.custodian.unmasker import UnmaskerService
from fedhelp_secure.canonical import digest
from fedhelp_secure.charter import Charter
from fedhelp_secure.errors import UnavailablePeer
from fedhelp_secure.evidence.log import log_origin
from fedhelp_secure.evidence.receipts import check_receipt
from fedhelp_secure.secure_sum.answers import seal_decryptor_answer, seal_unmasker_answer
from fedhelp_secure.secure_sum.contribution import open_manifest
from fedhelp_secure.signing import SigningKey
from fedhelp_secure.state import StateDirectory
from fedhelp_secure.transport.chunks import split
from fedhelp_secure.transport.client import open_channel, translated_errors
from fedhelp_secure.transport.identity import Identity, Role
from fedhelp_secure.transport.server import start_server
from fedhelp_secure.wire.v1 import coordinator_pb2 as wire
from fedhelp_secure.wire.v1 import custodian_pb2
from fedhelp_secure.wire.v1.custodian_pb2_grpc import (
    DecryptorStub,
    add_DecryptorServicer_to_server,
    add_UnmaskerServicer_to_server,
)
from fedhelp_server.aggregator.custodians import CustodianAddresses

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
    charter = charter_of(federation, "kills", rounds=ONE_ROUND)
    with AggregatorProcess(federation, tmp_path, charter, addresses) as running:
        receipts = {}
        # Killed at the start, in the middle and at the end of an upload; the node sends again.
        for name, moment in zip(HOSPITALS, (0.02, 0.25, 0.6), strict=True):
            _patiently(lambda: running.party("small-1").wait_for(wire.ROUND_STATE_OPEN))
            contribution = contribution_of(federation, running.charter, name)
            timer = threading.Timer(moment, running.process.kill)
            timer.start()
            with contextlib.suppress(UnavailablePeer):
                receipts[name] = running.party(name).contribute(contribution)
            timer.join()
            running.kill()
            running.start()
            again = running.party(name).contribute(contribution)
            assert receipts.setdefault(name, again) == again
        running.party("large-1").wait_for(wire.ROUND_STATE_OPENED)
        opened = running.party("large-1").open()
        assert np.array_equal(opened.values, weighted_sum(running.charter, HOSPITALS))
        assert Counter(events_of(running.entries())) == {
            "charter_adopted": 1,
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


class _ForgingDecryptor(DecryptorService):
    """Answers at once, for a sum that nobody sent."""

    def __init__(self, state: StateDirectory, charter: Charter, key: SigningKey) -> None:
        super().__init__(state)
        self._forged = seal_decryptor_answer(
            charter,
            1,
            masked_sum=np.zeros(charter.secure_sum.values, np.uint64),
            sum_digest=digest(b"another sum"),
            signing_key=key,
        )

    def DecryptSum(  # noqa: N802
        self,
        request_iterator: Iterator[custodian_pb2.DecryptSumRequest],
        context: grpc.ServicerContext,
    ) -> Iterator[custodian_pb2.AnswerPart]:
        for _ in request_iterator:
            pass
        yield from answer_parts(self._forged)


class _ForgingUnmasker(UnmaskerService):
    """Answers for a cohort, but not for everybody that it was asked for."""

    def __init__(self, state: StateDirectory, charter: Charter) -> None:
        super().__init__(state)
        self._charter = charter
        self._key = state.signing_key()

    def UnmaskSum(  # noqa: N802
        self,
        request_iterator: Iterator[custodian_pb2.UnmaskSumRequest],
        context: grpc.ServicerContext,
    ) -> Iterator[custodian_pb2.AnswerPart]:
        # The first message is the header.
        envelopes = [request.contribution.manifest for request in request_iterator][1:]
        manifests = [(item, open_manifest(self._charter, item)) for item in envelopes]
        yield from answer_parts(
            seal_unmasker_answer(
                self._charter,
                1,
                mask_sum=np.zeros(self._charter.secure_sum.values, np.uint64),
                manifests=[item for item in manifests if item[1].hospital != "small-1"],
                signing_key=self._key,
            )
        )


@pytest.mark.parametrize(("own_key", "code"), [(False, "signature"), (True, "answer")])
def test_a_decryptors_answer_that_does_not_check_is_never_stored(
    federation: Federation,
    addresses: CustodianAddresses,
    tmp_path: Path,
    own_key: bool,
    code: str,
) -> None:
    charter = charter_of(federation, f"forged-{code}", rounds=ONE_ROUND)
    state = federation.state(Role.DECRYPTOR)
    key = state.signing_key() if own_key else SigningKey.generate()
    forger = _ForgingDecryptor(state, charter[0], key)
    server = start_server(
        state, ANY_PORT, register=lambda server: add_DecryptorServicer_to_server(forger, server)
    )
    there = CustodianAddresses(server.address, addresses.unmasker)
    with AggregatorServer(federation, tmp_path, charter, there) as running:
        running.contribute(*HOSPITALS)
        running.party("large-1").wait_for(wire.ROUND_STATE_FAILED)
        assert running.entries()[-1].round_failed.code == code
        kinds = [kind for kind, _ in running.party(Role.AUDITOR).objects()]
        assert kinds == [*["manifest"] * 3, "unmasker-statement"]
    server.stop(0)
    forger.close()


def test_an_unmaskers_answer_for_another_set_is_never_stored(
    federation: Federation, addresses: CustodianAddresses, tmp_path: Path
) -> None:
    charter = charter_of(federation, "forged-set", rounds=ONE_ROUND)
    state = federation.state(Role.UNMASKER)
    forger = _ForgingUnmasker(state, charter[0])
    server = start_server(
        state, ANY_PORT, register=lambda server: add_UnmaskerServicer_to_server(forger, server)
    )
    there = CustodianAddresses(addresses.decryptor, server.address)
    with AggregatorServer(federation, tmp_path, charter, there) as running:
        running.contribute(*HOSPITALS)
        running.party("large-1").wait_for(wire.ROUND_STATE_FAILED)
        assert running.entries()[-1].round_failed.code == "answer"
        kinds = [kind for kind, _ in running.party(Role.AUDITOR).objects()]
        assert kinds == ["manifest"] * 3
    server.stop(0)


def test_a_damaged_ciphertext_stops_the_aggregator_rather_than_the_round(
    federation: Federation, addresses: CustodianAddresses, tmp_path: Path
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
    with AggregatorServer(federation, tmp_path, charter, addresses) as again:
        again.party("large-1").wait_for(wire.ROUND_STATE_OPENED)


def test_a_damaged_sum_is_not_sent_until_it_is_mended(
    federation: Federation,
    custodians: tuple[Custodian, Custodian],
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
