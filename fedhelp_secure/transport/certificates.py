"""TLS keys, certificate requests, and the identity that a certificate speaks for (RFC 5280).

A party's certificate holds exactly one URI name, its identity (``spiffe://federation/role/name``,
as in the SPIFFE X.509-SVID standard), and one DNS name, `server_name`, which TLS clients know how
to check. Keys are ECDSA P-256.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fedhelp_secure.errors import ConfigurationError, MalformedMessage, PeerError
from fedhelp_secure.state import StateDirectory, write_atomically
from fedhelp_secure.transport.identity import Identity

DNS_SUFFIX = "fedhelp.internal"
"""The last labels of every server name; ``internal`` is reserved for private use (ICANN 2024)."""

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
    authorities: bytes

    def __repr__(self) -> str:
        return "TlsFiles(...)"


def server_name(identity: Identity) -> str:
    """The DNS name in ``identity``'s certificate: ``name.role.federation.fedhelp.internal``."""
    return f"{identity.name}.{identity.role.value}.{identity.federation}.{DNS_SUFFIX}"


def generate_tls_key() -> bytes:
    """A new ECDSA P-256 key, unencrypted PKCS#8 PEM; write it only with owner-only permissions."""
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def tls_key_of(state: StateDirectory) -> bytes:
    """The PEM of ``state``'s TLS key, which is made on first use."""
    if not state.tls_key_path.exists():
        write_atomically(state.tls_key_path, generate_tls_key())
    return state.read(state.tls_key_path)


def load_tls_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    """The private key in ``pem``; raises OwnCertificateUnusable unless it is ECDSA P-256."""
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as error:
        raise OwnCertificateUnusable(
            "tls/key.pem is not a PKCS#8 key; enrol this party again."
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise OwnCertificateUnusable("tls/key.pem is not an ECDSA P-256 key; enrol again.")
    return key


def make_request(identity: Identity, key_pem: bytes) -> bytes:
    """A PKCS#10 request (PEM) for ``identity``, signed with the key: proof of its possession."""
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(identity.uri)])
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, identity.name)])
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(subject)
        .add_extension(names, critical=False)
        .sign(load_tls_key(key_pem), hashes.SHA256())
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
    except ValueError as error:
        raise CertificateRefused("a certificate is not X.509 in PEM; enrol again.") from error


def identity_of(certificate: x509.Certificate) -> Identity:
    """The one identity that ``certificate`` names.

    Raises CertificateRefused if it has no URI name, several, or one of another form: a certificate
    that could be read as two parties speaks for neither.
    """
    try:
        uris, _ = _names(certificate.extensions)
    except ValueError as error:
        raise CertificateRefused("a certificate's extensions are malformed.") from error
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


def check_period(certificate: x509.Certificate, now: datetime.datetime) -> None:
    """Raises CertificateRefused unless ``now`` (aware, UTC) lies in the certificate's period."""
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        raise CertificateRefused(
            "a certificate has expired or is not valid yet; renew it, and check the clock."
        )


def check_own_certificate(
    identity: Identity, files: TlsFiles, *, now: datetime.datetime
) -> x509.Certificate:
    """The certificate in ``files``; raises OwnCertificateUnusable unless it may be used.

    It must name ``identity``, hold the key in ``files``, be signed by an authority in ``files`` and
    be in its period: what a peer would refuse without a word is said here in a sentence.
    """
    try:
        certificate = load_certificate(files.certificate)
        named = identity_of(certificate)
        authorities = x509.load_pem_x509_certificates(files.authorities)
    except (CertificateRefused, ValueError) as error:
        raise OwnCertificateUnusable(
            "this party's certificate cannot be read; enrol it again."
        ) from error
    if named != identity:
        raise OwnCertificateUnusable(
            "this party's certificate names another identity; install its own bundle."
        )
    if certificate.public_key() != load_tls_key(files.key).public_key():
        raise OwnCertificateUnusable(
            "this party's certificate is for another TLS key; make a new request and enrol again."
        )
    _check_issuer(certificate, authorities)
    try:
        check_period(certificate, now)
    except CertificateRefused as error:
        raise OwnCertificateUnusable(
            "this party's certificate has expired or is not valid yet: check the clock, then run "
            "'fedhelp enrol request' and have the registrar enrol it again."
        ) from error
    return certificate


def own_tls_files(state: StateDirectory) -> TlsFiles:
    """The three TLS files of ``state``; raises StateError if one is missing.

    Finishes a replacement that a crash cut short, and never pairs the key of one with the
    certificate of another, also while another thread or process replaces them.
    """
    with _locked_pair(state):
        _finish_replacement(state)
        return TlsFiles(
            key=state.read(state.tls_key_path),
            certificate=state.read(state.tls_certificate_path),
            authorities=state.read(state.ca_path),
        )


def replace_tls_pair(state: StateDirectory, key: bytes, certificate: bytes) -> None:
    """Put a new key and its certificate in the place of the present ones: both or neither."""
    next_key, next_certificate = _next_paths(state)
    with _locked_pair(state):
        write_atomically(next_key, key)
        # From here on the replacement happens, by us or, after a crash, by whoever reads next.
        write_atomically(next_certificate, certificate)
        _finish_replacement(state)


@contextlib.contextmanager
def _locked_pair(state: StateDirectory) -> Iterator[None]:
    directory = state.tls_key_path.parent
    directory.mkdir(mode=0o700, exist_ok=True)
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _next_paths(state: StateDirectory) -> tuple[Path, Path]:
    directory = state.tls_key_path.parent
    return directory / "next-key.pem", directory / "next-certificate.pem"


def _finish_replacement(state: StateDirectory) -> None:
    next_key, next_certificate = _next_paths(state)
    if not next_certificate.exists():
        return
    # A missing file was moved before a crash.
    with contextlib.suppress(FileNotFoundError):
        os.replace(next_key, state.tls_key_path)
    with contextlib.suppress(FileNotFoundError):
        os.replace(next_certificate, state.tls_certificate_path)


def utc_now() -> datetime.datetime:
    """The present time, aware, without microseconds (X.509 has none)."""
    return datetime.datetime.now(datetime.UTC).replace(microsecond=0)


def _check_issuer(certificate: x509.Certificate, authorities: list[x509.Certificate]) -> None:
    for authority in authorities:
        try:
            certificate.verify_directly_issued_by(authority)
        except (ValueError, TypeError, InvalidSignature):
            continue
        return
    raise OwnCertificateUnusable(
        "this party's certificate is not from its federation's authority; enrol it again."
    )


def _names(extensions: x509.Extensions) -> tuple[list[str], int]:
    """The URI names, and how many names there are of any kind."""
    try:
        found = extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return [], 0
    names = found.value
    return names.get_values_for_type(x509.UniformResourceIdentifier), len(list(names))
