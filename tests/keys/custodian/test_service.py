"""Both custodians behind mutual TLS, called as the aggregator calls them."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import numpy as np
import pytest
from support.federation import Federation
from support.secure_sum import ciphertext_sum, contribute, contribute_all

from fedhelp_keys.custodian.decryptor import DecryptorService
from fedhelp_keys.custodian.unmasker import UnmaskerService
from fedhelp_secure.canonical import digest
from fedhelp_secure.charter import sign_charter
from fedhelp_secure.secure_sum.answer_wire import answer_of
from fedhelp_secure.secure_sum.answers import Answer, OpenedSum, open_sum
from fedhelp_secure.secure_sum.contribution import Contribution
from fedhelp_secure.signing import SigningKey
from fedhelp_secure.transport.chunks import collect, split
from fedhelp_secure.transport.client import PeerRefused, open_channel, translated_errors
from fedhelp_secure.transport.server import RunningServer, start_server
from fedhelp_secure.wire.v1 import custodian_pb2, custodian_pb2_grpc


@pytest.fixture
def decryptor_server(
    federation: Federation, decryptor: DecryptorService
) -> Iterator[RunningServer]:
    server = start_server(
        federation.state("decryptor"),
        "127.0.0.1:0",
        register=lambda target: custodian_pb2_grpc.add_DecryptorServicer_to_server(
            decryptor, target
        ),
    )
    yield server
    server.stop(0)


@pytest.fixture
def unmasker_server(federation: Federation, unmasker: UnmaskerService) -> Iterator[RunningServer]:
    server = start_server(
        federation.state("unmasker"),
        "127.0.0.1:0",
        register=lambda target: custodian_pb2_grpc.add_UnmaskerServicer_to_server(unmasker, target),
    )
    yield server
    server.stop(0)


def _collected(parts: Iterator[custodian_pb2.AnswerPart]) -> Answer:
    received = list(parts)
    assert received[0].WhichOneof("part") == "header"
    body = collect((part.body_chunk for part in received[1:]), limit=1 << 20)
    return answer_of(received[0].header, body)


def _decryption(envelope: bytes, ciphertext: bytes) -> Iterator[custodian_pb2.DecryptSumRequest]:
    header = custodian_pb2.DecryptSumHeader(charter=envelope, round=1)
    yield custodian_pb2.DecryptSumRequest(header=header)
    for chunk in split(ciphertext):
        yield custodian_pb2.DecryptSumRequest(ciphertext_chunk=chunk)


def _unmasking(
    envelope: bytes, sent: dict[str, Contribution]
) -> Iterator[custodian_pb2.UnmaskSumRequest]:
    header = custodian_pb2.UnmaskSumHeader(charter=envelope, round=1)
    yield custodian_pb2.UnmaskSumRequest(header=header)
    for part in sent.values():
        yield custodian_pb2.UnmaskSumRequest(
            contribution=custodian_pb2.SealedContribution(
                manifest=part.manifest, sealed_seed=part.sealed_seed
            )
        )


def _decrypt(
    federation: Federation,
    server: RunningServer,
    requests: Iterator[custodian_pb2.DecryptSumRequest],
    *,
    caller: str = "aggregator",
) -> Answer:
    expected = federation.state("decryptor").identity
    with (
        open_channel(federation.state(caller), server.address, expected=expected) as channel,
        translated_errors(),
    ):
        return _collected(custodian_pb2_grpc.DecryptorStub(channel).DecryptSum(requests))


def _unmask(
    federation: Federation,
    server: RunningServer,
    requests: Iterator[custodian_pb2.UnmaskSumRequest],
    *,
    caller: str = "aggregator",
) -> Answer:
    expected = federation.state("unmasker").identity
    with (
        open_channel(federation.state(caller), server.address, expected=expected) as channel,
        translated_errors(),
    ):
        return _collected(custodian_pb2_grpc.UnmaskerStub(channel).UnmaskSum(requests))


def _opened(federation: Federation, masked: Answer, masks: Answer) -> OpenedSum:
    return open_sum(
        federation.charter,
        1,
        recipient="small-2",
        unsealing_key=federation.state("small-2").unsealing_key(),
        decryptor_answer=masked,
        unmasker_answer=masks,
    )


def test_a_round_over_the_wire_opens_to_the_sum_and_logs_nothing_of_it(
    federation: Federation,
    decryptor_server: RunningServer,
    unmasker_server: RunningServer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    release = np.array([123457, -765432, 0, 1, -1, 777771, -1, 2], dtype=np.int64)
    names = [hospital.name for hospital in federation.charter.hospitals]
    sent = {name: contribute(federation, name, release=release) for name in names}
    total = ciphertext_sum(federation, sent)
    envelope = federation.charter_envelope
    masked = _decrypt(federation, decryptor_server, _decryption(envelope, total))
    masks = _unmask(federation, unmasker_server, _unmasking(envelope, sent))
    opened = _opened(federation, masked, masks)
    assert opened.values.tolist() == (release * federation.charter.total_weight).tolist()
    assert opened.hospitals == tuple(names)
    for integer in (*release[[0, 1, 5]], *opened.values[[0, 1, 5]]):
        assert str(abs(int(integer))) not in caplog.text


def test_the_public_context_is_the_one_that_the_charter_pins(
    federation: Federation, decryptor_server: RunningServer
) -> None:
    expected = federation.state("decryptor").identity
    with open_channel(
        federation.state("small-1"), decryptor_server.address, expected=expected
    ) as channel:
        stub = custodian_pb2_grpc.DecryptorStub(channel)
        request = custodian_pb2.GetPublicContextRequest(epoch=1)
        public = collect((part.chunk for part in stub.GetPublicContext(request)), limit=1 << 20)
        assert digest(public) == federation.charter.custodians.decryptor.context_digest
        with pytest.raises(PeerRefused) as refusal, translated_errors():
            list(stub.GetPublicContext(custodian_pb2.GetPublicContextRequest(epoch=2)))
    assert refusal.value.code == "epoch"


def test_only_the_aggregator_may_ask(
    federation: Federation, decryptor_server: RunningServer, unmasker_server: RunningServer
) -> None:
    envelope = federation.charter_envelope
    for role in ("large-1", "auditor", "broker", "unmasker"):
        with pytest.raises(PeerRefused) as refusal:
            _decrypt(federation, decryptor_server, _decryption(envelope, b"x"), caller=role)
        assert refusal.value.code == "access"
    for role in ("large-1", "auditor", "broker", "decryptor"):
        with pytest.raises(PeerRefused) as refusal:
            _unmask(federation, unmasker_server, _unmasking(envelope, {}), caller=role)
        assert refusal.value.code == "access"


def test_requests_of_another_form_are_refused(
    federation: Federation, decryptor_server: RunningServer, unmasker_server: RunningServer
) -> None:
    envelope = federation.charter_envelope
    stranger = sign_charter(federation.charter, SigningKey.generate())
    chunk = custodian_pb2.DecryptSumRequest(ciphertext_chunk=b"x")
    header = next(_decryption(envelope, b""))
    late = custodian_pb2.DecryptSumHeader(charter=envelope, round=3)
    too_long = bytes(70_000)
    decryptions = [
        ([], "malformed"),
        ([chunk], "malformed"),
        ([header, header], "malformed"),
        ([header, custodian_pb2.DecryptSumRequest()], "malformed"),
        ([header, custodian_pb2.DecryptSumRequest(ciphertext_chunk=b"")], "malformed"),
        ([header, custodian_pb2.DecryptSumRequest(ciphertext_chunk=too_long)], "malformed"),
        ([header], "ciphertext"),
        ([header, chunk], "ciphertext"),
        ([custodian_pb2.DecryptSumRequest(header=late)], "round"),
        (list(_decryption(stranger, b"x")), "signature"),
        (list(_decryption(b"{}", b"x")), "malformed"),
        (list(_decryption(bytes(1 << 21), b"x")), "malformed"),
    ]
    for requests, code in decryptions:
        with pytest.raises(PeerRefused) as refusal:
            _decrypt(federation, decryptor_server, iter(requests))
        assert refusal.value.code == code
    member = custodian_pb2.UnmaskSumRequest(contribution=custodian_pb2.SealedContribution())
    first = next(_unmasking(envelope, {}))
    unmaskings = [
        ([], "malformed"),
        ([member], "malformed"),
        ([first], "cohort"),
        ([first, first], "malformed"),
        ([first, member], "malformed"),
        (list(_unmasking(stranger, {})), "signature"),
    ]
    for parts, code in unmaskings:
        with pytest.raises(PeerRefused) as refusal:
            _unmask(federation, unmasker_server, iter(parts))
        assert refusal.value.code == code


def test_reads_no_more_contributions_than_there_are_hospitals(
    federation: Federation, unmasker_server: RunningServer
) -> None:
    member = custodian_pb2.UnmaskSumRequest(contribution=custodian_pb2.SealedContribution())
    first = next(_unmasking(federation.charter_envelope, {}))
    with pytest.raises(PeerRefused, match="more contributions than the charter has hospitals"):
        _unmask(federation, unmasker_server, iter([first, *[member] * 7]))


def test_refuses_a_charter_of_another_federation(
    federation: Federation, unmasker_server: RunningServer
) -> None:
    charter = federation.charter.model_copy(update={"federation": "elsewhere"})
    envelope = sign_charter(charter, federation.governance_key)
    with pytest.raises(PeerRefused) as refusal:
        _unmask(federation, unmasker_server, _unmasking(envelope, {}))
    assert refusal.value.code == "charter"


@pytest.mark.parametrize("custodian", ["decryptor", "unmasker"])
def test_refuses_a_charter_that_names_another_custodian(
    federation: Federation,
    decryptor_server: RunningServer,
    unmasker_server: RunningServer,
    custodian: str,
) -> None:
    def ask(envelope: bytes) -> Answer:
        if custodian == "decryptor":
            return _decrypt(federation, decryptor_server, _decryption(envelope, b"x"))
        return _unmask(federation, unmasker_server, _unmasking(envelope, {}))

    for change in ({"name": "another"}, {"signing_key": SigningKey.generate().public.to_base64()}):
        named = getattr(federation.charter.custodians, custodian).model_copy(update=change)
        custodians = federation.charter.custodians.model_copy(update={custodian: named})
        charter = federation.charter.model_copy(update={"custodians": custodians})
        envelope = sign_charter(charter, federation.governance_key)
        with pytest.raises(PeerRefused) as refusal:
            ask(envelope)
        assert refusal.value.code == "charter"


def test_a_second_set_is_refused_over_the_wire(
    federation: Federation, decryptor_server: RunningServer, unmasker_server: RunningServer
) -> None:
    envelope = federation.charter_envelope
    for number in range(2):
        sent = contribute_all(federation)
        requests = (
            _decryption(envelope, ciphertext_sum(federation, sent)),
            _unmasking(envelope, sent),
        )
        if number == 0:
            _decrypt(federation, decryptor_server, requests[0])
            _unmask(federation, unmasker_server, requests[1])
            continue
        with pytest.raises(PeerRefused) as refusal:
            _decrypt(federation, decryptor_server, requests[0])
        assert refusal.value.code == "already-answered"
        with pytest.raises(PeerRefused) as refusal:
            _unmask(federation, unmasker_server, requests[1])
        assert refusal.value.code == "already-answered"
