"""Certificates that the product's authority would never issue, signed by its key all the same."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fedhelp_secure.state import StateDirectory, write_atomically
from fedhelp_secure.transport.certificates import TlsFiles, generate_tls_key, load_tls_key
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
        return cls(x509.load_pem_x509_certificate(registrar.ca_path.read_bytes()), key)


def install(state: StateDirectory, files: TlsFiles, *, registrar: StateDirectory) -> None:
    """Put ``files``, and what ``registrar`` gives to everybody, into ``state`` as they are."""
    for path, data in (
        (state.tls_key_path, files.key),
        (state.tls_certificate_path, files.certificate),
        (state.ca_path, files.authorities),
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
    """A certificate with ``names`` for a new key, by ``issuer`` (None: signed by itself)."""
    pem = generate_tls_key()
    key = load_tls_key(pem)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "forged")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before)
        .not_valid_after(not_after)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    certificate = builder.sign(key if issuer is None else issuer.key, hashes.SHA256())
    return TlsFiles(pem, certificate.public_bytes(serialization.Encoding.PEM), authorities)
