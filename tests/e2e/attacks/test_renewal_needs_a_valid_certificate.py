"""Attack: a certificate is renewed by somebody who has none that is valid, or for another name."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Iterator

import grpc
import pytest
from cryptography import x509
from support.certificates import Issuer, authorities_pem, forge
from support.registrar import ServedRegistrar, running_registrar

from fedhelp_keys.registrar.ca import CertificateAuthority, found_federation
from fedhelp_keys.registrar.registry import enrol
from fedhelp_secure.enrolment.bundle import install_bundle
from fedhelp_secure.enrolment.lifetimes import DEFAULT_LIFETIME
from fedhelp_secure.enrolment.request import make_request as enrolment_request
from fedhelp_secure.state import StateDirectory
from fedhelp_secure.transport.certificates import (
    TlsFiles,
    generate_tls_key,
    load_tls_key,
    make_request,
    own_tls_files,
    server_name,
    utc_now,
)
from fedhelp_secure.transport.identity import Identity, Role
from fedhelp_secure.wire.v1 import enrolment_pb2, enrolment_pb2_grpc

HOSPITAL = Identity("testfed", Role.HOSPITAL, "small-1")
DAY = datetime.timedelta(days=1)
SECOND = datetime.timedelta(seconds=1)
Make = Callable[[ServedRegistrar, StateDirectory], TlsFiles | None]


@pytest.fixture(scope="module")
def registrar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedRegistrar]:
    with running_registrar(tmp_path_factory.mktemp("registrar")) as served:
        yield served


@pytest.fixture(scope="module")
def hospital(
    registrar: ServedRegistrar, tmp_path_factory: pytest.TempPathFactory
) -> StateDirectory:
    state = StateDirectory.create(tmp_path_factory.mktemp("hospital") / "state", HOSPITAL)
    bundle = enrol(registrar.state, enrolment_request(state), group="small", now=utc_now())
    install_bundle(state, bundle, now=utc_now())
    return state


def connect(registrar: ServedRegistrar, files: TlsFiles | None, address: str) -> grpc.Channel:
    """An attacker's channel: it checks the server, and says of itself what it likes."""
    credentials = grpc.ssl_channel_credentials(
        authorities_pem(registrar.state),
        None if files is None else files.key,
        None if files is None else files.certificate,
    )
    options = [("grpc.ssl_target_name_override", server_name(registrar.state.identity))]
    return grpc.secure_channel(address, credentials, options=options)


def renew(channel: grpc.Channel, identity: Identity = HOSPITAL) -> bytes:
    """The new certificate for ``identity``; raises grpc.RpcError."""
    request = make_request(identity, generate_tls_key())
    stub = enrolment_pb2_grpc.EnrolmentStub(channel)
    return stub.Renew(
        enrolment_pb2.RenewRequest(certificate_request=request), timeout=15
    ).certificate


def refused(channel: grpc.Channel, identity: Identity = HOSPITAL) -> tuple[object, str]:
    """Status and our code of a renewal that must not succeed."""
    with pytest.raises(grpc.RpcError) as caught:
        renew(channel, identity)
    assert isinstance(caught.value, grpc.Call)
    metadata = dict(caught.value.trailing_metadata() or ())
    return caught.value.code(), str(metadata.get("fedhelp-code", ""))


def of_age(
    registrar: ServedRegistrar, hospital: StateDirectory, age: datetime.timedelta
) -> TlsFiles:
    """The hospital's certificate as if it had been issued so long ago."""
    files = own_tls_files(hospital)
    key = load_tls_key(files.key).public_key()
    authority = CertificateAuthority.open(registrar.state)
    issued = authority.issue(HOSPITAL, key, now=utc_now() - age)
    return TlsFiles(files.key, issued, files.authorities)


def expired(registrar: ServedRegistrar, hospital: StateDirectory) -> TlsFiles:
    return of_age(registrar, hospital, DEFAULT_LIFETIME + 2 * SECOND)


def not_yet_valid(registrar: ServedRegistrar, hospital: StateDirectory) -> TlsFiles:
    return of_age(registrar, hospital, -DAY)


