"""Messages, headers and uploads beyond every limit: refused, nothing changed, others served."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import grpc
import psutil
import pytest
from e2e.attacks.conftest import AGGREGATOR, Attacked
from support.aggregator import contribution_of, upload
from support.attacks import rpc_error, unlimited_channel

from fedhelp_secure.transport.client import PeerRefused
from fedhelp_secure.transport.identity import Identity, Role
from fedhelp_secure.transport.limits import MESSAGE_BYTES
from fedhelp_secure.wire.v1 import coordinator_pb2 as coordinator
from fedhelp_secure.wire.v1 import custodian_pb2 as custodian
from fedhelp_secure.wire.v1.coordinator_pb2_grpc import CoordinatorStub
from fedhelp_secure.wire.v1.custodian_pb2_grpc import DecryptorStub, UnmaskerStub
from fedhelp_secure.wire.v1.evidence_pb2 import SubmitRequest
from fedhelp_secure.wire.v1.evidence_pb2_grpc import EvidenceStub

LONG = bytes(MESSAGE_BYTES + 1)
MOST_GROWTH_BYTES = 64 << 20


def _contribute(channel: grpc.Channel) -> object:
    part = coordinator.ContributeRequest(ciphertext_chunk=LONG)
    return CoordinatorStub(channel).Contribute(iter([part]), timeout=30)


def _submit(channel: grpc.Channel) -> object:
    return EvidenceStub(channel).Submit(SubmitRequest(envelope=LONG), timeout=30)


def _decrypt(channel: grpc.Channel) -> object:
    part = custodian.DecryptSumRequest(ciphertext_chunk=LONG)
    return list(DecryptorStub(channel).DecryptSum(iter([part]), timeout=30))


def _unmask(channel: grpc.Channel) -> object:
    header = custodian.UnmaskSumHeader(charter=LONG)
    part = custodian.UnmaskSumRequest(header=header)
    return list(UnmaskerStub(channel).UnmaskSum(iter([part]), timeout=30))


@pytest.mark.parametrize(
    ("call", "caller", "role"),
    [
        (_contribute, "small-1", Role.AGGREGATOR),
        (_submit, "small-1", Role.AGGREGATOR),
        (_decrypt, "aggregator", Role.DECRYPTOR),
        (_unmask, "aggregator", Role.UNMASKER),
    ],
)
def test_a_message_beyond_four_mebibytes_ends_its_call_and_costs_no_memory(
    attacked: Attacked, call: Callable[[grpc.Channel], object], caller: str, role: Role
) -> None:
    before = attacked.events()
    process = psutil.Process(attacked.servers.running[role.value].process.pid)
    held = process.memory_info().rss
    expected = Identity(AGGREGATOR.federation, role, role.value)
    state, address = attacked.federation.state(caller), attacked.servers.addresses[role.value]
    with unlimited_channel(state, address, expected) as channel:
        for _ in range(4):
            refused = rpc_error(lambda: call(channel))
            assert refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert process.memory_info().rss - held < MOST_GROWTH_BYTES
    # At most that an upload was refused; nothing else has happened.
    assert set(attacked.events()[len(before) :]) <= {"contribution_rejected"}


def test_headers_beyond_sixteen_kibibytes_are_refused(attacked: Attacked) -> None:
    state = attacked.federation.state("small-1")
    with unlimited_channel(state, attacked.address, AGGREGATOR) as channel:
        get_charter = CoordinatorStub(channel).GetCharter
        request = coordinator.GetCharterRequest()
        small = (("x-small", "x" * 1024),)
        assert get_charter(request, metadata=small, timeout=30).envelope
        refused = rpc_error(
            lambda: get_charter(request, metadata=(("x-long", "x" * 17_000),), timeout=30)
        )
        assert refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert get_charter(request, timeout=30).envelope


def test_an_upload_with_a_frame_too_many_is_refused_and_logged(attacked: Attacked) -> None:
    charter, party = attacked.federation.charter, attacked.party("small-1")
    made = contribution_of(attacked.federation, charter, "small-1")

    def longer() -> Iterator[coordinator.ContributeRequest]:
        yield from upload(charter, made)
        yield coordinator.ContributeRequest(ciphertext_chunk=bytes(charter.secure_sum.frame_bytes))

    before = attacked.events()
    with pytest.raises(PeerRefused) as refused:
        party.send(longer())
    assert refused.value.code == "contribution-wrong-length"
    assert attacked.events() == [*before, "contribution_rejected"]


def test_more_or_longer_sealed_seeds_than_any_charter_has_are_refused(attacked: Attacked) -> None:
    charter, party = attacked.federation.charter, attacked.party("small-1")
    made = contribution_of(attacked.federation, charter, "small-1")
    for seeds in ([bytes(1168)] * 9, [bytes(1169)], [bytes(1 << 20)]):
        first = next(upload(charter, made))
        del first.header.sealed_seeds[:]
        first.header.sealed_seeds.extend(seeds)
        with pytest.raises(PeerRefused) as refused:
            party.send(iter([first]))
        assert refused.value.code == "contribution-wrong-seeds"
