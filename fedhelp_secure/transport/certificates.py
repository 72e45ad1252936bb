"""TLS keys, certificate requests, and the identity that a certificate speaks for (RFC 5280).

A party's certificate holds exactly one URI name, its identity (``spiffe://federation/role/name``,
as in the SPIFFE X.509-SVID standard), and one DNS name, `server_name`, which TLS clients know how
to check. Keys are ECDSA P-256.
"""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedhelp_secure.errors import ConfigurationError, MalformedMessage, PeerError
from fedhelp_secure.keystore import pkcs8
from fedhelp_secure.keystore.files import exclusive, make_directory
from fedhelp_secure.state import StateDirectory, write_atomically
from fedhelp_secure.transport.identity import Identity
from fedhelp_secure.trust.store import TrustStore

DNS_SUFFIX = "fedhelp.internal"
"""The last labels of every server name; ``internal`` is reserved for private use (ICANN 2024)."""

_BOTH_ENDS = (ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH)
_LEAF_USAGE = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=False,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)

REQUEST_LIMIT_BYTES = 16 * 1024
"""A PKCS#10 request in PEM is a few hundred bytes; nothing longer is parsed."""


class CertificateRefused(PeerError):
    """A certificate does not name one party of this federation, or is outside its period."""

    code = "certificate"


class CertificateRequestRefused(PeerError):
    """A PKCS#10 request is malformed, unproven, of another key type or for another identity."""

    code = "certificate-request"


class OwnCertificateUnusable(ConfigurationError):
    """This party's own certificate has expired, or does not belong to its key and federation."""

    code = "own-certificate"


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """What TLS needs of one party, in PEM. The repr shows no key."""

    key: bytes
    certificate: bytes
    """The leaf, then any intermediates; all of them go into the handshake."""
    authorities: bytes
    """Every authority of the trust list: whom a server lets begin a handshake."""

    def __repr__(self) -> str:
        return "TlsFiles(...)"


def server_name(identity: Identity) -> str:
    """The DNS name in ``identity``'s certificate: ``name.role.federation.fedhelp.internal``."""
    return f"{identity.name}.{identity.role.value}.{identity.federation}.{DNS_SUFFIX}"


def generate_tls_key() -> bytes:
    """A new ECDSA P-256 key, unencrypted PKCS#8 PEM; for `StateDirectory.write_secret`."""
    return pkcs8.encoded(ec.generate_private_key(ec.SECP256R1()))


def tls_key_of(state: StateDirectory) -> bytes:
    """The unencrypted PEM of ``state``'s TLS key, which is made on first use."""
    if not state.tls_key_path.exists():
        state.write_secret(state.tls_key_path, generate_tls_key())
    return pkcs8.decrypted(state.read_secret(state.tls_key_path))


def load_tls_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    """The private key in ``pem``; raises OwnCertificateUnusable unless it is ECDSA P-256."""
    try:
        return pkcs8.p256(pem)
    except MalformedMessage as error:
        raise OwnCertificateUnusable(
            "tls/key.pem is not a PKCS#8 key of the kind ECDSA P-256; enrol this party again."
        ) from error


def make_request(identity: Identity, key_pem: bytes, *, for_any_authority: bool = False) -> bytes:
    """A PKCS#10 request (PEM) for ``identity``, signed with the key: proof of its possession.

    The registrar adds the server's name and the usages; ``for_any_authority`` asks for them, so
    that another authority only has to copy.
    """
    named: list[x509.GeneralName] = [x509.UniformResourceIdentifier(identity.uri)]
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, identity.name)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    if for_any_authority:
        named.append(x509.DNSName(server_name(identity)))
        builder = (
            builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_LEAF_USAGE, critical=True)
            .add_extension(x509.ExtendedKeyUsage(_BOTH_ENDS), critical=False)
        )
    request = builder.add_extension(x509.SubjectAlternativeName(named), critical=False).sign(
        load_tls_key(key_pem), hashes.SHA256()
    )
    return request.public_bytes(serialization.Encoding.PEM)


def open_request(pem: bytes, expected: Identity) -> ec.EllipticCurvePublicKey:
    """The public key that ``pem`` asks a certificate for.

    Raises CertificateRequestRefused unless it is a PKCS#10 request, signed by its own P-256 key,
    whose only name is ``expected``'s URI.
    """
    if len(pem) > REQUEST_LIMIT_BYTES:
        raise CertificateRequestRefused("a certificate request is too long; make it again.")
    try:
        request = x509.load_pem_x509_csr(pem)
        key = request.public_key()
        names = _names(request.extensions)
        proven = request.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise CertificateRequestRefused(
            "a certificate request is not PKCS#10 in PEM; make it again."
        ) from error
    if not proven:
        raise CertificateRequestRefused(
            "a certificate request is not signed by its own key; make it again."
        )
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise CertificateRequestRefused("a certificate request must be for an ECDSA P-256 key.")
    if names != ([expected.uri], 1):
        raise CertificateRequestRefused(
            "a certificate request must name the identity it is for, and no other; make it again."
        )
    return key