def foreign(_: ServedRegistrar, hospital: StateDirectory) -> TlsFiles:
    other = found_federation(hospital.root.parent / "foreign", "testfed", now=utc_now())
    return own_tls_files(other)


def forged_by(issuer: Issuer | None) -> TlsFiles:
    names = [x509.UniformResourceIdentifier(HOSPITAL.uri)]
    return forge(names, issuer=issuer, not_before=utc_now() - DAY, not_after=utc_now() + DAY)


def self_signed(_: ServedRegistrar, __: StateDirectory) -> TlsFiles:
    return forged_by(None)


def signed_by_a_party(_: ServedRegistrar, hospital: StateDirectory) -> TlsFiles:
    leaf = own_tls_files(hospital)
    issuer = Issuer(x509.load_pem_x509_certificate(leaf.certificate), load_tls_key(leaf.key))
    forged = forged_by(issuer)
    return TlsFiles(forged.key, forged.certificate + leaf.certificate, b"")


def none(_: ServedRegistrar, __: StateDirectory) -> None:
    return None


def test_the_renewal_of_these_tests_works_with_a_valid_certificate(
    registrar: ServedRegistrar, hospital: StateDirectory
) -> None:
    with connect(registrar, own_tls_files(hospital), registrar.address) as channel:
        assert renew(channel).startswith(b"-----BEGIN CERTIFICATE-----")


@pytest.mark.parametrize(
    "make", [expired, not_yet_valid, foreign, self_signed, signed_by_a_party, none]
)
def test_without_a_valid_certificate_there_is_not_even_a_connection(
    registrar: ServedRegistrar, hospital: StateDirectory, make: Make
) -> None:
    with connect(registrar, make(registrar, hospital), registrar.address) as channel:
        assert refused(channel) == (grpc.StatusCode.UNAVAILABLE, "")


def test_a_connection_that_outlives_its_certificate_renews_nothing(
    registrar: ServedRegistrar, hospital: StateDirectory
) -> None:
    files = of_age(registrar, hospital, DEFAULT_LIFETIME - 6 * SECOND)
    end = x509.load_pem_x509_certificate(files.certificate).not_valid_after_utc
    with connect(registrar, files, registrar.address) as channel:
        assert renew(channel)
        while utc_now() <= end:
            time.sleep(0.1)
        assert refused(channel) == (
            grpc.StatusCode.UNAUTHENTICATED,
            "caller-not-authenticated",
        )


@pytest.mark.parametrize(
    "other",
    [
        Identity("testfed", Role.HOSPITAL, "large-1"),
        Identity("testfed", Role.REGISTRAR, "registrar"),
        Identity("testfed", Role.AGGREGATOR, "small-1"),
        Identity("abroad", Role.HOSPITAL, "small-1"),
    ],
)
def test_a_party_renews_its_own_identity_alone(
    registrar: ServedRegistrar, hospital: StateDirectory, other: Identity
) -> None:
    with connect(registrar, own_tls_files(hospital), registrar.address) as channel:
        assert refused(channel, other) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            "certificate-request",
        )


def test_a_certificate_of_nobody_in_the_registry_renews_nothing(
    registrar: ServedRegistrar, hospital: StateDirectory
) -> None:
    stranger = Identity("testfed", Role.HOSPITAL, "stranger")
    issuer = Issuer.of_registrar(registrar.state)
    names = [x509.UniformResourceIdentifier(stranger.uri)]
    files = forge(names, issuer=issuer, not_before=utc_now() - DAY, not_after=utc_now() + DAY)
    with connect(registrar, files, registrar.address) as channel:
        assert refused(channel, stranger) == (grpc.StatusCode.FAILED_PRECONDITION, "enrolment")


def test_the_port_without_client_certificates_renews_nothing(
    registrar: ServedRegistrar, hospital: StateDirectory
) -> None:
    for files in (None, own_tls_files(hospital)):
        with connect(registrar, files, registrar.join_address) as channel:
            assert refused(channel) == (grpc.StatusCode.UNIMPLEMENTED, "")
