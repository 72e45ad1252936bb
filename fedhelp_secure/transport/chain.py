"""Which party a chain of certificates speaks for (RFC 5280), under a federation's trust list.

Every authority of the list is a trust anchor of its own, so that its scope applies: whom it may
certify, and which subjects stand for which identities. Paths are built and checked by
`cryptography.x509.verification`; this module says what a party's certificate must look like:

- keys: ECDSA P-256 or P-384, or RSA of at least 2048 bits; SHA-256, SHA-384 or SHA-512;
- a leaf with an authority key identifier, key usage ``digitalSignature`` and extended key usage
  ``clientAuth``; no critical extension that is not understood;
- one URI name, the identity; or none, and a subject that the authority's entry maps to one.

Nothing is forgiven a clock here: TLS would not either. Authorities date certificates back instead.
"""

from __future__ import annotations

import datetime
import functools
import logging
from collections.abc import Sequence
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509 import verification
from cryptography.x509.oid import ExtendedKeyUsageOID

from fedhelp_secure.transport.certificates import (
    CertificateRefused,
    OwnCertificateUnusable,
    TlsFiles,
    check_period,
    identity_of,
    load_tls_key,
    uri_names,
)
from fedhelp_secure.transport.identity import Identity
from fedhelp_secure.trust.trust_list import Authority, TrustList

MAXIMUM_INTERMEDIATES = 4
"""Between a leaf and its trust anchor; hospital PKIs have one or two."""

MINIMUM_RSA_BITS = 2048
_CURVES = (ec.SECP256R1, ec.SECP384R1)
_HASHES = (hashes.SHA256, hashes.SHA384, hashes.SHA512)
_LOGGER = logging.getLogger(__name__)
_Kind = TypeVar("_Kind", bound=x509.ExtensionType)


def verified_identity(
    chain: Sequence[x509.Certificate], trusted: TrustList, *, now: datetime.datetime
) -> Identity:
    """The identity that ``chain`` (leaf first, then intermediates in any order) speaks for.

    Whether it is of the caller's federation, and revoked, is not asked here. Raises
    CertificateRefused with the cause.
    """
    if not 1 <= len(chain) <= 1 + MAXIMUM_INTERMEDIATES:
        raise CertificateRefused(
            f"a certificate must come with at most {MAXIMUM_INTERMEDIATES} intermediates."
        )
    leaf, intermediates = chain[0], list(chain[1:])
    try:
        for certificate in chain:
            check_period(certificate, now)
            check_strength(certificate)
        _check_leaf(leaf)
        return _named_by(_anchors(leaf, intermediates, trusted, now), leaf)
    except (ValueError, UnsupportedAlgorithm, x509.DuplicateExtension) as error:
        raise CertificateRefused("a certificate's contents are malformed.") from error


def check_own_certificate(
    identity: Identity, files: TlsFiles, trusted: TrustList, *, now: datetime.datetime
) -> x509.Certificate:
    """The leaf in ``files``; raises OwnCertificateUnusable unless it may be used.

    It must be verified under ``trusted`` as ``identity`` and hold the key in ``files``: what a peer
    would refuse without a word is said here in a sentence. In the last fifth of its life, when
    automatic renewal has failed or there is none, the log says so.
    """
    try:
        chain = load_chain(files.certificate)
    except CertificateRefused as error:
        raise OwnCertificateUnusable(
            "this party's certificate cannot be read; enrol it again."
        ) from error
    if chain[0].public_key() != load_tls_key(files.key).public_key():
        raise OwnCertificateUnusable(
            "this party's certificate is for another TLS key; make a new request and enrol again."
        )
    try:
        named = verified_identity(chain, trusted, now=now)
    except CertificateRefused as error:
        raise OwnCertificateUnusable(
            f"this party's own certificate cannot be used: {error} Check the clock, then run "
            "'fedhelp enrol request' and have the registrar enrol it again."
        ) from error
    if named != identity:
        raise OwnCertificateUnusable(
            "this party's certificate names another identity; install its own bundle."
        )
    _warn_before_end(chain[0], now)
    return chain[0]


def load_chain(pem: bytes) -> list[x509.Certificate]:
    """The certificates in ``pem``, at least one; raises CertificateRefused."""
    try:
        return x509.load_pem_x509_certificates(pem)
    except (ValueError, x509.InvalidVersion) as error:
        raise CertificateRefused("a certificate is not X.509 in PEM; enrol again.") from error


def roots_for(trusted: TrustList, expected: Identity) -> bytes:
    """PEM of the authorities that may certify ``expected``: all that a caller of it may believe.

    Raises CertificateRefused if there is none (gRPC would believe the operating system's then).
    """
    certificates = [entry.certificate for entry in trusted.authorities if _may(entry, expected)]
    if not certificates:
        raise CertificateRefused(
            f"no authority of the trust list may certify {expected}; ask the registrar."
        )
    return "\n".join(certificates).encode("ascii")


def check_strength(certificate: x509.Certificate) -> None:
    """Raises CertificateRefused unless key and signature are of a kind that is taken here."""
    key = certificate.public_key()
    strong = (isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, _CURVES)) or (
        isinstance(key, rsa.RSAPublicKey) and key.key_size >= MINIMUM_RSA_BITS
    )
    if not strong:
        raise CertificateRefused(
            "a certificate's key is weak or of an unknown kind; use ECDSA P-256 or P-384, or RSA "
            f"of at least {MINIMUM_RSA_BITS} bits."
        )
    if not isinstance(certificate.signature_hash_algorithm, _HASHES):
        raise CertificateRefused(
            "a certificate's signature is weak or of an unknown kind; use SHA-256 or longer."
        )


