from __future__ import annotations

import datetime
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID
from support.certificates import Issuer, forge
from support.federation import FEDERATION, Federation

from fedhelp_secure.state import StateDirectory, StateError, write_atomically
from fedhelp_secure.transport.certificates import (
    REQUEST_LIMIT_BYTES,
    CertificateRefused,
    CertificateRequestRefused,
    OwnCertificateUnusable,
    TlsFiles,
    check_period,
    generate_tls_key,
    identity_of,
    load_certificate,
    make_request,
    open_request,
    own_tls_files,
    replace_tls_pair,
    server_name,
    tls_key_of,
    utc_now,
)
from fedhelp_secure.transport.chain import check_own_certificate
from fedhelp_secure.transport.identity import Identity, Role
from fedhelp_secure.trust.store import TrustStore

HOSPITAL = Identity(FEDERATION, Role.HOSPITAL, "large-1")
DAY = datetime.timedelta(days=1)
PEM = serialization.Encoding.PEM


def test_the_server_name_is_a_host_name_whatever_the_identity() -> None:
    longest = Identity("f" * 63, Role.AGGREGATOR, "n" * 63)
    assert server_name(HOSPITAL) == "large-1.hospital.testfed.fedhelp.internal"
    assert len(server_name(longest)) <= 253


def test_a_request_gives_the_key_it_was_made_for() -> None:
    pem = generate_tls_key()
    key = open_request(make_request(HOSPITAL, pem), HOSPITAL)
    private = serialization.load_pem_private_key(pem, password=None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    assert key == private.public_key()


def _request(
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey,
    *names: x509.GeneralName,
) -> bytes:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, algorithm).public_bytes(PEM)


def _bad_requests() -> dict[str, bytes]:
    uri = x509.UniformResourceIdentifier(HOSPITAL.uri)
    other = x509.UniformResourceIdentifier("spiffe://testfed/hospital/large-2")
    key = ec.generate_private_key(ec.SECP256R1())
    good = make_request(HOSPITAL, generate_tls_key())
    der = bytearray(x509.load_pem_x509_csr(good).public_bytes(serialization.Encoding.DER))
    der[-1] ^= 1
    return {
        "empty": b"",
        "no pem": b"hello",
        "a certificate": good.replace(b"CERTIFICATE REQUEST", b"CERTIFICATE"),
        "too long": good + b" " * REQUEST_LIMIT_BYTES,
        "signature of another key": x509.load_der_x509_csr(bytes(der)).public_bytes(PEM),
        "no name": _request(key),
        "another name": _request(key, other),
        "two names": _request(key, uri, other),
        "a host name too": _request(key, uri, x509.DNSName("aggregator.testfed")),
        "P-384": _request(ec.generate_private_key(ec.SECP384R1()), uri),
        "Ed25519": _request(ed25519.Ed25519PrivateKey.generate(), uri),
        "RSA": _request(rsa.generate_private_key(public_exponent=65537, key_size=2048), uri),
    }


BAD_REQUESTS = _bad_requests()


@pytest.mark.parametrize("case", sorted(BAD_REQUESTS))
def test_bad_requests_are_refused(case: str) -> None:
    with pytest.raises(CertificateRequestRefused):
        open_request(BAD_REQUESTS[case], HOSPITAL)


def test_a_request_for_one_identity_does_not_serve_another() -> None:
    request = make_request(HOSPITAL, generate_tls_key())
    with pytest.raises(CertificateRequestRefused, match="must name the identity"):
        open_request(request, Identity(FEDERATION, Role.AUDITOR, "large-1"))


def test_an_issued_certificate_speaks_for_its_party(federation: Federation) -> None:
    for state in federation.states.values():
        trusted = TrustStore(state).current()
        files = own_tls_files(state)
        certificate = check_own_certificate(state.identity, files, trusted, now=utc_now())
        assert identity_of(certificate) == state.identity


