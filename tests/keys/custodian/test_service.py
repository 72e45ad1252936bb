"""The custodians behind mutual TLS, called as the aggregator calls them."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from support.federation import Federation
from support.keys import rounds_begun
from support.secure_sum import contribute_all, members_for
from support.sums import chunks, summed

from fedhelp_keys.custodian.decryptor import DecryptorService
from fedhelp_keys.custodian.unmasker import UnmaskerService
from fedhelp_secure.canonical import digest
from fedhelp_secure.charter import sign_charter
from fedhelp_secure.secure_sum.answer_wire import answer_of
from fedhelp_secure.secure_sum.answers import Answer
from fedhelp_secure.secure_sum.contribution import Contribution
from fedhelp_secure.secure_sum.opening import Answers, OpenedSum, open_sum
from fedhelp_secure.signing import SigningKey
from fedhelp_secure.transport.chunks import collect
from fedhelp_secure.transport.client import PeerRefused, open_channel, translated_errors
from fedhelp_secure.transport.server import RunningServer, start_server
from fedhelp_secure.wire.v1 import custodian_pb2, custodian_pb2_grpc

_NUMBERS = itertools.count()


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
def unmasker_servers(
    federation: Federation, unmaskers: Mapping[str, UnmaskerService]
) -> Iterator[dict[str, RunningServer]]:
    def start(name: str, service: UnmaskerService) -> RunningServer:
        return start_server(
            federation.state(name),
            "127.0.0.1:0",
            register=lambda target: custodian_pb2_grpc.add_UnmaskerServicer_to_server(
                service, target
            ),
        )

    servers = {name: start(name, service) for name, service in unmaskers.items()}
    yield servers
    for server in servers.values():
        server.stop(0)


@pytest.fixture
def unmasker_server(unmasker_servers: dict[str, RunningServer]) -> RunningServer:
    return unmasker_servers["unmasker"]


def _collected(federation: Federation, parts: Iterator[custodian_pb2.AnswerPart]) -> Answer:
    received = list(parts)
    assert received[0].WhichOneof("part") == "header"
    body = federation.root / f"answer-{next(_NUMBERS)}"
    body.write_bytes(collect((part.body_chunk for part in received[1:]), limit=1 << 24))
    return answer_of(received[0].header, body)


def _header(envelope: bytes, total: bytes, *, number: int = 1) -> custodian_pb2.DecryptSumRequest:
    return custodian_pb2.DecryptSumRequest(
        header=custodian_pb2.DecryptSumHeader(
            charter=envelope, round=number, sum_digest=digest(total)
        )
    )


def _decryption(federation: Federation, total: bytes) -> Iterator[custodian_pb2.DecryptSumRequest]:
    yield _header(federation.charter_envelope, total)
    for chunk in chunks(total, federation.charter):
        yield custodian_pb2.DecryptSumRequest(ciphertext_chunk=chunk)


def _unmasking(
    federation: Federation,
    sent: Mapping[str, Contribution],
    unmasker: str = "unmasker",
    *,
    envelope: bytes | None = None,
) -> Iterator[custodian_pb2.UnmaskSumRequest]:
    charter = federation.charter_envelope if envelope is None else envelope
    begun = rounds_begun(federation, federation.charter)
    header = custodian_pb2.UnmaskSumHeader(charter=charter, round=1, rounds_begun=begun)
    yield custodian_pb2.UnmaskSumRequest(header=header)
    for part in members_for(federation.charter, unmasker, sent):
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
        stub = custodian_pb2_grpc.DecryptorStub(channel)
        return _collected(federation, stub.DecryptSum(requests))


def _unmask(
    federation: Federation,
    server: RunningServer,
    requests: Iterator[custodian_pb2.UnmaskSumRequest],
    *,
    caller: str = "aggregator",
    unmasker: str = "unmasker",
) -> Answer:
    expected = federation.state(unmasker).identity
    with (
        open_channel(federation.state(caller), server.address, expected=expected) as channel,
        translated_errors(),
    ):
        stub = custodian_pb2_grpc.UnmaskerStub(channel)
        return _collected(federation, stub.UnmaskSum(requests))


def _opened(federation: Federation, masked: Answer, masks: tuple[Answer, ...]) -> OpenedSum:
    return open_sum(
        federation.charter,
        1,
        recipient="small-2",
        unsealing_key=federation.state("small-2").unsealing_key(),
        answers=Answers(masked, masks),
    )


def test_a_round_over_the_wire_opens_to_the_sum_and_logs_nothing_of_it(
    federation: Federation,
    decryptor_server: RunningServer,
    unmasker_servers: dict[str, RunningServer],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    charter = federation.charter
    release = np.resize(
        np.array([123457, -765432, 0, 1, -1, 777771, -1, 2]), charter.secure_sum.values
    )
    names = [hospital.name for hospital in charter.hospitals]
    sent = contribute_all(federation, tmp_path / "sent", releases=dict.fromkeys(names, release))
    total = summed(charter, sent)
    masked = _decrypt(federation, decryptor_server, _decryption(federation, total))
    masks = tuple(
        _unmask(federation, server, _unmasking(federation, sent, name), unmasker=name)
        for name, server in unmasker_servers.items()
    )
    opened = _opened(federation, masked, masks)
    assert opened.values.tolist() == (release * charter.total_weight).tolist()
    assert opened.hospitals == tuple(names)
    for integer in (*release[[0, 1, 5]], *opened.values[[0, 1, 5]]):
        assert str(abs(int(integer))) not in caplog.text


def test_the_same_sum_is_answered_again_before_it_is_sent(
    federation: Federation, decryptor_server: RunningServer, sent: dict[str, Contribution]
) -> None:
    total = summed(federation.charter, sent)
    first = _decrypt(federation, decryptor_server, _decryption(federation, total))
    header = _header(federation.charter_envelope, total)
    again = _decrypt(federation, decryptor_server, iter([header]))
    assert (again.statement, again.sealed_keys) == (first.statement, first.sealed_keys)
    assert again.body.read_bytes() == first.body.read_bytes()


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
    for role in ("large-1", "auditor", "broker", "unmasker"):
        with pytest.raises(PeerRefused) as refusal:
            _decrypt(federation, decryptor_server, _decryption(federation, b"x"), caller=role)
        assert refusal.value.code == "access"
    for role in ("large-1", "auditor", "broker", "decryptor", "unmasker-2"):
        with pytest.raises(PeerRefused) as refusal:
            _unmask(federation, unmasker_server, _unmasking(federation, {}), caller=role)
        assert refusal.value.code == "access"


def test_requests_of_another_form_are_refused(
    federation: Federation, decryptor_server: RunningServer, unmasker_server: RunningServer
) -> None:
    envelope = federation.charter_envelope
    rounds_begun(federation, federation.charter)
    stranger = sign_charter(federation.charter, SigningKey.generate())
    part = custodian_pb2.DecryptSumRequest
    chunk, header = part(ciphertext_chunk=b"x"), _header(envelope, b"x")
    no_digest = custodian_pb2.DecryptSumHeader(charter=envelope, round=1)
    decryptions = [
        ([], "malformed"),
        ([chunk], "malformed"),
        ([header, header], "malformed"),
        ([header, part()], "malformed"),
        ([part(header=no_digest), chunk], "malformed"),
        # 17 frames.
        ([header, part(ciphertext_chunk=bytes(17 * 65_536))], "malformed"),
        ([header, part(ciphertext_chunk=b"")], "ciphertext"),
        ([header, part(ciphertext_chunk=bytes(70_000))], "ciphertext"),
        ([header], "ciphertext"),
        ([header, chunk], "ciphertext"),
        # What was sent is not what the header names.
        ([header, part(ciphertext_chunk=bytes(3 * 65_536))], "ciphertext"),
        ([_header(envelope, b"x", number=3)], "round"),
        ([_header(stranger, b"x"), chunk], "signature"),
        ([_header(b"{}", b"x"), chunk], "malformed"),
        ([_header(bytes(1 << 21), b"x"), chunk], "malformed"),
    ]
    for requests, code in decryptions:
        with pytest.raises(PeerRefused) as refusal:
            _decrypt(federation, decryptor_server, iter(requests))
        assert refusal.value.code == code
    member = custodian_pb2.UnmaskSumRequest(contribution=custodian_pb2.SealedContribution())
    first = next(_unmasking(federation, {}))
    unmaskings = [
        ([], "malformed"),
        ([member], "malformed"),
        ([first], "cohort"),
        ([first, first], "malformed"),
        ([first, member], "malformed"),
        (list(_unmasking(federation, {}, envelope=stranger)), "signature"),
    ]
    for parts, code in unmaskings:
        with pytest.raises(PeerRefused) as refusal:
            _unmask(federation, unmasker_server, iter(parts))
        assert refusal.value.code == code


def test_reads_no_more_contributions_than_there_are_hospitals(
    federation: Federation, unmasker_server: RunningServer
) -> None:
    member = custodian_pb2.UnmaskSumRequest(contribution=custodian_pb2.SealedContribution())
    first = next(_unmasking(federation, {}))
    with pytest.raises(PeerRefused, match="more contributions than the charter has hospitals"):
        _unmask(federation, unmasker_server, iter([first, *[member] * 7]))


def test_refuses_a_charter_of_another_federation(
    federation: Federation, unmasker_server: RunningServer
) -> None:
    charter = federation.charter.model_copy(update={"federation": "elsewhere"})
    envelope = sign_charter(charter, federation.governance_key)
    with pytest.raises(PeerRefused) as refusal:
        _unmask(federation, unmasker_server, _unmasking(federation, {}, envelope=envelope))
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
            return _decrypt(federation, decryptor_server, iter([_header(envelope, b"x")]))
        return _unmask(federation, unmasker_server, _unmasking(federation, {}, envelope=envelope))

    for change in ({"name": "another"}, {"signing_key": SigningKey.generate().public.to_base64()}):
        custodians = federation.charter.custodians
        decryptor = custodians.decryptor.model_copy(update=change)
        unmasker = custodians.unmaskers[0].model_copy(update=change)
        if custodian == "decryptor":
            custodians = custodians.model_copy(update={"decryptor": decryptor})
        else:
            custodians = custodians.model_copy(update={"unmaskers": (unmasker,)})
        charter = federation.charter.model_copy(update={"custodians": custodians})
        envelope = sign_charter(charter, federation.governance_key)
        with pytest.raises(PeerRefused) as refusal:
            ask(envelope)
        assert refusal.value.code == "charter"


def test_a_second_set_is_refused_over_the_wire(
    federation: Federation,
    decryptor_server: RunningServer,
    unmasker_server: RunningServer,
    tmp_path: Path,
) -> None:
    first, second = (contribute_all(federation, tmp_path / str(number)) for number in range(2))
    total = summed(federation.charter, first)
    _decrypt(federation, decryptor_server, _decryption(federation, total))
    _unmask(federation, unmasker_server, _unmasking(federation, first))
    other = summed(federation.charter, second)
    with pytest.raises(PeerRefused) as refusal:
        _decrypt(federation, decryptor_server, _decryption(federation, other))
    assert refusal.value.code == "already-answered"
    with pytest.raises(PeerRefused) as refusal:
        _unmask(federation, unmasker_server, _unmasking(federation, second))
    assert refusal.value.code == "already-answered"