def _warn_before_end(leaf: x509.Certificate, now: datetime.datetime) -> None:
    begin, end = leaf.not_valid_before_utc, leaf.not_valid_after_utc
    if now > begin + (end - begin) * 4 / 5:
        _say_end(end, now.date())


@functools.lru_cache(maxsize=16)
def _say_end(end: datetime.datetime, _day: datetime.date) -> None:
    """Once a day: a party looks at its certificate for every connection that it opens."""
    _LOGGER.warning(
        "this party's certificate ends at %s: find out why it was not renewed, or install the "
        "next one with 'fedhelp enrol own-certificate' if its authority is your own",
        end.isoformat(),
    )


def _check_leaf(leaf: x509.Certificate) -> None:
    # The library checks all this too, but calls every cause by one name.
    extensions = leaf.extensions
    constraints = _extension(extensions, x509.BasicConstraints)
    usage = _extension(extensions, x509.KeyUsage)
    extended = _extension(extensions, x509.ExtendedKeyUsage)
    if (constraints is not None and constraints.ca) or (usage is not None and usage.key_cert_sign):
        raise CertificateRefused("an authority's certificate cannot stand for a party.")
    if usage is None or not usage.digital_signature:
        raise CertificateRefused("a certificate lacks the key usage digitalSignature.")
    if extended is None or ExtendedKeyUsageOID.CLIENT_AUTH not in extended:
        raise CertificateRefused("a certificate lacks the extended key usage clientAuth.")
    if len(uri_names(leaf)) > 1:
        raise CertificateRefused(
            "a certificate must hold exactly one URI name; ask the registrar for another."
        )


def _anchors(
    leaf: x509.Certificate,
    intermediates: list[x509.Certificate],
    trusted: TrustList,
    now: datetime.datetime,
) -> list[Authority]:
    """The authorities that a path leads to from ``leaf``; raises CertificateRefused if none."""
    issuers = {certificate.issuer for certificate in (leaf, *intermediates)}
    found, cause = [], "it is from no authority of this federation."
    for authority in trusted.authorities:
        anchor = x509.load_pem_x509_certificate(authority.certificate.encode("ascii"))
        if anchor.subject not in issuers:
            continue
        try:
            check_period(anchor, now)
            _verifier(anchor, now).verify(leaf, intermediates)
        except CertificateRefused:
            cause = "its authority's own certificate has expired or is not valid yet."
        except verification.VerificationError as error:
            cause = f"{error}."
        else:
            found.append(authority)
    if not found:
        raise CertificateRefused(f"a certificate's chain is refused: {cause}")
    return found


def _verifier(anchor: x509.Certificate, now: datetime.datetime) -> verification.ClientVerifier:
    agnostic = verification.Criticality.AGNOSTIC
    # The web's profile, except for the names: ours are URIs, or subjects that the list maps.
    leaf_policy = (
        verification.ExtensionPolicy.webpki_defaults_ee()
        .may_be_present(x509.SubjectAlternativeName, agnostic, None)
        .require_present(x509.KeyUsage, agnostic, None)
        .require_present(x509.ExtendedKeyUsage, agnostic, None)
    )
    authority_policy = verification.ExtensionPolicy.webpki_defaults_ca()
    return (
        verification.PolicyBuilder()
        .store(verification.Store([anchor]))
        .time(now)
        .max_chain_depth(MAXIMUM_INTERMEDIATES)
        .extension_policies(ca_policy=authority_policy, ee_policy=leaf_policy)
        .build_client_verifier()
    )


def _named_by(anchors: Sequence[Authority], leaf: x509.Certificate) -> Identity:
    """The one identity that ``leaf`` has under ``anchors``; one that admits it is enough."""
    identities, refused = set(), CertificateRefused("no authority names this certificate.")
    for authority in anchors:
        try:
            identities.add(_identity_under(authority, leaf))
        except CertificateRefused as error:
            refused = error
    if not identities:
        raise refused
    if len(identities) > 1:
        raise CertificateRefused("a certificate stands for two parties, under two authorities.")
    return identities.pop()


def _identity_under(authority: Authority, leaf: x509.Certificate) -> Identity:
    """Whom ``leaf`` speaks for if ``authority`` signed it; raises CertificateRefused if nobody."""
    mapped = authority.subjects.get(leaf.subject.rfc4514_string())
    if mapped is not None and not uri_names(leaf):
        identity = Identity.from_uri(mapped)
    else:
        identity = identity_of(leaf)
    if mapped not in (None, identity.uri):
        raise CertificateRefused(
            "a certificate's subject stands for one party and its URI name for another."
        )
    if not _may(authority, identity):
        raise CertificateRefused(
            f"the authority of a certificate may not certify {identity}; ask the registrar."
        )
    return identity


def _may(authority: Authority, identity: Identity) -> bool:
    return authority.identities is None or identity.uri in authority.identities


def _extension(extensions: x509.Extensions, kind: type[_Kind]) -> _Kind | None:
    try:
        return extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None