@pytest.mark.parametrize(
    ("shift", "valid"), [(-2 * DAY, False), (-DAY, True), (DAY, True), (2 * DAY, False)]
)
def test_a_certificate_is_good_in_its_period(shift: datetime.timedelta, valid: bool) -> None:
    now = utc_now()
    files = forge([], issuer=None, not_before=now - DAY, not_after=now + DAY)
    certificate = load_certificate(files.certificate)
    if valid:
        check_period(certificate, now + shift)
    else:
        with pytest.raises(
            CertificateRefused, match="has expired" if shift > DAY else "is not valid yet"
        ):
            check_period(certificate, now + shift)


def test_a_certificate_with_malformed_extensions_is_refused(federation: Federation) -> None:
    now = utc_now()
    name = x509.UniformResourceIdentifier(HOSPITAL.uri)
    files = forge([name], issuer=None, not_before=now - DAY, not_after=now + DAY)
    certificate = load_certificate(files.certificate)
    der = certificate.public_bytes(serialization.Encoding.DER)
    # The tag of the URI name becomes one that GeneralName does not have.
    length = bytes([len(HOSPITAL.uri)])
    mutated = der.replace(b"\x86" + length + b"spiffe", b"\x9f" + length + b"spiffe")
    assert mutated != der
    with pytest.raises(CertificateRefused):
        identity_of(x509.load_der_x509_certificate(mutated))


def test_own_certificates_that_cannot_work_are_named(
    federation: Federation, tmp_path: Path
) -> None:
    now = utc_now()
    good = own_tls_files(federation.state("large-1"))
    trusted = TrustStore(federation.state("large-1")).current()
    other = own_tls_files(federation.state("small-1"))
    issuer = Issuer.of_registrar(federation.state("registrar"))
    name = x509.UniformResourceIdentifier(HOSPITAL.uri)
    old = forge(
        [name],
        issuer=issuer,
        not_before=now - 2 * DAY,
        not_after=now - DAY,
        authorities=good.authorities,
    )
    alone = forge(
        [name], issuer=None, not_before=now - DAY, not_after=now + DAY, authorities=good.authorities
    )
    for files, sentence in (
        (TlsFiles(good.key, b"x", good.authorities), "cannot be read"),
        (TlsFiles(b"x", good.certificate, good.authorities), "not a PKCS#8 key"),
        (TlsFiles(other.key, good.certificate, good.authorities), "another TLS key"),
        (TlsFiles(other.key, other.certificate, good.authorities), "another identity"),
        (alone, "from no authority of this federation"),
        (old, "expired"),
    ):
        with pytest.raises(OwnCertificateUnusable, match=sentence):
            check_own_certificate(HOSPITAL, files, trusted, now=now)
    assert "PRIVATE" not in repr(good)


def test_the_tls_key_is_made_once_and_for_the_owner_only(tmp_path: Path) -> None:
    state = StateDirectory.create(tmp_path / "state", HOSPITAL)
    first = tls_key_of(state)
    assert tls_key_of(state) == first
    assert stat.S_IMODE(state.tls_key_path.stat().st_mode) == 0o600
    assert stat.S_IMODE(state.tls_key_path.parent.stat().st_mode) == 0o700
    with pytest.raises(StateError, match="enrol this party again"):
        own_tls_files(state)


@pytest.mark.parametrize("left", [{"key", "certificate"}, {"certificate"}, {"key"}, set()])
def test_a_replacement_that_was_cut_short_is_finished_or_never_was(
    federation: Federation, tmp_path: Path, left: set[str]
) -> None:
    state = StateDirectory.create(tmp_path / "state", HOSPITAL)
    replace_tls_pair(state, b"old key", b"old certificate")
    registrar = federation.state("registrar")
    write_atomically(state.governance_key_path, registrar.governance_key_path.read_bytes())
    write_atomically(TrustStore(state).path, TrustStore(registrar).path.read_bytes())
    directory = state.tls_key_path.parent
    if "key" in left:
        (directory / "next-key.pem").write_bytes(b"new key")
    elif "certificate" in left:
        state.tls_key_path.write_bytes(b"new key")
    if "certificate" in left:
        (directory / "next-certificate.pem").write_bytes(b"new certificate")
    files = own_tls_files(state)
    expected = "new" if "certificate" in left else "old"
    assert files.key == f"{expected} key".encode()
    assert files.certificate == f"{expected} certificate".encode()
