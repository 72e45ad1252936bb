"""The federation's certificate authority (RFC 5280): it signs parties' certificates.

It is a root of its own, or an intermediate of a hospital's PKI; either way it is the trust anchor
itself. There may be several generations: a new one signs as soon as every party must know it. Keys
lie in the registrar's state and never leave it. Leaves live 30 days, so that a party that is not
renewed is soon out.
"""

from __future__ import annotations

import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedhelp_keys.registrar.generations import (
    AuthorityKey,
    Founding,
    add_generation,
    check_founding,
    generation_at,
    key_path,
    load_authority_key,
)
from fedhelp_secure.state import StateDirectory, write_atomically
from fedhelp_secure.transport.certificates import (
    generate_tls_key,
    load_tls_key,
    server_name,
    tls_key_of,
)
from fedhelp_secure.transport.identity import Identity, Role
from fedhelp_secure.trust.trust_list import DEFAULT_MAXIMUM_AGE_SECONDS

LEAF_LIFETIME = datetime.timedelta(days=30)
ROOT_LIFETIME = datetime.timedelta(days=1826)
BACKDATING = datetime.timedelta(minutes=5)
"""Peers' clocks may be behind the registrar's by so much."""

REGISTRAR_NAME = "registrar"


class CertificateAuthority:
    """The authority of one federation as it signs at one time."""

    def __init__(self, federation: str, key: AuthorityKey, certificate: x509.Certificate) -> None:
        self._federation = federation
        self._key = key
        self.certificate = certificate

    def __repr__(self) -> str:
        return f"CertificateAuthority({self._federation!r})"

    @property
    def root_pem(self) -> bytes:
        """The trust anchor."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @classmethod
    def open(
        cls, state: StateDirectory, *, now: datetime.datetime | None = None
    ) -> CertificateAuthority:
        """The newest generation that signs at ``now`` (default: the present) and is published.

        Raises StateError if its files are missing.
        """
        moment = datetime.datetime.now(datetime.UTC) if now is None else now
        chosen = generation_at(state, moment)
        key = load_authority_key(state.read_secret(key_path(state, chosen)))
        certificate = x509.load_pem_x509_certificate(chosen.certificate.encode("ascii"))
        return cls(state.identity.federation, key, certificate)

    def issue(
        self, identity: Identity, key: ec.EllipticCurvePublicKey, *, now: datetime.datetime
    ) -> bytes:
        """A certificate (PEM) for ``identity`` and ``key``, for both ends of TLS, from now on."""
        names = x509.SubjectAlternativeName(
            [x509.UniformResourceIdentifier(identity.uri), x509.DNSName(server_name(identity))]
        )
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
        builder = (
            _begin(_subject(self._federation, identity.name), self.certificate.subject, key)
            .not_valid_before(now - BACKDATING)
            .not_valid_after(min(now + LEAF_LIFETIME, self.certificate.not_valid_after_utc))
            .add_extension(names, critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(_authority_key_identifier(self.certificate), critical=False)
        )
        certificate = builder.sign(self._key, hashes.SHA256())
        return certificate.public_bytes(serialization.Encoding.PEM)


def found_federation(
    root: Path,
    federation: str,
    *,
    now: datetime.datetime,
    founding: Founding | None = None,
    trust_list_seconds: int = DEFAULT_MAXIMUM_AGE_SECONDS,
) -> StateDirectory:
    """Make a registrar's state at ``root``: authority, governance key, and its own certificate.

    The authority is a new root, or ``founding``. The governance key is the registrar's signing key.
    ``trust_list_seconds`` is the age that a trust list may have. Raises StateError if ``root`` is
    in use, MalformedMessage if ``federation`` is no label, AuthorityUnusable, and RevocationRefused
    for an age out of range.
    """
    identity = Identity(federation, Role.REGISTRAR, REGISTRAR_NAME)
    if founding is not None:
        check_founding(founding, now)
    state = StateDirectory.create(root, identity)
    add_generation(state, founding or new_root(identity, now), now=now, signs_from=now)
    governance_key = state.signing_key().public.to_base64()
    write_atomically(state.governance_key_path, governance_key.encode("ascii") + b"\n")
    # Not above: the trust list's module reads the authority.
    from fedhelp_keys.registrar.trust import found_trust_list

    found_trust_list(state, now=now, maximum_age_seconds=trust_list_seconds)
    renew_own_certificate(state, now=now)
    return state


def renew_own_certificate(state: StateDirectory, *, now: datetime.datetime) -> None:
    """Issue the registrar's own certificate, for its present TLS key."""
    key = load_tls_key(tls_key_of(state)).public_key()
    certificate = CertificateAuthority.open(state, now=now).issue(state.identity, key, now=now)
    write_atomically(state.tls_certificate_path, certificate)


def new_root(identity: Identity, now: datetime.datetime) -> Founding:
    """A new root for ``identity``'s federation."""
    key_pem = generate_tls_key()
    key = load_tls_key(key_pem)
    subject = _subject(identity.federation, "fedhelp-secure root")
    builder = (
        _begin(subject, subject, key.public_key())
        .not_valid_before(now - BACKDATING)
        .not_valid_after(now + ROOT_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
    )
    certificate = builder.sign(key, hashes.SHA256())
    return Founding(certificate.public_bytes(serialization.Encoding.PEM), key_pem)


def _begin(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _subject(federation: str, name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, federation),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )


def _authority_key_identifier(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    try:
        held = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key())  # type: ignore[arg-type]
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(held)


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
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
