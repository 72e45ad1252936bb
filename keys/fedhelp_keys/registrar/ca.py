"""The federation's certificate authority (RFC 5280): it signs parties' certificates.

It is a root of its own, or an intermediate of a hospital's PKI; either way it is the trust anchor
itself. There may be several generations: a new one signs as soon as every party must know it. Keys
lie in the registrar's state, or in a token, and never leave it. Leaves live as long as the
registrar's policy says, 30 days at most, so that a party that is not renewed is soon out.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedhelp_keys.registrar.generations import (
    OWN_FILE,
    AuthorityKey,
    Founding,
    add_generation,
    authority_key,
    check_founding,
    generation_at,
    new_key,
)
from fedhelp_keys.registrar.policy import RegistrarPolicy, load_policy, save_policy
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
    """The authority of one federation as it signs at one time."""

    def __init__(
        self, state: StateDirectory, key: AuthorityKey, certificate: x509.Certificate
    ) -> None:
        self._state = state
        self._federation = state.identity.federation
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

        Raises StateError if its files are missing, and what its signer raises.
        """
        moment = datetime.datetime.now(datetime.UTC) if now is None else now
        chosen = generation_at(state, moment)
        certificate = x509.load_pem_x509_certificate(chosen.certificate.encode("ascii"))
        return cls(state, authority_key(state, chosen), certificate)

    def issue(
        self, identity: Identity, key: ec.EllipticCurvePublicKey, *, now: datetime.datetime
    ) -> bytes:
        """A certificate (PEM) for ``identity`` and ``key``, for both ends of TLS, from now on."""
        # Read each time: a change of the policy needs no restart.
        lifetime = load_policy(self._state).certificate_lifetime
        names = x509.SubjectAlternativeName(
            [x509.UniformResourceIdentifier(identity.uri), x509.DNSName(server_name(identity))]
        )
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
        builder = (
            _begin(_subject(self._federation, identity.name), self.certificate.subject, key)
            .not_valid_before(now - BACKDATING)
            .not_valid_after(min(now + lifetime, self.certificate.not_valid_after_utc))
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
    policy: RegistrarPolicy | None = None,
    authority: Founding | str = OWN_FILE,
    signers: Mapping[SignerUse, str] | None = None,
    trust_list_seconds: int = DEFAULT_MAXIMUM_AGE_SECONDS,
) -> StateDirectory:
    """Make a registrar's state at ``root``: authority, governance key, and its own certificate.

    ``authority`` is one that is brought along, or the URI of a new root's key. The governance key
    is the registrar's signing key; ``signers`` are URIs of keys that are not to lie in the state.
    ``trust_list_seconds`` is the age that a trust list may have. Raises StateError if ``root`` is
    in use, MalformedMessage if ``federation`` is no label, AuthorityUnusable, RevocationRefused for
    an age out of range, and what a signer raises that cannot be had.
    """
    identity = Identity(federation, Role.REGISTRAR, REGISTRAR_NAME)
    # First: what cannot be had leaves nothing behind.
    if isinstance(authority, str):
        founding = new_root(identity, now, signer=authority)
    else:
        founding = authority
        check_founding(founding, now)
    state = StateDirectory.create(root, identity, signers=signers)
    save_policy(state, policy or RegistrarPolicy())
    add_generation(state, founding, now=now, signs_from=now)
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
    certificate = CertificateAuthority.open(state, now=now).issue(state.identity, public, now=now)
    replace_tls_pair(state, key, certificate)


def new_root(identity: Identity, now: datetime.datetime, *, signer: str = OWN_FILE) -> Founding:
    """A new root for ``identity``'s federation, its key where the URI ``signer`` says."""
    key, key_pem = new_key(signer)
    subject = _subject(identity.federation, "fedhelp-secure root")
    builder = (
        _begin(subject, subject, key.public_key())
        .not_valid_before(now - BACKDATING)
        .not_valid_after(now + ROOT_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
    )
    certificate = builder.sign(key, hashes.SHA256())
    return Founding(certificate.public_bytes(serialization.Encoding.PEM), key_pem, signer)


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
