"""What the aggregator takes from a custodian, what it waits for, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray
from support.aggregator import (
    ANY_PORT,
    AggregatorServer,
    charter_of,
    contribution_of,
    custodians_of,
    new_file,
)
from support.federation import Federation, make_federation

from fedhelp_keys.custodian.decryptor import DecryptorService
from fedhelp_keys.custodian.unmasker import UnmaskerService
from fedhelp_secure.canonical import digest
from fedhelp_secure.charter import Charter
from fedhelp_secure.secure_sum.answer_wire import header_of
from fedhelp_secure.secure_sum.answers import (
    Answer,
    seal_decryptor_answer,
    seal_unmasker_answer,
)
from fedhelp_secure.secure_sum.bodies import frame_sizes
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

_Change = Callable[[list[custodian_pb2.AnswerPart]], list[custodian_pb2.AnswerPart]]


def test_a_definite_refusal_fails_the_round_with_its_code(
    federation: Federation, addresses: CustodianAddresses, tmp_path: Path
) -> None:
    charter = charter_of(federation, "refused", rounds={"count": 2})
    with AggregatorServer(federation, tmp_path, charter, addresses) as running:
        running.party("large-1").wait_for(wire.ROUND_STATE_OPEN)
        # Somebody with the aggregator's keys had another sum of this round decrypted before.
        other = contribution_of(federation, running.charter, "large-1")
        _decrypt(federation, addresses.decryptor, charter[1], other.ciphertext.read_bytes())
        running.contribute(*HOSPITALS)
        event = running.party("large-1").wait_for(wire.ROUND_STATE_FAILED)
        assert event.reason == "the sum was refused with code already-answered."
        running.party("large-1").wait_for(wire.ROUND_STATE_FAILED, 2)
        codes = [entry.round_failed.code for entry in running.entries()[-2:]]
        assert codes == ["already-answered", "earlier-round-failed"]


def zeros(charter: Charter) -> list[NDArray[np.uint64]]:
    """The frames of a sum that nobody has computed."""
    return [np.zeros(size, np.uint64) for size in frame_sizes(charter.secure_sum)]


def messages(answer: Answer) -> Iterator[custodian_pb2.AnswerPart]:
    yield custodian_pb2.AnswerPart(header=header_of(answer))
    for chunk in split(answer.body.read_bytes()):
        yield custodian_pb2.AnswerPart(body_chunk=chunk)


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
    there = CustodianAddresses(addresses.decryptor, (server.address,))
    with AggregatorServer(federation, tmp_path, charter, there) as running:
        running.contribute(*HOSPITALS)
        running.party("large-1").wait_for(wire.ROUND_STATE_OPENED)
        assert faulty.faults == 1
    server.stop(0)


def test_another_party_at_the_address_is_not_asked(
    federation: Federation, addresses: CustodianAddresses, tmp_path: Path
) -> None:
    charter = charter_of(federation, "swapped", rounds=ONE_ROUND)
    swapped = CustodianAddresses(addresses.unmaskers[0], (addresses.decryptor,))
    with AggregatorServer(federation, tmp_path, charter, swapped) as running:
        running.party("large-1").wait_for_reason(
            "waiting for custodian decryptor; waiting for custodian unmasker"
        )


class _ForgingDecryptor(DecryptorService):
    """Answers at once, for a sum that nobody sent."""

    def __init__(self, state: StateDirectory, charter: Charter, key: SigningKey, out: Path) -> None:
        super().__init__(state)
        self._forged = seal_decryptor_answer(
            charter,
            1,
            masked_sum=zeros(charter),
            sum_digest=digest(b"another sum"),
            signing_key=key,
            out=out,
        )

    def DecryptSum(  # noqa: N802
        self,
        request_iterator: Iterator[custodian_pb2.DecryptSumRequest],
        context: grpc.ServicerContext,
    ) -> Iterator[custodian_pb2.AnswerPart]:
        for _ in request_iterator:
            pass
        yield from messages(self._forged)


class _ForgingUnmasker(UnmaskerService):
    """Answers for a cohort, but not for everybody that it was asked for."""

    def __init__(self, state: StateDirectory, charter: Charter, out: Path) -> None:
        super().__init__(state)
        self._out = out
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
        yield from messages(
            seal_unmasker_answer(
                self._charter,
                1,
                unmasker="unmasker",
                mask_sum=zeros(self._charter),
                manifests=[item for item in manifests if item[1].hospital != "small-1"],
                signing_key=self._key,
                out=self._out,
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
    forger = _ForgingDecryptor(state, charter[0], key, new_file(federation))
    server = start_server(
        state, ANY_PORT, register=lambda server: add_DecryptorServicer_to_server(forger, server)
    )
    there = CustodianAddresses(server.address, addresses.unmaskers)
    with AggregatorServer(federation, tmp_path, charter, there) as running:
        running.contribute(*HOSPITALS)
        running.party("large-1").wait_for(wire.ROUND_STATE_FAILED)
        assert running.entries()[-1].round_failed.code == code
        kinds = [kind for kind, _ in running.party(Role.AUDITOR).objects()]
        # The unmasker was asked at the same time, and may have answered.
        assert "decryptor-statement" not in kinds
        assert kinds.count("manifest") == 3
    server.stop(0)
    forger.close()


def test_an_unmaskers_answer_for_another_set_is_never_stored(
    federation: Federation, addresses: CustodianAddresses, tmp_path: Path
) -> None:
    charter = charter_of(federation, "forged-set", rounds=ONE_ROUND)
    state = federation.state(Role.UNMASKER)
    forger = _ForgingUnmasker(state, charter[0], new_file(federation))
    server = start_server(
        state, ANY_PORT, register=lambda server: add_UnmaskerServicer_to_server(forger, server)
    )
    there = CustodianAddresses(addresses.decryptor, (server.address,))
    with AggregatorServer(federation, tmp_path, charter, there) as running:
        running.contribute(*HOSPITALS)
        running.party("large-1").wait_for(wire.ROUND_STATE_FAILED)
        assert running.entries()[-1].round_failed.code == "answer"
        kinds = [kind for kind, _ in running.party(Role.AUDITOR).objects()]
        # The decryptor was asked at the same time, and may have answered.
        assert "unmasker-statement" not in kinds
        assert kinds.count("manifest") == 3
    server.stop(0)


class _Careless(UnmaskerService):
    """Its answers lose or gain something on the way."""

    def __init__(self, state: StateDirectory, change: _Change) -> None:
        super().__init__(state)
        self._change = change

    def UnmaskSum(  # noqa: N802
        self,
        request_iterator: Iterator[custodian_pb2.UnmaskSumRequest],
        context: grpc.ServicerContext,
    ) -> Iterator[custodian_pb2.AnswerPart]:
        yield from self._change(list(super().UnmaskSum(request_iterator, context)))


def _chunk(data: bytes) -> custodian_pb2.AnswerPart:
    return custodian_pb2.AnswerPart(body_chunk=data)


def flipped(chunk: bytes) -> bytes:
    """Another last byte, whatever it was."""
    return chunk[:-1] + bytes([chunk[-1] ^ 1])


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda parts: [], "malformed"),
        (lambda parts: parts[1:], "malformed"),
        (lambda parts: parts[:1], "malformed"),
        (lambda parts: [parts[0], *parts], "malformed"),
        (lambda parts: [parts[0], _chunk(b""), *parts[1:]], "malformed"),
        (lambda parts: [*parts, _chunk(b"x")], "malformed"),
        (lambda parts: [parts[0], _chunk(parts[1].body_chunk[:-1])], "malformed"),
        (lambda parts: [parts[0], _chunk(flipped(parts[1].body_chunk))], "answer"),
    ],
    ids=["nothing", "no-header", "no-body", "two-headers", "empty", "long", "short", "altered"],
)
def test_an_answer_that_lost_something_is_never_stored(
    federation: Federation,
    addresses: CustodianAddresses,
    tmp_path: Path,
    change: _Change,
    code: str,
    request: pytest.FixtureRequest,
) -> None:
    name = request.node.callspec.id
    charter = charter_of(federation, f"careless-{name}", rounds=ONE_ROUND)
    careless = _Careless(federation.state(Role.UNMASKER), change)
    server = start_server(
        federation.state(Role.UNMASKER),
        ANY_PORT,
        register=lambda server: add_UnmaskerServicer_to_server(careless, server),
    )
    there = CustodianAddresses(addresses.decryptor, (server.address,))
    with AggregatorServer(federation, tmp_path, charter, there) as running:
        running.contribute(*HOSPITALS)
        running.party("large-1").wait_for(wire.ROUND_STATE_FAILED)
        assert running.entries()[-1].round_failed.code == code
        kinds = [kind for kind, _ in running.party(Role.AUDITOR).objects()]
        # The decryptor was asked at the same time, and may have answered.
        assert "unmasker-statement" not in kinds
        assert kinds.count("manifest") == 3
    server.stop(0)


def test_swapped_unmaskers_are_not_asked(tmp_path: Path) -> None:
    federation = make_federation(tmp_path / "federation", large=1, small=2, unmaskers=2)
    with custodians_of(federation) as (decryptor, first, second):
        swapped = CustodianAddresses(decryptor.address, (second.address, first.address))
        charter = (federation.charter, federation.charter_envelope)
        with AggregatorServer(federation, tmp_path, charter, swapped) as running:
            running.party("large-1").wait_for_reason(
                "waiting for custodian unmasker; waiting for custodian unmasker-2"
            )


def _decrypt(federation: Federation, address: str, envelope: bytes, ciphertext: bytes) -> None:
    expected = Identity(federation.charter.federation, Role.DECRYPTOR, "decryptor")
    channel = open_channel(federation.state(Role.AGGREGATOR), address, expected=expected)

    def requests() -> Iterator[custodian_pb2.DecryptSumRequest]:
        header = custodian_pb2.DecryptSumHeader(
            charter=envelope, round=1, sum_digest=digest(ciphertext)
        )
        yield custodian_pb2.DecryptSumRequest(header=header)
        for chunk in split(ciphertext):
            yield custodian_pb2.DecryptSumRequest(ciphertext_chunk=chunk)

    with translated_errors():
        list(DecryptorStub(channel).DecryptSum(requests(), timeout=30))
    channel.close()
