from __future__ import annotations

import datetime
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store

from fedhelp_keys.registrar.ca import (
    CertificateAuthority,
    found_federation,
    renew_own_certificate,
)
from fedhelp_secure.enrolment.lifetimes import BACKDATING, DEFAULT_LIFETIME
from fedhelp_secure.errors import MalformedMessage
from fedhelp_secure.state import StateDirectory, StateError
from fedhelp_secure.transport.certificates import (
    identity_of,
    load_certificate,
    own_tls_files,
    server_name,
    utc_now,
)
from fedhelp_secure.transport.chain import check_own_certificate
from fedhelp_secure.transport.identity import Identity, Role
from fedhelp_secure.trust.store import TrustStore

HOSPITAL = Identity("testfed", Role.HOSPITAL, "large-1")
NOW = utc_now()


@pytest.fixture(scope="module")
def registrar(tmp_path_factory: pytest.TempPathFactory) -> StateDirectory:
    return found_federation(tmp_path_factory.mktemp("registrar") / "state", "testfed", now=NOW)


@pytest.fixture(scope="module")
def issued(registrar: StateDirectory) -> x509.Certificate:
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    files = CertificateAuthority.open(registrar).issue(HOSPITAL, key, now=NOW)
    return load_certificate(files)


def test_a_certificate_lives_thirty_days_and_forgives_slow_clocks(
    issued: x509.Certificate,
) -> None:
    assert datetime.timedelta(days=30) == DEFAULT_LIFETIME
    assert datetime.timedelta(minutes=5) == BACKDATING
    assert issued.not_valid_before_utc == NOW - BACKDATING
    assert issued.not_valid_after_utc == NOW + DEFAULT_LIFETIME


def test_a_certificate_names_the_identity_twice_and_nothing_else(issued: x509.Certificate) -> None:
    names = issued.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(names) == [
        x509.UniformResourceIdentifier("spiffe://testfed/hospital/large-1"),
        x509.DNSName("large-1.hospital.testfed.fedhelp.internal"),
    ]
    assert identity_of(issued) == HOSPITAL


def test_a_certificate_is_a_leaf_for_both_ends_of_tls(issued: x509.Certificate) -> None:
    extensions = issued.extensions
    assert not extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    usage = extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.digital_signature
    assert not usage.key_cert_sign
    extended = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(extended) == {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH}
    key = issued.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert isinstance(key.curve, ec.SECP256R1)


def test_another_implementation_verifies_the_chain(
    registrar: StateDirectory, issued: x509.Certificate
) -> None:
    root = CertificateAuthority.open(registrar).certificate
    builder = PolicyBuilder().store(Store([root])).time(NOW.replace(tzinfo=None))
    server = builder.build_server_verifier(x509.DNSName(server_name(HOSPITAL)))
    assert server.verify(issued, []) == [issued, root]
    builder.build_client_verifier().verify(issued, [])


def test_a_certificate_does_not_outlive_the_root(registrar: StateDirectory) -> None:
    root = CertificateAuthority.open(registrar).certificate
    late = root.not_valid_after_utc - datetime.timedelta(days=3)
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    files = CertificateAuthority.open(registrar).issue(HOSPITAL, key, now=late)
    assert load_certificate(files).not_valid_after_utc == root.not_valid_after_utc


def test_serial_numbers_differ(registrar: StateDirectory) -> None:
    authority = CertificateAuthority.open(registrar)
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    serials = {
        load_certificate(authority.issue(HOSPITAL, key, now=NOW)).serial_number for _ in range(5)
    }
    assert len(serials) == 5


def test_the_root_signs_leaves_only(registrar: StateDirectory) -> None:
    root = CertificateAuthority.open(registrar).certificate
    constraints = root.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert (constraints.ca, constraints.path_length) == (True, 0)
    root.verify_directly_issued_by(root)


def test_the_registrar_can_serve_and_trusts_itself(registrar: StateDirectory) -> None:
    identity = Identity("testfed", Role.REGISTRAR, "registrar")
    assert registrar.identity == identity
    trusted = TrustStore(registrar).current()
    check_own_certificate(identity, own_tls_files(registrar), trusted, now=NOW)
    assert registrar.governance_key() == registrar.signing_key().public
    later = NOW + datetime.timedelta(days=29)
    renew_own_certificate(registrar, now=later)
    check_own_certificate(
        identity, own_tls_files(registrar), trusted, now=later + datetime.timedelta(days=29)
    )


def test_secrets_are_the_owners_alone(registrar: StateDirectory) -> None:
    for path in [registrar.root, *registrar.root.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    assert "PRIVATE" not in repr(CertificateAuthority.open(registrar))


def test_a_federation_is_not_founded_over_another(registrar: StateDirectory) -> None:
    before = CertificateAuthority.open(registrar).root_pem
    with pytest.raises(StateError, match="already holds an identity"):
        found_federation(registrar.root, "second", now=NOW)
    assert CertificateAuthority.open(registrar).root_pem == before


@pytest.mark.parametrize("name", ["", "Test", "a.b", "../x", "-a", "a" * 64])
def test_a_federations_name_is_a_label(tmp_path: Path, name: str) -> None:
    with pytest.raises(MalformedMessage, match="a federation's name"):
        found_federation(tmp_path / "state", name, now=NOW)
    assert not (tmp_path / "state").exists()