def load_certificate(pem: bytes) -> x509.Certificate:
    """The certificate in ``pem``; raises CertificateRefused if it is none."""
    try:
        return x509.load_pem_x509_certificate(pem)
    except (ValueError, x509.InvalidVersion) as error:
        raise CertificateRefused("a certificate is not X.509 in PEM; enrol again.") from error


def identity_of(certificate: x509.Certificate) -> Identity:
    """The one identity that ``certificate`` names.

    Raises CertificateRefused if it has no URI name, several, or one of another form: a certificate
    that could be read as two parties speaks for neither.
    """
    uris = uri_names(certificate)
    if len(uris) != 1:
        raise CertificateRefused(
            "a certificate must hold exactly one URI name; ask the registrar for another."
        )
    try:
        return Identity.from_uri(uris[0])
    except MalformedMessage as error:
        raise CertificateRefused(
            "a certificate's URI name is no identity of a federation; ask for another."
        ) from error


def uri_names(certificate: x509.Certificate) -> list[str]:
    """The URI names of ``certificate``; raises CertificateRefused if it cannot be read."""
    try:
        return _names(certificate.extensions)[0]
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise CertificateRefused("a certificate's extensions are malformed.") from error


def check_period(certificate: x509.Certificate, now: datetime.datetime) -> None:
    """Raises CertificateRefused unless ``now`` (aware, UTC) lies in the certificate's period."""
    if now < certificate.not_valid_before_utc:
        raise CertificateRefused("a certificate is not valid yet; check the clock of both sides.")
    if now > certificate.not_valid_after_utc:
        raise CertificateRefused("a certificate has expired; renew it, and check the clock.")


def own_tls_files(state: StateDirectory) -> TlsFiles:
    """The TLS key, certificate and authorities of ``state``; raises StateError if one is missing.

    Finishes a replacement that a crash cut short, and never pairs the key of one with the
    certificate of another, also while another thread or process replaces them.
    """
    with _locked_pair(state):
        _finish_replacement(state)
        certificate = state.read(state.tls_certificate_path)
        key = pkcs8.decrypted(state.read_secret(state.tls_key_path))
    trusted = TrustStore(state).current()
    authorities = "\n".join(entry.certificate for entry in trusted.authorities)
    return TlsFiles(key, certificate, authorities.encode("ascii"))


def replace_tls_pair(state: StateDirectory, key: bytes, certificate: bytes) -> None:
    """Put a new key and its certificate in the place of the present ones: both or neither."""
    next_key, next_certificate = _next_paths(state)
    with _locked_pair(state):
        state.write_secret(next_key, key)
        # From here on the replacement happens, by us or, after a crash, by whoever reads next.
        write_atomically(next_certificate, certificate)
        _finish_replacement(state)


@contextlib.contextmanager
def _locked_pair(state: StateDirectory) -> Iterator[None]:
    directory = state.tls_key_path.parent
    make_directory(directory)
    with exclusive(directory):
        yield


def _next_paths(state: StateDirectory) -> tuple[Path, Path]:
    directory = state.tls_key_path.parent
    return directory / "next-key.pem", directory / "next-certificate.pem"


def _finish_replacement(state: StateDirectory) -> None:
    next_key, next_certificate = _next_paths(state)
    if not next_certificate.exists():
        return
    # A missing file was moved before a crash. A change of the passphrase waits.
    with state.secrets_turn():
        with contextlib.suppress(FileNotFoundError):
            os.replace(next_key, state.tls_key_path)
        with contextlib.suppress(FileNotFoundError):
            os.replace(next_certificate, state.tls_certificate_path)


def utc_now() -> datetime.datetime:
    """The present time, aware, without microseconds (X.509 has none)."""
    return datetime.datetime.now(datetime.UTC).replace(microsecond=0)


def _names(extensions: x509.Extensions) -> tuple[list[str], int]:
    """The URI names, and how many names there are of any kind."""
    try:
        found = extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return [], 0
    names = found.value
    return names.get_values_for_type(x509.UniformResourceIdentifier), len(list(names))
