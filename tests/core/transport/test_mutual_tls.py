"""Whoever is not the right party does not get in, and is told so; all over real sockets."""

from __future__ import annotations

import datetime
import socket
import ssl
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from support.certificates import Issuer, forge, install
from support.federation import FEDERATION, Federation
from support.services import call_get_charter, register

from fedhelp_keys.registrar.ca import CertificateAuthority, found_federation
from fedhelp_secure.errors import UnavailablePeer
from fedhelp_secure.state import StateDirectory
from fedhelp_secure.transport.certificates import (
    OwnCertificateUnusable,
    TlsFiles,
    load_tls_key,
    own_tls_files,
    server_name,
    utc_now,
)
from fedhelp_secure.transport.client import (
    PeerNotAuthenticated,
    PeerRefused,
    open_channel,
    translated_errors,
)
from fedhelp_secure.transport.identity import Identity, Role
from fedhelp_secure.transport.server import RunningServer, caller, start_server

DAY = datetime.timedelta(days=1)
SECOND = datetime.timedelta(seconds=1)
AGGREGATOR = Identity(FEDERATION, Role.AGGREGATOR, "aggregator")
HOSPITAL = Identity(FEDERATION, Role.HOSPITAL, "large-1")
OTHER_CHANNEL = [("grpc.ssl_target_name_override", server_name(AGGREGATOR))]


@pytest.fixture(scope="module")
def served(federation: Federation) -> Iterator[RunningServer]:
    """The aggregator's server; it answers with the caller's identity."""
    server = start_server(
        federation.state("aggregator"),
        "127.0.0.1:0",
        register=register(lambda context: caller(context).uri.encode()),
    )
    yield server
    server.stop()


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> StateDirectory:
    """The registrar of another federation that calls itself by the same name."""
    return found_federation(tmp_path_factory.mktemp("foreign") / "r", FEDERATION, now=utc_now())


def raw_call(served: RunningServer, files: TlsFiles | None, authorities: bytes) -> bytes:
    """A call without our client's own checks: what an attacker's client would send."""
    credentials = grpc.ssl_channel_credentials(
        authorities,
        None if files is None else files.key,
        None if files is None else files.certificate,
    )
    with (
        grpc.secure_channel(served.address, credentials, options=OTHER_CHANNEL) as channel,
        translated_errors("the aggregator"),
    ):
        return call_get_charter(channel)


def uri(text: str) -> x509.GeneralName:
    return x509.UniformResourceIdentifier(text)


def test_an_enrolled_party_is_let_in_and_known(
    federation: Federation, served: RunningServer
) -> None:
    state = federation.state("large-1")
    with open_channel(state, served.address, expected=AGGREGATOR) as channel:
        assert call_get_charter(channel) == b"spiffe://testfed/hospital/large-1"


def test_the_raw_call_of_these_tests_works_for_a_good_certificate(
    federation: Federation, served: RunningServer
) -> None:
    files = own_tls_files(federation.state("small-1"))
    assert raw_call(served, files, files.authorities) == b"spiffe://testfed/hospital/small-1"


def expired(federation: Federation, _foreign: StateDirectory) -> TlsFiles:
    files = own_tls_files(federation.state("large-1"))
    authority = CertificateAuthority.open(federation.state("registrar"))
    key = load_tls_key(files.key).public_key()
    issued = authority.issue(HOSPITAL, key, now=utc_now() - 31 * DAY)
    return TlsFiles(files.key, issued, files.authorities)


def not_yet_valid(federation: Federation, _foreign: StateDirectory) -> TlsFiles:
    files = own_tls_files(federation.state("large-1"))
    authority = CertificateAuthority.open(federation.state("registrar"))
    key = load_tls_key(files.key).public_key()
    issued = authority.issue(HOSPITAL, key, now=utc_now() + DAY)
    return TlsFiles(files.key, issued, files.authorities)


def foreign_authority(_federation: Federation, foreign: StateDirectory) -> TlsFiles:
    files = own_tls_files(foreign)
    key = load_tls_key(files.key).public_key()
    issued = CertificateAuthority.open(foreign).issue(HOSPITAL, key, now=utc_now())
    return TlsFiles(files.key, issued, files.authorities)


