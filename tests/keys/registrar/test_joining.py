"""The join port over real sockets: one call, one refusal, and a limit on failures."""

from __future__ import annotations

import importlib
import logging
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from support.certificates import authorities_pem, check_own

import fedhelp_secure.wire.v1
from fedhelp_keys.registrar import joining
from fedhelp_keys.registrar.ca import found_federation, renew_own_certificate
from fedhelp_keys.registrar.invitations import Invitations
from fedhelp_keys.registrar.joining import (
    MAXIMUM_FAILURES,
    FailureLimit,
    JoiningService,
    JoinRefused,
    TooManyFailures,
    peer_address,
)
from fedhelp_secure.enrolment.joining import (
    JoinOptions,
    WrongRegistrar,
    fetch_root,
    fingerprint,
    join,
)
from fedhelp_secure.enrolment.lifetimes import DEFAULT_LIFETIME
from fedhelp_secure.enrolment.request import make_request
from fedhelp_secure.errors import FedHelpError, UnavailablePeer
from fedhelp_secure.state import StateDirectory
from fedhelp_secure.transport.certificates import (
    load_certificate,
    server_name,
    utc_now,
)
from fedhelp_secure.transport.client import PeerRefused
from fedhelp_secure.transport.identity import Identity, Role
from fedhelp_secure.transport.joining import start_join_server
from fedhelp_secure.transport.server import ListenFailed, RunningServer
from fedhelp_secure.wire.v1 import enrolment_pb2, enrolment_pb2_grpc

HOSPITAL = Identity("testfed", Role.HOSPITAL, "small-1")


@pytest.fixture
def registrar(tmp_path: Path) -> StateDirectory:
    return found_federation(tmp_path / "registrar", "testfed", now=utc_now())


@pytest.fixture
def served(registrar: StateDirectory) -> Iterator[RunningServer]:
    server = start(registrar, "127.0.0.1:0")
    yield server
    server.stop()


def start(registrar: StateDirectory, listen: str) -> RunningServer:
    """The registrar's join port, as ``fedhelp keys serve`` opens it."""
    return start_join_server(registrar, listen, register=JoiningService(registrar).register)


@pytest.fixture
def channel(registrar: StateDirectory, served: RunningServer) -> Iterator[grpc.Channel]:
    """As an attacker's: without certificate, and without our client's checks."""
    options = [("grpc.ssl_target_name_override", server_name(registrar.identity))]
    credentials = grpc.ssl_channel_credentials(authorities_pem(registrar))
    with grpc.secure_channel(served.address, credentials, options=options) as opened:
        yield opened


def root_fingerprint(registrar: StateDirectory) -> str:
    return fingerprint(load_certificate(authorities_pem(registrar)))


def invited(registrar: StateDirectory) -> str:
    made = Invitations(registrar).invite(HOSPITAL, "small", now=utc_now(), valid=DEFAULT_LIFETIME)
    return made.text


def refusal(channel: grpc.Channel, token: str, request: bytes) -> tuple[object, ...]:
    """Everything that the wire says of a refused join."""
    stub = enrolment_pb2_grpc.JoiningStub(channel)
    with pytest.raises(grpc.RpcError) as refused:
        stub.Join(enrolment_pb2.JoinRequest(token=token, request=request), timeout=10)
    call = refused.value
    assert isinstance(call, grpc.Call)
    return call.code(), call.details(), tuple(call.trailing_metadata() or ())


def test_a_party_joins_over_the_verified_channel(
    registrar: StateDirectory, served: RunningServer, tmp_path: Path
) -> None:
    from fedhelp_secure.enrolment.token import JoinToken

    state = StateDirectory.create(tmp_path / "state", HOSPITAL)
    token = JoinToken.parse(invited(registrar))
    root = fetch_root(served.address, root_fingerprint(registrar))
    for _ in range(2):
        # The second time as if the first answer had been lost: the same request goes again.
        assert join(state, token, served.address, root) == registrar.governance_key()
    check_own(state, utc_now())


