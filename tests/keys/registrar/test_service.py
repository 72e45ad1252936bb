"""The registrar's service over mutual TLS."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest
from support.federation import FEDERATION, Federation, make_federation

from fedhelp_keys.registrar.service import EnrolmentService
from fedhelp_secure.transport.certificates import (
    generate_tls_key,
    identity_of,
    load_certificate,
    load_tls_key,
    make_request,
    own_tls_files,
)
from fedhelp_secure.transport.client import PeerRefused, open_channel, translated_errors
from fedhelp_secure.transport.identity import Identity, Role
from fedhelp_secure.transport.server import start_server
from fedhelp_secure.wire.v1 import enrolment_pb2, enrolment_pb2_grpc

REGISTRAR = Identity(FEDERATION, Role.REGISTRAR, "registrar")


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation"), large=1, small=1)


@pytest.fixture(scope="module")
def channel(federation: Federation) -> Iterator[grpc.Channel]:
    """To the registrar, as the hospital large-1."""
    registrar = federation.state("registrar")
    service = EnrolmentService(registrar)
    server = start_server(registrar, "127.0.0.1:0", register=service.register)
    with open_channel(federation.state("large-1"), server.address, expected=REGISTRAR) as opened:
        yield opened
    server.stop()


def renew(channel: grpc.Channel, request: bytes) -> bytes:
    stub = enrolment_pb2_grpc.EnrolmentStub(channel)
    with translated_errors("the registrar"):
        return stub.Renew(
            enrolment_pb2.RenewRequest(certificate_request=request), timeout=10
        ).certificate


def test_the_trust_bundle_is_the_federations(federation: Federation, channel: grpc.Channel) -> None:
    stub = enrolment_pb2_grpc.EnrolmentStub(channel)
    bundle = stub.GetTrustBundle(enrolment_pb2.GetTrustBundleRequest(), timeout=10)
    assert bundle.ca_certificates == own_tls_files(federation.state("small-1")).authorities
    assert bundle.governance_key == federation.governance_key.public.raw


def test_a_renewed_certificate_is_for_the_caller_and_the_new_key(
    federation: Federation, channel: grpc.Channel
) -> None:
    identity, key = federation.state("large-1").identity, generate_tls_key()
    certificate = load_certificate(renew(channel, make_request(identity, key)))
    assert identity_of(certificate) == identity
    assert certificate.public_key() == load_tls_key(key).public_key()


@pytest.mark.parametrize(
    "identity",
    [
        Identity(FEDERATION, Role.HOSPITAL, "small-1"),
        Identity(FEDERATION, Role.AGGREGATOR, "large-1"),
        Identity("otherfed", Role.HOSPITAL, "large-1"),
        REGISTRAR,
    ],
)
def test_nobody_renews_for_another(channel: grpc.Channel, identity: Identity) -> None:
    with pytest.raises(PeerRefused, match="must name the identity it is for") as refused:
        renew(channel, make_request(identity, generate_tls_key()))
    assert refused.value.code == "certificate-request"


@pytest.mark.parametrize("request_bytes", [b"", b"x", b"\x00" * 20_000])
def test_a_malformed_request_is_refused(channel: grpc.Channel, request_bytes: bytes) -> None:
    with pytest.raises(PeerRefused) as refused:
        renew(channel, request_bytes)
    assert refused.value.code == "certificate-request"