def self_signed(_federation: Federation, _foreign: StateDirectory) -> TlsFiles:
    now = utc_now()
    return forge([uri(HOSPITAL.uri)], issuer=None, not_before=now - DAY, not_after=now + DAY)


def issued_by_a_leaf(federation: Federation, _foreign: StateDirectory) -> TlsFiles:
    leaf = own_tls_files(federation.state("small-1"))
    issuer = Issuer(x509.load_pem_x509_certificate(leaf.certificate), load_tls_key(leaf.key))
    now = utc_now()
    forged = forge([uri(HOSPITAL.uri)], issuer=issuer, not_before=now - DAY, not_after=now + DAY)
    return TlsFiles(forged.key, forged.certificate + leaf.certificate, b"")


def no_certificate(_federation: Federation, _foreign: StateDirectory) -> None:
    return None


@pytest.mark.parametrize(
    "make",
    [expired, not_yet_valid, foreign_authority, self_signed, issued_by_a_leaf, no_certificate],
)
def test_a_bad_client_certificate_does_not_pass_the_handshake(
    federation: Federation,
    foreign: StateDirectory,
    served: RunningServer,
    make: Callable[[Federation, StateDirectory], TlsFiles | None],
) -> None:
    authorities = own_tls_files(federation.state("large-1")).authorities
    with pytest.raises(UnavailablePeer, match="does not accept this party's certificate"):
        raw_call(served, make(federation, foreign), authorities)


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        ([], "exactly one URI name"),
        ([x509.DNSName("large-1.hospital.testfed.fedhelp.internal")], "exactly one URI name"),
        (
            [uri(HOSPITAL.uri), uri("spiffe://testfed/auditor/auditor")],
            "exactly one URI name",
        ),
        ([uri(HOSPITAL.uri), uri(HOSPITAL.uri)], "exactly one URI name"),
        ([uri("https://testfed/hospital/large-1")], "no identity of a federation"),
        ([uri("spiffe://testfed/hospital/large-1/x")], "no identity of a federation"),
        ([uri("spiffe://testfed/emperor/large-1")], "no identity of a federation"),
        ([uri("spiffe://TestFed/hospital/large-1")], "no identity of a federation"),
        ([uri("spiffe://testfed/hospital/large-1?role=auditor")], "no identity of a federation"),
    ],
)
def test_a_certificate_that_names_nobody_beyond_doubt_is_refused(
    federation: Federation, served: RunningServer, names: list[x509.GeneralName], sentence: str
) -> None:
    issuer, now = Issuer.of_registrar(federation.state("registrar")), utc_now()
    files = forge(names, issuer=issuer, not_before=now - DAY, not_after=now + DAY)
    with pytest.raises(PeerRefused, match=sentence) as refused:
        raw_call(served, files, own_tls_files(federation.state("large-1")).authorities)
    assert refused.value.code == "caller-not-authenticated"


def test_a_party_of_another_federation_is_refused_though_our_authority_signed_it(
    federation: Federation, served: RunningServer
) -> None:
    issuer, now = Issuer.of_registrar(federation.state("registrar")), utc_now()
    names = [uri("spiffe://otherfed/hospital/large-1")]
    files = forge(names, issuer=issuer, not_before=now - DAY, not_after=now + DAY)
    with pytest.raises(PeerRefused, match="serves another federation") as refused:
        raw_call(served, files, own_tls_files(federation.state("large-1")).authorities)
    assert refused.value.code == "access"


def test_a_connection_does_not_outlive_its_certificate(
    federation: Federation, served: RunningServer
) -> None:
    issuer, end = Issuer.of_registrar(federation.state("registrar")), utc_now() + 3 * SECOND
    files = forge([uri(HOSPITAL.uri)], issuer=issuer, not_before=end - DAY, not_after=end)
    authorities = own_tls_files(federation.state("large-1")).authorities
    credentials = grpc.ssl_channel_credentials(authorities, files.key, files.certificate)
    with grpc.secure_channel(served.address, credentials, options=OTHER_CHANNEL) as channel:
        assert call_get_charter(channel) == HOSPITAL.uri.encode()
        time.sleep((end + SECOND - utc_now()).total_seconds() + 0.1)
        with (
            pytest.raises(PeerRefused, match="has expired") as refused,
            translated_errors("the aggregator"),
        ):
            call_get_charter(channel)
    assert refused.value.code == "caller-not-authenticated"


