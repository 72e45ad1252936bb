"""The federation's certificate authority (RFC 5280): one root, which signs parties' certificates.

The root's key lies in the registrar's state, or in a token, and never leaves it. Leaves live as
long as the registrar's policy says, 30 days at most, so that a party that is not renewed is soon
out.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedhelp_keys.registrar.policy import RegistrarPolicy, load_policy, save_policy
from fedhelp_secure.enrolment.bundle import Issued
from fedhelp_secure.enrolment.lifetimes import BACKDATING
from fedhelp_secure.state import SignerUse, StateDirectory, write_atomically
from fedhelp_secure.transport.certificates import (
    generate_tls_key,
    load_tls_key,
    replace_tls_pair,
    server_name,
)
from fedhelp_secure.transport.identity import Identity, Role
from fedhelp_secure.trust.trust_list import DEFAULT_MAXIMUM_AGE_SECONDS

ROOT_LIFETIME = datetime.timedelta(days=1826)

REGISTRAR_NAME = "registrar"


class CertificateAuthority:
    """The root key and certificate of one federation, kept in a registrar's state."""

    def __init__(self, state: StateDirectory, key: ec.EllipticCurvePrivateKey, root: bytes) -> None:
        self._state = state
        self._federation = state.identity.federation
        self._key = key
        self._root = x509.load_pem_x509_certificate(root)
        self.root_pem = root

    def __repr__(self) -> str:
        return f"CertificateAuthority({self._federation!r})"

    @classmethod
    def create(cls, state: StateDirectory, *, now: datetime.datetime) -> CertificateAuthority:
        """A new root for ``state``'s federation."""
        state.signer(SignerUse.AUTHORITY).make()
        write_atomically(state.ca_path, _make_root(state.identity, state.authority_key(), now))
        return cls.open(state)

    @classmethod
    def open(cls, state: StateDirectory) -> CertificateAuthority:
        """The authority in ``state``; raises StateError if its files are missing."""
        return cls(state, state.authority_key(), state.read(state.ca_path))

    def issue(
        self, identity: Identity, key: ec.EllipticCurvePublicKey, *, now: datetime.datetime
    ) -> Issued:
        """A certificate for ``identity`` and ``key``, for both ends of TLS, from ``now`` on."""
        # Read each time: a change of the policy needs no restart.
        lifetime = load_policy(self._state).certificate_lifetime
        names = x509.SubjectAlternativeName(
            [x509.UniformResourceIdentifier(identity.uri), x509.DNSName(server_name(identity))]
        )
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
        builder = (
            _begin(_subject(self._federation, identity.name), self._root.subject, key)
            .not_valid_before(now - BACKDATING)
            .not_valid_after(min(now + lifetime, self._root.not_valid_after_utc))
            .add_extension(names, critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(_authority_key_identifier(self._key.public_key()), critical=False)
        )
        certificate = builder.sign(self._key, hashes.SHA256())
        return Issued(certificate.public_bytes(serialization.Encoding.PEM), self.root_pem)


def found_federation(
    root: Path,
    federation: str,
    *,
    now: datetime.datetime,
    policy: RegistrarPolicy | None = None,
    signers: Mapping[SignerUse, str] | None = None,
    trust_list_seconds: int = DEFAULT_MAXIMUM_AGE_SECONDS,
) -> StateDirectory:
    """Make a registrar's state at ``root``: authority, governance key, and its own certificate.

    The governance key is the registrar's signing key. ``signers`` are URIs of either key that is
    not to lie in the state; ``trust_list_seconds`` is the age that a trust list may have. Raises
    StateError if ``root`` is in use, MalformedMessage if ``federation`` is no label,
    RevocationRefused for an age out of range, and what a signer raises that cannot be had.
    """
    identity = Identity(federation, Role.REGISTRAR, REGISTRAR_NAME)
    state = StateDirectory.create(root, identity, signers=signers)
    save_policy(state, policy or RegistrarPolicy())
    CertificateAuthority.create(state, now=now)
    governance_key = state.signing_key().public.to_base64()
    write_atomically(state.governance_key_path, governance_key.encode("ascii") + b"\n")
    # Not above: the trust list's module reads the authority.
    from fedhelp_keys.registrar.trust import found_trust_list

    found_trust_list(state, now=now, maximum_age_seconds=trust_list_seconds)
    renew_own_certificate(state, now=now)
    return state


def renew_own_certificate(state: StateDirectory, *, now: datetime.datetime) -> None:
    """Issue the registrar's own certificate, for a new TLS key."""
    key = generate_tls_key()
    public = load_tls_key(key).public_key()
    issued = CertificateAuthority.open(state).issue(state.identity, public, now=now)
    replace_tls_pair(state, key, issued.certificate)


def _make_root(
    identity: Identity, key: ec.EllipticCurvePrivateKey, now: datetime.datetime
) -> bytes:
    subject = _subject(identity.federation, "fedhelp-secure root")
    builder = (
        _begin(subject, subject, key.public_key())
        .not_valid_before(now - BACKDATING)
        .not_valid_after(now + ROOT_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
    )
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


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


def _authority_key_identifier(key: ec.EllipticCurvePublicKey) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(key)


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
