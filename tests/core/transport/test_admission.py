"""A running call is asked about again, and a channel asks before each call."""

from __future__ import annotations

import datetime
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import grpc
import pytest
from cryptography import x509
from support.certificates import Issuer, authorities_pem, forge
from support.federation import FEDERATION, Federation
from support.services import (
    call_contribute,
    call_decrypt_sum,
    call_get_charter,
    call_watch_rounds,
    register,
)
from support.trust_lists import issued, revocation, signed

from fedhelp_secure.state import StateDirectory
from fedhelp_secure.transport.access import CallerNotAuthenticated, caller
from fedhelp_secure.transport.certificates import server_name, utc_now
from fedhelp_secure.transport.client import open_channel, translated_errors
from fedhelp_secure.transport.identity import Identity, Role
from fedhelp_secure.transport.server import RunningServer, start_server
from fedhelp_secure.trust.store import Revoked, TrustStore
from fedhelp_secure.wire.v1.coordinator_pb2 import WatchRoundsRequest
from fedhelp_secure.wire.v1.coordinator_pb2_grpc import CoordinatorStub

AGGREGATOR = Identity(FEDERATION, Role.AGGREGATOR, "aggregator")
PATIENCE_SECONDS = 20.0
SECOND = datetime.timedelta(seconds=1)


class World:
    """A server whose calls last until they are released, and states that tests may change."""

    def __init__(self, federation: Federation, root: Path) -> None:
        self.registrar = federation.state("registrar")
        self.release = threading.Event()
        self.states = {}
        for name in ("aggregator", "large-1", "small-1"):
            shutil.copytree(federation.state(name).root, root / name)
            self.states[name] = StateDirectory.open(root / name)

    def act(self, context: grpc.ServicerContext) -> bytes:
        self.release.wait(PATIENCE_SECONDS)
        return caller(context).uri.encode()

    def tell(self, party: str, sequence: int, **update: object) -> None:
        """Let ``party`` hold a newer list."""
        envelope = signed(self.registrar, sequence=sequence, **update)
        TrustStore(self.states[party]).install(envelope, now=utc_now())


@pytest.fixture
def world(federation: Federation, tmp_path: Path) -> World:
    return World(federation, tmp_path)


@pytest.fixture
def served(world: World) -> Iterator[RunningServer]:
    server = start_server(world.states["aggregator"], "127.0.0.1:0", register=register(world.act))
    yield server
    world.release.set()
    server.stop()


class Stream(Protocol):
    """A running watch, as gRPC's own type stubs say it in private only."""

    def __iter__(self) -> Iterator[object]: ...
    def __next__(self) -> object: ...
    def is_active(self) -> bool: ...
    def code(self) -> grpc.StatusCode: ...


def watched(channel: grpc.Channel) -> Stream:
    stream: Stream = CoordinatorStub(channel).WatchRounds(
        WatchRoundsRequest(), timeout=PATIENCE_SECONDS
    )
    next(stream)
    return stream


def status_at_end(stream: Stream) -> grpc.StatusCode:
    with pytest.raises(grpc.RpcError):
        list(stream)
    return stream.code()


def test_a_server_ends_the_calls_of_who_is_revoked(world: World, served: RunningServer) -> None:
    large, small = world.states["large-1"], world.states["small-1"]
    with (
        open_channel(large, served.address, expected=AGGREGATOR) as first,
        open_channel(small, served.address, expected=AGGREGATOR) as second,
    ):
        ended, kept = watched(first), watched(second)
        world.tell("aggregator", 2, revocations=(revocation(large.identity),))
        assert status_at_end(ended) is grpc.StatusCode.CANCELLED
        world.release.set()
        assert len(list(kept)) == 1


