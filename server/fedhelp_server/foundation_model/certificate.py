"""A self-signed certificate for a foundation model on this machine, to be pinned by the broker."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedhelp_secure.state import write_atomically
from fedhelp_secure.transport.certificates import utc_now

LIFETIME = datetime.timedelta(days=30)
_BACKDATE = datetime.timedelta(minutes=5)


def make_certificate(directory: Path) -> tuple[Path, Path]:
    """Write ``certificate.pem`` and ``key.pem`` (owner-only) to ``directory``; their paths.

    ECDSA P-256, for localhost, 127.0.0.1 and ::1 only, server authentication only, 30 days. It may
    sign nothing: whoever trusts it trusts this one server.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    certificate_path, key_path = directory / "certificate.pem", directory / "key.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    write_atomically(key_path, private)
    certificate = _certificate(key)
    write_atomically(
        certificate_path, certificate.public_bytes(serialization.Encoding.PEM), mode=0o644
    )
    return certificate_path, key_path


def _certificate(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    addresses = [ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("::1")]
    names: list[x509.GeneralName] = [x509.DNSName("localhost")]
    names += [x509.IPAddress(address) for address in addresses]
    now = utc_now()
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATE)
        .not_valid_after(now + LIFETIME)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA256())
    )