def test_every_cause_is_one_sentence_outside_and_exact_in_the_log(
    registrar: StateDirectory,
    channel: grpc.Channel,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    state = StateDirectory.create(tmp_path / "state", HOSPITAL)
    broker = StateDirectory.create(tmp_path / "b", Identity("testfed", Role.BROKER, "small-1"))
    abroad = StateDirectory.create(tmp_path / "f", Identity("abroad", Role.HOSPITAL, "small-1"))
    good, request = invited(registrar), make_request(state)
    caplog.set_level(logging.INFO)
    told = {
        refusal(channel, "x", request),
        refusal(channel, good, b"no request"),
        refusal(channel, good, make_request(broker)),
        refusal(channel, good, make_request(abroad)),
    }
    Invitations(registrar).withdraw(HOSPITAL, now=utc_now())
    told.add(refusal(channel, good, request))
    assert len(told) == 1
    (status, sentence, _), *_ = told
    assert (status, sentence) == (grpc.StatusCode.FAILED_PRECONDITION, str(JoinRefused()))
    for cause in (
        "unknown",
        "not JSON",
        "came with the request",
        "another federation",
        "withdrawn",
    ):
        assert cause in caplog.text, cause
    assert "127.0.0.1" in caplog.text
    assert good.rpartition(".")[2] not in caplog.text


def _status(channel: grpc.Channel, method: str) -> object:
    call: Any = channel.stream_stream(method)
    answers = call(iter([b""]), timeout=10)
    with pytest.raises(grpc.RpcError):
        list(answers)
    return answers.code()


def test_nothing_else_is_served_there(channel: grpc.Channel) -> None:
    called = 0
    for module in pkgutil.iter_modules(fedhelp_secure.wire.v1.__path__):
        if not module.name.endswith("_pb2"):
            continue
        descriptor = importlib.import_module(f"fedhelp_secure.wire.v1.{module.name}").DESCRIPTOR
        for service in descriptor.services_by_name.values():
            for method in service.methods:
                name = f"/{service.full_name}/{method.name}"
                if name.endswith("Joining/Join"):
                    continue
                assert _status(channel, name) is grpc.StatusCode.UNIMPLEMENTED, name
                called += 1
    assert called >= 18


def test_an_address_that_fails_too_often_is_not_heard(
    registrar: StateDirectory, channel: grpc.Channel, tmp_path: Path
) -> None:
    state = StateDirectory.create(tmp_path / "state", HOSPITAL)
    good, request = invited(registrar), make_request(state)
    for _ in range(MAXIMUM_FAILURES):
        assert refusal(channel, "x", request)[0] is grpc.StatusCode.FAILED_PRECONDITION
    status, sentence, _ = refusal(channel, good, request)
    assert status is grpc.StatusCode.UNAVAILABLE
    assert "too many joins" in str(sentence)
    assert [entry.status for entry in Invitations(registrar).all()] == ["open"]


def test_failures_are_forgotten_and_their_record_is_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0
    monkeypatch.setattr("fedhelp_keys.registrar.joining.time.monotonic", lambda: now)
    limit = FailureLimit()
    for _ in range(MAXIMUM_FAILURES):
        limit.check("a")
        limit.record("a")
    with pytest.raises(TooManyFailures):
        limit.check("a")
    limit.check("b")
    now = joining.FAILURE_SECONDS + 1
    limit.check("a")
    for number in range(5000):
        limit.record(str(number))
    assert len(limit._failures) == 4096


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:10.1.2.3:4567", "10.1.2.3"),
        ("ipv6:%5B2001:db8:1:2:3:4:5:6%5D:4567", "2001:db8:1:2::/64"),
        ("ipv6:[::ffff:10.1.2.3]:4567", "10.1.2.3"),
        ("ipv6:[fe80::1%25eth0]:4567", "fe80::/64"),
        ("unix:", "unknown"),
        ("", "unknown"),
    ],
)
def test_failures_count_for_an_address_and_not_for_a_port(peer: str, address: str) -> None:
    assert peer_address(peer) == address


def test_a_long_request_is_not_read(channel: grpc.Channel) -> None:
    assert refusal(channel, "x", b"x" * 200_000)[0] is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_the_port_presents_the_renewed_certificate_and_the_root(
    registrar: StateDirectory, served: RunningServer, channel: grpc.Channel
) -> None:
    before = fetch_root(served.address, root_fingerprint(registrar))
    renew_own_certificate(registrar, now=utc_now())
    own = fingerprint(load_certificate(registrar.tls_certificate_path.read_bytes()))
    assert fetch_root(served.address, own) != before
    assert fetch_root(served.address, root_fingerprint(registrar)) == before


def test_another_fingerprint_is_not_found(served: RunningServer) -> None:
    with pytest.raises(WrongRegistrar, match="the token was not sent"):
        fetch_root(served.address, "sha256:" + "0" * 64)


@pytest.mark.parametrize(
    "text", ["", "sha256:", "0" * 64, "sha256:" + "G" * 64, "sha1:" + "0" * 40]
)
def test_a_malformed_fingerprint_is_refused_before_anything(text: str) -> None:
    with pytest.raises(JoinOptions, match="--ca-fingerprint must be"):
        fetch_root("127.0.0.1:1", text)


@pytest.mark.parametrize("address", ["", "x", "127.0.0.1:99999", "127.0.0.1:1\x1b", "-:"])
def test_a_malformed_address_is_refused(registrar: StateDirectory, address: str) -> None:
    with pytest.raises(FedHelpError, match="--registrar must have the form"):
        fetch_root(address, "sha256:" + "0" * 64)
    with pytest.raises(FedHelpError, match="--join-listen must have the form"):
        start(registrar, address)


def test_nobody_at_the_address_is_said(registrar: StateDirectory, served: RunningServer) -> None:
    with pytest.raises(UnavailablePeer, match="cannot be reached"):
        fetch_root("127.0.0.1:1", "sha256:" + "0" * 64)
    with pytest.raises(ListenFailed, match="choose a free port"):
        start(registrar, served.address)


def test_a_bundle_of_another_root_is_not_installed(
    registrar: StateDirectory, served: RunningServer, tmp_path: Path
) -> None:
    from fedhelp_keys.registrar.registry import enrol
    from fedhelp_secure.enrolment.bundle import BundleRefused, install_bundle

    other = found_federation(tmp_path / "other", "testfed", now=utc_now())
    state = StateDirectory.create(tmp_path / "state", HOSPITAL)
    bundle = enrol(other, make_request(state), group="small", now=utc_now())
    root = load_certificate(authorities_pem(registrar))
    with pytest.raises(BundleRefused, match="whose root was pinned"):
        install_bundle(state, bundle, now=utc_now(), root=root)
    assert not state.tls_certificate_path.exists()


def test_a_refused_party_is_told_what_to_do(
    registrar: StateDirectory, served: RunningServer, tmp_path: Path
) -> None:
    from fedhelp_secure.enrolment.token import JoinToken

    state = StateDirectory.create(tmp_path / "state", HOSPITAL)
    root = fetch_root(served.address, root_fingerprint(registrar))
    with pytest.raises(PeerRefused, match="ask its operator for a new one") as refused:
        join(state, JoinToken.generate(HOSPITAL, "small"), served.address, root)
    assert refused.value.code == "join"
    assert not state.tls_certificate_path.exists()