def test_a_call_outlives_the_certificate_it_was_made_with_but_not_a_new_list(
    world: World, served: RunningServer
) -> None:
    """Renewal breaks no stream; who was revoked meanwhile is still known by its old certificate."""
    identity = world.states["large-1"].identity
    end = utc_now() + 4 * SECOND
    forged = forge(
        [x509.UniformResourceIdentifier(identity.uri)],
        issuer=Issuer.of_registrar(world.registrar),
        not_before=end - datetime.timedelta(days=1),
        not_after=end,
        authorities=authorities_pem(world.registrar),
    )
    credentials = grpc.ssl_channel_credentials(forged.authorities, forged.key, forged.certificate)
    options = [("grpc.ssl_target_name_override", server_name(AGGREGATOR))]
    with grpc.secure_channel(served.address, credentials, options=options) as channel:
        stream = watched(channel)
        threading.Event().wait((end + 2 * SECOND - utc_now()).total_seconds())
        world.tell("aggregator", 2, revocations=(revocation(world.states["small-1"].identity),))
        threading.Event().wait(1.5)
        assert stream.is_active()
        both = [revocation(world.states[name].identity) for name in ("small-1", "large-1")]
        world.tell("aggregator", 3, revocations=tuple(both))
        assert status_at_end(stream) is grpc.StatusCode.CANCELLED


def test_who_was_not_admitted_is_nobody() -> None:
    class Unseen:
        """A context that no interceptor has seen."""

    with pytest.raises(CallerNotAuthenticated, match="not admitted"):
        caller(Unseen())  # type: ignore[arg-type]


CALLS = [
    (call_get_charter, "large-1"),
    (call_watch_rounds, "large-1"),
    (call_contribute, "large-1"),
    (call_decrypt_sum, "aggregator"),
]


@pytest.mark.parametrize(("call", "party"), CALLS)
def test_a_channel_calls_nobody_who_is_revoked(
    world: World, served: RunningServer, call: Callable[[grpc.Channel], bytes], party: str
) -> None:
    state = world.states[party]
    world.release.set()
    with open_channel(state, served.address, expected=AGGREGATOR) as channel:
        assert call(channel) == state.identity.uri.encode()
        other = Identity(FEDERATION, Role.AGGREGATOR, "other")
        with open_channel(state, served.address, expected=other) as unused:
            world.tell(party, 2, revocations=(revocation(AGGREGATOR), revocation(other)))
            for each in (channel, unused):
                with pytest.raises(Revoked, match="was revoked and may neither call nor be"):
                    call(each)
    with pytest.raises(Revoked):
        open_channel(state, served.address, expected=AGGREGATOR)


def test_a_channel_ends_its_calls_when_their_peer_is_revoked(
    world: World, served: RunningServer
) -> None:
    state = world.states["large-1"]
    with open_channel(state, served.address, expected=AGGREGATOR) as channel:
        stream = watched(channel)
        blocked: list[BaseException] = []

        def call() -> None:
            try:
                call_get_charter(channel)
            except grpc.RpcError as error:
                blocked.append(error)

        thread = threading.Thread(target=call)
        thread.start()
        world.tell("large-1", 2, revocations=(revocation(AGGREGATOR),))
        assert status_at_end(stream) is grpc.StatusCode.CANCELLED
        thread.join(PATIENCE_SECONDS)
        assert len(blocked) == 1


def test_a_closed_channel_is_closed(world: World, served: RunningServer) -> None:
    channel = open_channel(world.states["large-1"], served.address, expected=AGGREGATOR)
    stream = watched(channel)
    channel.close()
    with pytest.raises(grpc.RpcError):
        list(stream)
    with pytest.raises(ValueError, match="closed channel"), translated_errors():
        call_get_charter(channel)


def test_a_list_that_only_was_issued_again_ends_nothing(
    world: World, served: RunningServer
) -> None:
    with open_channel(world.states["large-1"], served.address, expected=AGGREGATOR) as channel:
        stream = watched(channel)
        world.tell("aggregator", 1, **issued(utc_now()))
        threading.Event().wait(1.2)
        world.release.set()
        assert len(list(stream)) == 1
