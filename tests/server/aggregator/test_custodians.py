"""What the aggregator takes from a custodian, what it waits for, and what it refuses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from support.aggregator import (
    ANY_PORT,
    AggregatorServer,
    charter_of,
    contribution_of,
)
from support.federation import Federation

from fedhelp_keys.custodian.decryptor import DecryptorService, answer_parts
from fedhelp_keys.custodian.unmasker import UnmaskerService
from fedhelp_secure.canonical import digest
from fedhelp_secure.charter import Charter
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
