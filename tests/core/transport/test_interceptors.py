"""All four kinds of handler are guarded, and only the catalogue's words reach the wire."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import dataclass, field

import grpc
import pytest
from support.federation import FEDERATION, Federation
from support.services import (
    call_contribute,
    call_decrypt_sum,
    call_get_charter,
    call_watch_rounds,
    register,
)

from fedhelp_secure.errors import (
    ConfigurationError,
    InternalError,
    MalformedMessage,
    PolicyError,
    UnavailablePeer,
)
from fedhelp_secure.transport.catalogue import GENERIC_SENTENCE
from fedhelp_secure.transport.certificates import own_tls_files, server_name
from fedhelp_secure.transport.client import PeerRefused, open_channel, translated_errors
from fedhelp_secure.transport.identity import Identity, Role
from fedhelp_secure.transport.limits import MESSAGE_BYTES
from fedhelp_secure.transport.server import RunningServer, caller, start_server
from fedhelp_secure.wire.v1 import coordinator_pb2, coordinator_pb2_grpc, enrolment_pb2_grpc
from fedhelp_secure.wire.v1.enrolment_pb2 import GetTrustBundleRequest

AGGREGATOR = Identity(FEDERATION, Role.AGGREGATOR, "aggregator")
Call = Callable[[grpc.Channel], bytes]
UNLIMITED = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]

# Each kind of handler, a role that may call it and one that may not.
KINDS: list[tuple[Call, str, str]] = [
    (call_watch_rounds, "auditor", "broker"),
    (call_contribute, "large-1", "auditor"),
    (call_decrypt_sum, "aggregator", "large-1"),
]
EVERY_CALL = [(call_get_charter, "broker"), *((call, allowed) for call, allowed, _ in KINDS)]


@dataclass(slots=True)
class Behaviour:
    """What the servicers do, set by each test."""

    act: Callable[[grpc.ServicerContext], bytes]
    calls: list[str] = field(default_factory=list)

    def __call__(self, context: grpc.ServicerContext) -> bytes:
        self.calls.append(str(caller(context)))
        return self.act(context)


@pytest.fixture(scope="module")
def behaviour() -> Behaviour:
    return Behaviour(lambda _: b"done")


@pytest.fixture(scope="module")
def served(federation: Federation, behaviour: Behaviour) -> Iterator[RunningServer]:
    server = start_server(
        federation.state("aggregator"), "127.0.0.1:0", register=register(behaviour)
    )
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def _fresh(behaviour: Behaviour) -> None:
    behaviour.act = lambda _: b"done"
    behaviour.calls.clear()


@pytest.fixture
def invoke(federation: Federation, served: RunningServer) -> Callable[[Call, str], bytes]:
    def run(call: Call, party: str) -> bytes:
        with (
            open_channel(federation.state(party), served.address, expected=AGGREGATOR) as channel,
            translated_errors("the aggregator"),
        ):
            return call(channel)

    return run


@pytest.mark.parametrize(("call", "party"), EVERY_CALL)
def test_an_allowed_caller_is_served(
    invoke: Callable[[Call, str], bytes], behaviour: Behaviour, call: Call, party: str
) -> None:
    assert invoke(call, party) == b"done"
    assert behaviour.calls[0].endswith(f"/{party}")


@pytest.mark.parametrize(("call", "party"), [(call, denied) for call, _, denied in KINDS])
def test_a_wrong_role_never_reaches_the_servicer(
    invoke: Callable[[Call, str], bytes], behaviour: Behaviour, call: Call, party: str
) -> None:
    with pytest.raises(PeerRefused, match="may not call") as refused:
        invoke(call, party)
    assert refused.value.code == "access"
    assert behaviour.calls == []


@pytest.mark.parametrize(("call", "party"), EVERY_CALL)
@pytest.mark.parametrize("kind", [MalformedMessage, PolicyError])
def test_a_refusal_keeps_its_sentence_and_code(
    invoke: Callable[[Call, str], bytes],
    behaviour: Behaviour,
    call: Call,
    party: str,
    kind: type[MalformedMessage],
) -> None:
    def act(_: grpc.ServicerContext) -> bytes:
        raise kind("send it again, with ü.")

    behaviour.act = act
    with pytest.raises(PeerRefused) as refused:
        invoke(call, party)
    assert (refused.value.code, str(refused.value)) == (kind.code, "send it again, with ü.")


@pytest.mark.parametrize(("call", "party"), EVERY_CALL)
@pytest.mark.parametrize("kind", [ValueError, InternalError, ConfigurationError, grpc.RpcError])
def test_a_fault_of_our_own_is_told_in_general_and_logged_exactly(
    invoke: Callable[[Call, str], bytes],
    behaviour: Behaviour,
    call: Call,
    party: str,
    kind: type[Exception],
    caplog: pytest.LogCaptureFixture,
) -> None:
    def act(_: grpc.ServicerContext) -> bytes:
        raise kind("inside /srv/state")

    behaviour.act = act
    with caplog.at_level(logging.ERROR), pytest.raises(PeerRefused) as refused:
        invoke(call, party)
    assert str(refused.value) == GENERIC_SENTENCE
    assert refused.value.code == getattr(kind, "code", "internal")
    assert "inside /srv/state" in caplog.text


def test_what_is_unavailable_behind_a_server_may_be_tried_again(
    invoke: Callable[[Call, str], bytes], behaviour: Behaviour
) -> None:
    def act(_: grpc.ServicerContext) -> bytes:
        raise UnavailablePeer("the decryptor is down; try again.")

    behaviour.act = act
    with pytest.raises(UnavailablePeer, match="the decryptor is down"):
        invoke(call_get_charter, "large-1")


def _send_long(channel: grpc.Channel) -> bytes:
    stub = coordinator_pb2_grpc.CoordinatorStub(channel)
    part = coordinator_pb2.ContributeRequest(ciphertext_chunk=bytes(MESSAGE_BYTES + 1))
    return stub.Contribute(iter([part]), timeout=10).receipt.entry


def test_a_message_of_four_mebibytes_passes(
    invoke: Callable[[Call, str], bytes], behaviour: Behaviour
) -> None:
    assert MESSAGE_BYTES == 4 * 1024 * 1024
    behaviour.act = lambda _: bytes(MESSAGE_BYTES - 100)
    assert len(invoke(call_get_charter, "large-1")) == MESSAGE_BYTES - 100


def test_our_client_neither_sends_nor_takes_more(federation: Federation) -> None:
    state, files = federation.state("large-1"), own_tls_files(federation.state("aggregator"))
    # A server without our limits, which would send and take anything.
    server = grpc.server(futures.ThreadPoolExecutor(2), options=UNLIMITED)
    register(lambda _: bytes(MESSAGE_BYTES + 1))(server)
    credentials = grpc.ssl_server_credentials(
        [(files.key, files.certificate)], files.authorities, require_client_auth=True
    )
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    try:
        with open_channel(state, f"127.0.0.1:{port}", expected=AGGREGATOR) as channel:
            for call in (call_get_charter, _send_long):
                with (
                    pytest.raises(PeerRefused, match="RESOURCE_EXHAUSTED"),
                    translated_errors("the aggregator"),
                ):
                    call(channel)
    finally:
        server.stop(None).wait()


def test_our_server_neither_sends_nor_takes_more(
    federation: Federation, served: RunningServer, behaviour: Behaviour
) -> None:
    behaviour.act = lambda _: bytes(MESSAGE_BYTES + 1)
    files = own_tls_files(federation.state("large-1"))
    credentials = grpc.ssl_channel_credentials(files.authorities, files.key, files.certificate)
    # A client without our limits, which would send and take anything.
    options = [*UNLIMITED, ("grpc.ssl_target_name_override", server_name(AGGREGATOR))]
    with grpc.secure_channel(served.address, credentials, options=options) as channel:
        with (
            pytest.raises(PeerRefused, match="RESOURCE_EXHAUSTED"),
            translated_errors("the aggregator"),
        ):
            call_get_charter(channel)
        behaviour.calls.clear()
        behaviour.act = lambda _: b"taken"
        with (
            pytest.raises(PeerRefused, match="RESOURCE_EXHAUSTED"),
            translated_errors("the aggregator"),
        ):
            _send_long(channel)


def test_a_service_that_is_not_registered_is_unimplemented(
    invoke: Callable[[Call, str], bytes],
) -> None:
    def call(channel: grpc.Channel) -> bytes:
        stub = enrolment_pb2_grpc.EnrolmentStub(channel)
        return stub.GetTrustBundle(GetTrustBundleRequest(), timeout=10).governance_key

    with pytest.raises(PeerRefused, match="UNIMPLEMENTED"):
        invoke(call, "large-1")


def test_a_caller_that_goes_away_is_no_fault(
    federation: Federation,
    served: RunningServer,
    behaviour: Behaviour,
    caplog: pytest.LogCaptureFixture,
) -> None:
    state = federation.state("large-1")
    with (
        caplog.at_level(logging.ERROR),
        open_channel(state, served.address, expected=AGGREGATOR) as channel,
    ):
        stub = coordinator_pb2_grpc.CoordinatorStub(channel)
        watch = stub.WatchRounds(coordinator_pb2.WatchRoundsRequest(), timeout=10)
        next(watch)
        watch.cancel()
        assert call_get_charter(channel) == b"done"
    assert caplog.text == ""
