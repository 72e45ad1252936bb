"""How much one identity may ask: the bucket, the accounts, and a real server over mutual TLS."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.federation import FEDERATION, Federation
from support.services import (
    call_contribute,
    call_decrypt_sum,
    call_get_charter,
    call_watch_rounds,
    register,
)

from fedhelp_secure.errors import PeerError, RateLimited, UnavailablePeer
from fedhelp_secure.transport.client import open_channel, translated_errors
from fedhelp_secure.transport.identity import Identity, Role
from fedhelp_secure.transport.rates import CALL_BURST, Rates, TokenBucket
from fedhelp_secure.transport.server import start_server
from fedhelp_secure.wire.v1 import coordinator_pb2, coordinator_pb2_grpc

AGGREGATOR = Identity(FEDERATION, Role.AGGREGATOR, "aggregator")


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@given(st.lists(st.floats(0, 5), max_size=60))
def test_a_bucket_never_gives_more_than_it_held_and_what_came_since(pauses: list[float]) -> None:
    clock = Clock()
    bucket = TokenBucket(rate=2.0, size=5.0, clock=clock)
    given_out = 0
    for pause in pauses:
        clock.now += pause
        given_out += bucket.take()
        assert given_out <= 5 + 2 * (clock.now - 100.0) + 1e-6


def test_a_bucket_fills_again_but_not_beyond_its_size() -> None:
    clock = Clock()
    bucket = TokenBucket(rate=1.0, size=3.0, clock=clock)
    assert [bucket.take() for _ in range(4)] == [True, True, True, False]
    clock.now += 1.0
    assert [bucket.take() for _ in range(2)] == [True, False]
    clock.now += 1000.0
    assert [bucket.take() for _ in range(4)] == [True, True, True, False]


def test_each_identity_has_its_own_account_and_a_flood_is_one_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = Clock()
    rates = Rates(calls_a_second=1, burst=3, at_once=10, clock=clock)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            with rates.call("a"):
                pass
        for _ in range(50):
            with pytest.raises(RateLimited, match="try again later"), rates.call("a"):
                pass
        with rates.call("b"):
            pass
        assert len(caplog.records) == 1
        clock.now += 60.0
        for _ in range(4):
            with ExitStack() as entered:
                try:
                    entered.enter_context(rates.call("a"))
                except RateLimited:
                    continue
        assert len(caplog.records) == 2


def test_calls_at_once_are_counted_until_they_end_however_they_end() -> None:
    rates = Rates(calls_a_second=1000, burst=1000, at_once=2)
    for _ in range(5):
        with pytest.raises(KeyError), rates.call("a"):
            raise KeyError
    with rates.call("a"), rates.call("a"):
        with pytest.raises(RateLimited), rates.call("a"):
            pass
        with rates.call("b"):
            pass
    with rates.call("a"):
        pass


@pytest.mark.parametrize(
    ("call", "party"),
    [
        (call_get_charter, "large-1"),
        (call_watch_rounds, "large-1"),
        (call_contribute, "large-1"),
        (call_decrypt_sum, "aggregator"),
    ],
)
def test_a_server_refuses_the_call_beyond_with_a_status_and_a_code(
    federation: Federation, call: Callable[[grpc.Channel], bytes], party: str
) -> None:
    server = start_server(
        federation.state("aggregator"),
        "127.0.0.1:0",
        register=register(lambda _: b"done"),
        rates=Rates(calls_a_second=0.001, burst=2, at_once=8),
    )
    try:
        with open_channel(federation.state(party), server.address, expected=AGGREGATOR) as channel:
            assert [call(channel), call(channel)] == [b"done", b"done"]
            with pytest.raises(grpc.RpcError) as refused:
                call(channel)
            assert isinstance(refused.value, grpc.Call)
            assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert ("fedhelp-code", "rate-limited") in refused.value.trailing_metadata()
            # What clients back off and retry for.
            with pytest.raises(UnavailablePeer, match="try again"), translated_errors():
                call(channel)
        with open_channel(
            federation.state("small-1"), server.address, expected=AGGREGATOR
        ) as channel:
            assert call_get_charter(channel) == b"done"
    finally:
        server.stop()


def test_calls_that_are_refused_anyway_count_too_and_do_not_fill_the_log(
    federation: Federation, caplog: pytest.LogCaptureFixture
) -> None:
    server = start_server(
        federation.state("aggregator"),
        "127.0.0.1:0",
        register=register(lambda _: b"done"),
        rates=Rates(calls_a_second=0.001, burst=3, at_once=8),
    )
    try:
        with (
            caplog.at_level(logging.INFO),
            open_channel(
                federation.state("large-1"), server.address, expected=AGGREGATOR
            ) as channel,
        ):
            codes = Counter(_code(channel) for _ in range(30))
    finally:
        server.stop()
    # A hospital may not have sums decrypted.
    assert codes == {"access": 3, "rate-limited": 27}
    assert len(caplog.records) == 4


def _code(channel: grpc.Channel) -> str:
    with pytest.raises(PeerError) as refused, translated_errors():
        call_decrypt_sum(channel)
    return refused.value.code


def test_one_identity_cannot_take_every_thread(federation: Federation) -> None:
    release = threading.Event()

    def act(_: grpc.ServicerContext) -> bytes:
        release.wait(20)
        return b"done"

    server = start_server(
        federation.state("aggregator"),
        "127.0.0.1:0",
        register=register(act),
        maximum_workers=8,
        rates=Rates(at_once=3),
    )
    try:
        with open_channel(
            federation.state("large-1"), server.address, expected=AGGREGATOR
        ) as channel:
            stub = coordinator_pb2_grpc.CoordinatorStub(channel)
            request = coordinator_pb2.WatchRoundsRequest()
            held = [stub.WatchRounds(request, timeout=30) for _ in range(3)]
            for stream in held:
                assert next(stream).round == 1
            with pytest.raises(RateLimited), translated_errors():
                next(stub.WatchRounds(request, timeout=30))
            release.set()
            for stream in held:
                assert next(stream).round == 2
                assert not list(stream)
            assert call_get_charter(channel) == b"done"
    finally:
        release.set()
        server.stop()


def test_a_node_that_asks_for_every_receipt_at_once_is_not_held_up() -> None:
    rates = Rates()
    for _ in range(CALL_BURST):
        with rates.call("a"):
            pass
