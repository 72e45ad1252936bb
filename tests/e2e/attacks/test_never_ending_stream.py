"""Streams without an end, and streams that stall: cut off, and nobody else waits for them."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import grpc
import pytest
from e2e.attacks.conftest import AGGREGATOR, Attacked
from support.aggregator import contribution_of, upload

from fedhelp_secure.errors import PeerError
from fedhelp_secure.transport.client import PeerRefused, open_channel, translated_errors
from fedhelp_secure.transport.identity import Identity, Role
from fedhelp_secure.transport.limits import WINDOW_BYTES
from fedhelp_secure.wire.v1 import coordinator_pb2 as coordinator
from fedhelp_secure.wire.v1 import custodian_pb2 as custodian
from fedhelp_secure.wire.v1.coordinator_pb2_grpc import CoordinatorStub
from fedhelp_secure.wire.v1.custodian_pb2_grpc import DecryptorStub, UnmaskerStub

MOST_BYTES = 64 * WINDOW_BYTES
"""Far more than buffers on the way hold, far less than no end."""


class Endless:
    """Counts what was asked of it; gives up itself if nobody stops it."""

    def __init__(self) -> None:
        self.sent = 0

    def chunks(self, size: int) -> Iterator[bytes]:
        while self.sent < MOST_BYTES:
            self.sent += size
            yield bytes(size)
        raise AssertionError("nobody ended the stream")


def test_an_upload_without_an_end_is_cut_at_the_charters_length(attacked: Attacked) -> None:
    charter, endless = attacked.federation.charter, Endless()
    made = contribution_of(attacked.federation, charter, "small-1")

    def messages() -> Iterator[coordinator.ContributeRequest]:
        yield next(upload(charter, made))
        for chunk in endless.chunks(charter.secure_sum.frame_bytes):
            yield coordinator.ContributeRequest(ciphertext_chunk=chunk)

    with pytest.raises(PeerRefused) as refused:
        attacked.party("small-1").send(messages())
    assert refused.value.code == "contribution-wrong-length"
    assert endless.sent < MOST_BYTES


def _sum_without_end(attacked: Attacked, endless: Endless) -> Iterator[custodian.DecryptSumRequest]:
    header = custodian.DecryptSumHeader(
        charter=attacked.federation.charter_envelope, round=1, sum_digest="sha256:" + "0" * 64
    )
    yield custodian.DecryptSumRequest(header=header)
    for chunk in endless.chunks(attacked.federation.charter.secure_sum.frame_bytes):
        yield custodian.DecryptSumRequest(ciphertext_chunk=chunk)


def _set_without_end(attacked: Attacked, endless: Endless) -> Iterator[custodian.UnmaskSumRequest]:
    header = custodian.UnmaskSumHeader(charter=attacked.federation.charter_envelope, round=1)
    yield custodian.UnmaskSumRequest(header=header)
    for chunk in endless.chunks(16_000):
        yield custodian.UnmaskSumRequest(
            contribution=custodian.SealedContribution(manifest=chunk, sealed_seed=bytes(1168))
        )


def _call(channel: grpc.Channel, attacked: Attacked, endless: Endless, role: Role) -> None:
    with translated_errors():
        if role is Role.DECRYPTOR:
            requests = _sum_without_end(attacked, endless)
            list(DecryptorStub(channel).DecryptSum(requests, timeout=60))
        else:
            sets = _set_without_end(attacked, endless)
            list(UnmaskerStub(channel).UnmaskSum(sets, timeout=60))


@pytest.mark.parametrize("role", [Role.DECRYPTOR, Role.UNMASKER])
def test_a_sum_without_an_end_is_cut_by_each_custodian(attacked: Attacked, role: Role) -> None:
    endless, state = Endless(), attacked.federation.state("aggregator")
    expected = Identity(AGGREGATOR.federation, role, role.value)
    address = attacked.servers.addresses[role.value]
    with (
        open_channel(state, address, expected=expected) as channel,
        pytest.raises(PeerRefused),
    ):
        _call(channel, attacked, endless, role)
    assert endless.sent < MOST_BYTES


def test_uploads_that_stall_keep_nobody_waiting_and_cost_their_sender_its_places(
    attacked: Attacked,
) -> None:
    charter, release = attacked.federation.charter, threading.Event()
    made = contribution_of(attacked.federation, charter, "small-1")

    def stalling() -> Iterator[coordinator.ContributeRequest]:
        yield next(upload(charter, made))
        release.wait(60)

    state = attacked.federation.state("small-1")
    with open_channel(state, attacked.address, expected=AGGREGATOR) as channel:
        stub = CoordinatorStub(channel)
        held = [stub.Contribute.future(stalling(), timeout=60) for _ in range(2)]
        for call in held:
            # Its turn has come, and it sends nothing.
            call.initial_metadata()
        with pytest.raises(PeerError, match="as many such calls"):
            attacked.party("small-1").contribute(made)
        other = attacked.party("large-1")
        other.contribute(contribution_of(attacked.federation, charter, "large-1"))
        for call in held:
            call.cancel()
        release.set()
        for call in held:
            assert call.code() is grpc.StatusCode.CANCELLED