def test_a_plaintext_client_gets_nothing(served: RunningServer) -> None:
    with (
        grpc.insecure_channel(served.address) as channel,
        pytest.raises(UnavailablePeer, match="cannot be reached, or ended the connection"),
        translated_errors("the aggregator"),
    ):
        call_get_charter(channel)
    with socket.create_connection(("127.0.0.1", served.port), timeout=5) as plain:
        plain.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        try:
            answer = plain.recv(4096)
        except ConnectionResetError:
            answer = b""
    # Nothing, or a TLS alert record (type 21): never an HTTP/2 frame.
    assert answer[:1] in (b"", b"\x15")


def test_the_wrong_server_is_not_believed(federation: Federation, served: RunningServer) -> None:
    state = federation.state("large-1")
    for expected in (
        Identity(FEDERATION, Role.DECRYPTOR, "decryptor"),
        Identity(FEDERATION, Role.AGGREGATOR, "other"),
        Identity("otherfed", Role.AGGREGATOR, "aggregator"),
    ):
        with (
            open_channel(state, served.address, expected=expected) as channel,
            pytest.raises(PeerNotAuthenticated, match="no valid certificate of this federation"),
            translated_errors("the aggregator"),
        ):
            call_get_charter(channel)


def test_a_server_of_a_foreign_authority_is_not_believed(
    federation: Federation, foreign: StateDirectory, tmp_path: Path
) -> None:
    impostor = StateDirectory.create(tmp_path / "impostor", AGGREGATOR)
    files = own_tls_files(foreign)
    issued = CertificateAuthority.open(foreign).issue(
        AGGREGATOR, load_tls_key(files.key).public_key(), now=utc_now()
    )
    own = TlsFiles(files.key, issued, files.authorities)
    install(impostor, own, registrar=foreign)
    server = start_server(impostor, "127.0.0.1:0", register=register(lambda _: b""))
    try:
        with (
            open_channel(
                federation.state("large-1"), server.address, expected=AGGREGATOR
            ) as channel,
            pytest.raises(PeerNotAuthenticated),
            translated_errors("the aggregator"),
        ):
            call_get_charter(channel)
    finally:
        server.stop()


def test_our_own_expired_certificate_is_named_before_anyone_is_called(
    federation: Federation, foreign: StateDirectory, tmp_path: Path
) -> None:
    files = expired(federation, foreign)
    state = StateDirectory.create(tmp_path / "hospital", HOSPITAL)
    install(state, files, registrar=federation.state("registrar"))
    with pytest.raises(OwnCertificateUnusable, match="a certificate has expired"):
        open_channel(state, "127.0.0.1:1", expected=AGGREGATOR)
    with pytest.raises(OwnCertificateUnusable, match="a certificate has expired"):
        start_server(state, "127.0.0.1:0", register=register(lambda _: b""))


def handshake(served: RunningServer, state: StateDirectory, version: ssl.TLSVersion) -> bytes:
    """Shake hands with exactly this version of TLS; the server's first HTTP/2 frame."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=own_tls_files(state).authorities.decode())
    context.load_cert_chain(state.tls_certificate_path, state.tls_key_path)
    context.set_alpn_protocols(["h2"])
    # So that it is the server that refuses old versions, not this client's own library.
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = version
        context.maximum_version = version
    with (
        socket.create_connection(("127.0.0.1", served.port), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname=server_name(AGGREGATOR)) as wrapped,
    ):
        wrapped.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        return wrapped.recv(9)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_present_versions_of_tls_are_spoken(
    federation: Federation, served: RunningServer, version: ssl.TLSVersion
) -> None:
    assert len(handshake(served, federation.state("large-1"), version)) == 9


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_old_versions_of_tls_are_refused_by_the_server(
    federation: Federation, served: RunningServer, version: ssl.TLSVersion
) -> None:
    # The end of the connection, not "no protocols available": this client would have spoken it.
    with pytest.raises(ssl.SSLEOFError):
        handshake(served, federation.state("large-1"), version)
