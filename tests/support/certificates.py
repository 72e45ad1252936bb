"""Certificates that the product's authority would never issue, and other PKIs than its own."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedhelp_keys.registrar.ca import CertificateAuthority
from fedhelp_secure.state import StateDirectory, write_atomically
from fedhelp_secure.transport.certificates import (
    TlsFiles,
    generate_tls_key,
    load_tls_key,
    own_tls_files,
)
from fedhelp_secure.transport.chain import check_own_certificate
from fedhelp_secure.trust.store import TrustStore


@dataclass(frozen=True, slots=True)
class Issuer:
    """A certificate and the key that signs for it."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def of_registrar(cls, registrar: StateDirectory) -> Issuer:
        """The federation's own authority."""
        key = load_tls_key((registrar.role_directory() / "ca-key.pem").read_bytes())
        return cls(CertificateAuthority.open(registrar).certificate, key)


def authorities_pem(state: StateDirectory) -> bytes:
    """The certificates of all authorities that ``state`` trusts."""
    trusted = TrustStore(state).current()
    return "".join(entry.certificate for entry in trusted.authorities).encode("ascii")


def check_own(state: StateDirectory, now: datetime.datetime) -> None:
    """Raises unless ``state``'s own certificate is one that its federation takes at ``now``."""
    trusted = TrustStore(state).current()
    check_own_certificate(state.identity, own_tls_files(state), trusted, now=now)


def install(state: StateDirectory, files: TlsFiles, *, registrar: StateDirectory) -> None:
    """Put ``files``, and what ``registrar`` gives to everybody, into ``state`` as they are."""
    for path, data in (
        (state.tls_key_path, files.key),
        (state.tls_certificate_path, files.certificate),
        (state.governance_key_path, registrar.governance_key_path.read_bytes()),
        (TrustStore(state).path, TrustStore(registrar).path.read_bytes()),
    ):
        write_atomically(path, data)


def forge(
    names: Sequence[x509.GeneralName],
    *,
    issuer: Issuer | None,
    not_before: datetime.datetime,
    not_after: datetime.datetime,
    authorities: bytes = b"",
) -> TlsFiles:
    """A certificate with ``names`` for a new key, by ``issuer`` (None: signed by itself).

    Its key usages are those of a party's certificate.
    """
    pem = generate_tls_key()
    key = load_tls_key(pem)
    signing = (key if issuer is None else issuer.key).public_key()
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(signing)
    usages = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "forged")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before)
        .not_valid_after(not_after)
        .add_extension(identifier, critical=False)
        .add_extension(key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    certificate = builder.sign(key if issuer is None else issuer.key, hashes.SHA256())
    return TlsFiles(pem, certificate.public_bytes(serialization.Encoding.PEM), authorities)


def key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    """Of an authority, or of a party."""
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
